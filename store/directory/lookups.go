package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/pool"
)

// lookups queries the database. A lookups is the [cache.Source] of the cache.
type lookups struct {
	db          *sqlx.DB
	servers     *pool.Servers
	timeout     time.Duration
	attempts    int
	connections int // maximum number of connections of db
	tokens      lane
	sessions    lane
	oauthTokens lane
}

func newLookups(db *sqlx.DB, s *pool.Servers, c Config) *lookups {
	// Each failed attempt removes a dead connection from the pool or from the [pool.Dialer]. Together, they keep at most
	// MaxOpenConnections + pool.MaxDials connections. One more attempt is allowed, and this attempt gets a new connection.
	q := &lookups{db: db, servers: s, timeout: c.LookupTimeout, attempts: c.MaxOpenConnections + pool.MaxDials + 1, connections: c.MaxOpenConnections}
	q.tokens.query, q.sessions.query, q.oauthTokens.query = lookup.TokenQuery, lookup.SessionQuery, lookup.OAuthQuery
	for _, n := range q.lanes() {
		n.lookups = q
	}
	return q
}

// Load answers a look-up with one query, which other look-ups may share. Errors contain no part of the credential. If an error
// wraps [context.DeadlineExceeded], the database did not answer in time.
func (q *lookups) Load(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
	timer := time.NewTimer(q.timeout)
	defer timer.Stop()
	lane := q.lane(l.Kind)
	w := lane.join(l)
	var err error
	select {
	case o := <-w.result:
		if o.err == nil {
			return o.answer, nil
		}
		err = o.err
	case <-timer.C:
		lane.leave(w)
		err = context.DeadlineExceeded
	case <-ctx.Done():
		lane.leave(w)
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("no answer within %v: %w", q.timeout, context.DeadlineExceeded)
	}
	return cache.Answer{}, fmt.Errorf("query the database: %w", database.AddPoolerRemedy(err))
}

func (q *lookups) lane(kind authz.Kind) *lane {
	switch kind {
	case authz.KindSession:
		return &q.sessions
	case authz.KindOAuthToken:
		return &q.oauthTokens
	}
	return &q.tokens
}

func (q *lookups) lanes() []*lane { return []*lane{&q.tokens, &q.sessions, &q.oauthTokens} }
