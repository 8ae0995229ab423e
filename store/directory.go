package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
)

// Config says how a Directory reaches its database. Only URL is required.
type Config struct {
	// URL as in [Open]. The login needs no more than the role keywicket_sidecar.
	URL string
	// MaxOpenConnections for look-ups. One further connection writes the usage. Default: 8.
	MaxOpenConnections int
	// LookupTimeout bounds a look-up as a whole: the wait for a connection, connecting, retries, the query. It should
	// stay below half of what the caller is given, so that a client of the caller gets an answer. Default: 200ms.
	LookupTimeout time.Duration
	// UsageInterval is how often last_used_at is written. Default: 5s.
	UsageInterval time.Duration
	// Clock measures how long ago a token was used, and nothing else: expiry is the database's to judge. Default:
	// time.Now.
	Clock func() time.Time
}

const (
	defaultMaxOpenConnections = 8
	defaultLookupTimeout      = 200 * time.Millisecond
	defaultUsageInterval      = 5 * time.Second

	// connectionLifetime lets a sidecar follow a failover or a changed address even if nobody closes its connections.
	connectionLifetime = 5 * time.Minute
)

func (c Config) complete() (Config, error) {
	if c.MaxOpenConnections == 0 {
		c.MaxOpenConnections = defaultMaxOpenConnections
	}
	if c.LookupTimeout == 0 {
		c.LookupTimeout = defaultLookupTimeout
	}
	if c.UsageInterval == 0 {
		c.UsageInterval = defaultUsageInterval
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	switch {
	case c.MaxOpenConnections < 0:
		return c, fmt.Errorf("max_open_connections: %d is not positive", c.MaxOpenConnections)
	case c.LookupTimeout < 0:
		return c, fmt.Errorf("lookup_timeout: %v is not positive", c.LookupTimeout)
	case c.UsageInterval < 0:
		return c, fmt.Errorf("usage_interval: %v is not positive", c.UsageInterval)
	}
	return c, nil
}

// Directory answers checks from Postgres, and notes which tokens are used. It is safe for concurrent use.
type Directory struct {
	db       *sqlx.DB
	timeout  time.Duration
	attempts int
	lookup   atomic.Pointer[sqlx.Stmt] // nil until the database was first reached
	usage    *usage
}

var _ authz.Directory = (*Directory)(nil)

// OpenDirectory starts a directory. Whether the database can be reached is not asked: look-ups fail until it can be,
// and work from then on. [Directory.Ping] tells. A nil logger drops everything. The caller must Close the directory.
func OpenDirectory(c Config, log *slog.Logger) (*Directory, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// A look-up that runs into its deadline has its query cancelled and its connection kept, for which the server gets
	// as long again.
	db, err := open(c.URL, 2*c.LookupTimeout)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(c.MaxOpenConnections)
	db.SetMaxIdleConns(c.MaxOpenConnections)
	db.SetConnMaxLifetime(connectionLifetime)
	usage, err := startUsage(c, log)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Directory{
		db:      db,
		timeout: c.LookupTimeout,
		// Each attempt removes a dead connection from the pool, so the last one has a new connection.
		attempts: c.MaxOpenConnections + 1,
		usage:    usage,
	}, nil
}

// lookupQuery answers one check. The workspace is the token's own one, or else the one that was asked for, reached by
// way of the user's membership in it: a workspace without one cannot appear.
//
// It runs prepared, and soon with a generic plan; each step of it is one descent of a unique index.
const lookupQuery = `
SELECT CASE WHEN t.revoked_at IS NOT NULL THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            ELSE '' END,
       t.id, t.kind, t.environment, COALESCE(t.user_id, ''), t.scopes,
       COALESCE(w.id, ''), COALESCE(w.slug, ''), COALESCE(m.role, '')
FROM keywicket.tokens t
LEFT JOIN keywicket.members m
       ON m.user_id = t.user_id
      AND m.workspace_id = COALESCE(NULLIF($3::text, ''), (SELECT id FROM keywicket.workspaces WHERE slug = $4::text))
LEFT JOIN keywicket.workspaces w ON w.id = COALESCE(t.workspace_id, m.workspace_id)
WHERE t.digest = $1::bytea AND t.api = $2::text`

// Lookup implements [authz.Directory] with one query. Its errors hold nothing of the credential; an error that matches
// [context.DeadlineExceeded] means that the database did not answer in time.
func (d *Directory) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	found, err := within(ctx, d.timeout, func(ctx context.Context) (found authz.Found, err error) {
		err = retryLost(ctx, d.attempts, func() error {
			found, err = d.query(ctx, l)
			return err
		})
		return found, err
	})
	if err != nil {
		return authz.Found{}, fmt.Errorf("ask the database: %w", err)
	}
	if found.Denial == "" {
		d.usage.note(found.Principal.ID)
	}
	return found, nil
}

func (d *Directory) query(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	statement, err := d.prepared(ctx)
	if err != nil {
		return authz.Found{}, err
	}
	return lookup(statement.QueryRowxContext(ctx, l.Digest[:], l.API, l.Workspace.ID, l.Workspace.Slug), l.API)
}

// lookup reads the answer to lookupQuery.
func lookup(row *sqlx.Row, api string) (authz.Found, error) {
	f := authz.Found{Principal: authz.Principal{API: api}}
	err := row.Scan(
		&f.Denial,
		&f.Principal.ID, &f.Principal.Kind, &f.Principal.Environment, &f.Principal.UserID,
		(*pq.StringArray)(&f.Principal.Scopes),
		&f.Workspace.ID, &f.Workspace.Slug, &f.Workspace.Role)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return authz.Found{Denial: authz.ReasonUnknown}, nil
	case err != nil:
		return authz.Found{}, err
	case f.Denial != "":
		return authz.Found{Denial: f.Denial}, nil
	}
	return f, nil
}

// prepared prepares the look-up when it is first needed. From then on database/sql prepares it again on each new
// connection.
func (d *Directory) prepared(ctx context.Context) (*sqlx.Stmt, error) {
	if s := d.lookup.Load(); s != nil {
		return s, nil
	}
	s, err := d.db.PreparexContext(ctx, lookupQuery)
	if err != nil {
		return nil, err
	}
	if !d.lookup.CompareAndSwap(nil, s) {
		_ = s.Close() // another look-up was quicker
	}
	return d.lookup.Load(), nil
}

// Ping reports whether look-ups can be answered: the database is there, is migrated, and lets this login read.
func (d *Directory) Ping(ctx context.Context) error {
	_, err := within(ctx, d.timeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, retryLost(ctx, d.attempts, func() error {
			if _, err := d.prepared(ctx); err != nil {
				return err
			}
			return d.db.PingContext(ctx)
		})
	})
	if err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	return nil
}

// Close writes the usage that is still to be written, and closes the connections. Look-ups must have ended: one that
// has not fails, or its use is not noted. The error says that usage was lost, because the context ended or the database
// did not take it.
func (d *Directory) Close(ctx context.Context) error {
	return errors.Join(d.usage.close(ctx), d.db.Close())
}
