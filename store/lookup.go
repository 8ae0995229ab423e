package store

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// lookupQuery answers look-ups of tokens. It returns one row for each look-up, even for a token that does not exist, because the row
// names the server that answered (see servers). The workspace is the token's own one, or otherwise the requested one. A requested
// workspace is read through the user's membership, so a workspace without one cannot appear. A token of a banned user counts as
// revoked while the ban lasts.
//
// The query is prepared and soon runs with a generic plan, in which each step is one descent of a unique index:
//   - LIMIT 1 makes Postgres look up each token separately. Without it, Postgres would join whole tables that it estimates as small.
//   - Each parameter is read by its own SELECT. Postgres counts the elements of a bare array, and estimates a plan for one element
//     as cheaper than the generic one. It would then plan each query again, which takes longer than the query.
//   - The two times are subtracted as numbers, because expires_at may be infinity. Before version 17, Postgres cannot subtract from
//     an infinite time. The numbers are not float8, which extra_float_digits may round.
const lookupQuery = foundColumns + `
FROM unnest((SELECT $1::bytea[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[])) WITH ORDINALITY AS asked (digest, api, in_id, in_slug, place)
LEFT JOIN LATERAL (
SELECT CASE WHEN t.revoked_at IS NOT NULL OR ` + banned + ` THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            ELSE '' END AS denial,
       t.id, t.kind, t.environment, t.user_id, t.scopes, w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM LEAST(t.expires_at, ` + banEnd + `)) - EXTRACT(EPOCH FROM clock_timestamp())) AS lifetime,
       token_attributes, user_attributes, workspace_attributes
FROM ` + noFacts + `
CROSS JOIN ` + tokens + `
LEFT JOIN ` + users + ` ON u.id = t.user_id
LEFT JOIN keywicket.members m
       ON m.user_id = t.user_id
      AND m.workspace_id = COALESCE(NULLIF(asked.in_id, ''), (SELECT id FROM keywicket.workspaces WHERE slug = asked.in_slug))
LEFT JOIN ` + workspaces + ` ON w.id = COALESCE(t.workspace_id, m.workspace_id)
WHERE t.digest = asked.digest AND t.api = asked.api
LIMIT 1) AS found ON true`

// foundColumns are the first columns of every look-up query.
const foundColumns = `
SELECT ` + serverStarted + `, place, COALESCE(denial, 'unknown'), COALESCE(id, ''), COALESCE(kind, ''), COALESCE(environment, ''),
       COALESCE(user_id, ''), scopes, COALESCE(workspace_id, ''), COALESCE(slug, ''), COALESCE(role, ''), lifetime,
       COALESCE(NULLIF(token_attributes, '{}')::text, ''), COALESCE(NULLIF(user_attributes, '{}')::text, ''),
       COALESCE(NULLIF(workspace_attributes, '{}')::text, '')`

// This code may run before migrations 00010 and 00012 have added their columns. The names of missing columns in users, tokens and
// workspaces then resolve to the columns of noFacts, in the next outer scope. Each of the three renames its column attributes,
// because an outer name must not be ambiguous.
const (
	noFacts = `(SELECT NULL::timestamptz AS banned_until, false AS mfa_enrolled, NULL::jsonb AS attributes) no_facts`
	users   = `LATERAL (SELECT id, banned_until, mfa_enrolled, attributes AS user_attributes FROM keywicket.users) u`
	tokens  = `LATERAL (SELECT id, api, kind, environment, digest, scopes, workspace_id, user_id, expires_at, revoked_at,
                   attributes AS token_attributes FROM keywicket.tokens) t`
	workspaces = `LATERAL (SELECT id, slug, attributes AS workspace_attributes FROM keywicket.workspaces) w`

	banned = `COALESCE(u.banned_until > clock_timestamp(), false)`
	banEnd = `CASE WHEN ` + banned + ` THEN u.banned_until END`
)

// sessionQuery is lookupQuery for a session, whose token names the user. It checks that the user exists and is not banned, and that
// neither the session nor all sessions of the user that began by then were revoked.
const sessionQuery = foundColumns + `, COALESCE(mfa_enrolled, false)
FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::int8[]), (SELECT $4::text[]), (SELECT $5::text[])) WITH ORDINALITY
     AS asked (session, of_user, began, in_id, in_slug, place)
LEFT JOIN LATERAL (
SELECT CASE WHEN ` + sessionRevoked + ` OR ` + banned + ` THEN 'revoked' ELSE '' END AS denial,
       u.id, 'session' AS kind, 'live' AS environment, u.id AS user_id, '{}'::text[] AS scopes,
       w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM ` + banEnd + `) - EXTRACT(EPOCH FROM clock_timestamp())) AS lifetime,
       NULL::jsonb AS token_attributes, user_attributes, workspace_attributes, u.mfa_enrolled
FROM ` + noFacts + `
JOIN ` + users + ` ON u.id = asked.of_user
LEFT JOIN keywicket.members m
       ON m.user_id = u.id
      AND m.workspace_id = COALESCE(NULLIF(asked.in_id, ''), (SELECT id FROM keywicket.workspaces WHERE slug = asked.in_slug))
LEFT JOIN ` + workspaces + ` ON w.id = m.workspace_id
LIMIT 1) AS found ON true`

// sessionRevoked is true in SQL if the session of the look-up was revoked.
const sessionRevoked = `(
	EXISTS (SELECT FROM keywicket.revoked_sessions r WHERE r.session_id = asked.session) OR
	EXISTS (SELECT FROM keywicket.revoked_sessions r WHERE r.user_id = asked.of_user AND r.revoked_at >= to_timestamp(asked.began)))`

// oauthQuery is lookupQuery for an access token of OAuth 2.0. The token is revoked if its grant or its app is. The workspace is the
// requested one, if it was granted. Without a request, it is the only granted one.
const oauthQuery = foundColumns + `, COALESCE(grant_id, ''), COALESCE(app_id, '')
FROM unnest((SELECT $1::bytea[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[])) WITH ORDINALITY AS asked (digest, api, in_id, in_slug, place)
LEFT JOIN LATERAL (
SELECT CASE WHEN t.revoked_at IS NOT NULL OR g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL
              OR ` + banned + ` THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            ELSE '' END AS denial,
       t.id, 'oauth_token' AS kind, 'live' AS environment, g.user_id, t.scopes,
       w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM LEAST(t.expires_at, ` + banEnd + `)) - EXTRACT(EPOCH FROM clock_timestamp())) AS lifetime,
       NULL::jsonb AS token_attributes, user_attributes, workspace_attributes,
       g.id AS grant_id, a.id AS app_id
FROM keywicket.oauth_access_tokens t
JOIN keywicket.oauth_grants g ON g.id = t.grant_id
JOIN keywicket.oauth_apps a ON a.id = g.app_id
CROSS JOIN ` + noFacts + `
JOIN ` + users + ` ON u.id = g.user_id
LEFT JOIN keywicket.oauth_grant_workspaces gw
       ON gw.grant_id = g.id
      AND gw.workspace_id = COALESCE(NULLIF(asked.in_id, ''), (SELECT id FROM keywicket.workspaces WHERE slug = asked.in_slug),
            (SELECT min(sole.workspace_id) FROM keywicket.oauth_grant_workspaces sole
             WHERE sole.grant_id = g.id AND asked.in_id = '' AND asked.in_slug = '' HAVING count(*) = 1))
LEFT JOIN keywicket.members m ON m.user_id = g.user_id AND m.workspace_id = gw.workspace_id
LEFT JOIN ` + workspaces + ` ON w.id = m.workspace_id
WHERE t.digest = asked.digest AND a.api = asked.api
LIMIT 1) AS found ON true`

// lookupQueries are the queries of a directory.
var lookupQueries = []string{lookupQuery, sessionQuery, oauthQuery}

// lookups queries the database. It is the [cache.Source].
type lookups struct {
	db          *sqlx.DB
	servers     *servers
	timeout     time.Duration
	attempts    int
	connections int // maximum of db
	tokens      lane
	sessions    lane
	oauthTokens lane
}

func newLookups(db *sqlx.DB, s *servers, c Config) *lookups {
	// Each failed attempt removes a dead connection from the pool or from dials.ready, so the last attempt has a new connection.
	q := &lookups{db: db, servers: s, timeout: c.LookupTimeout, attempts: c.MaxOpenConnections + maxDials + 1, connections: c.MaxOpenConnections}
	q.tokens.query, q.sessions.query, q.oauthTokens.query = lookupQuery, sessionQuery, oauthQuery
	for _, n := range q.lanes() {
		n.lookups = q
	}
	return q
}

// Load answers a look-up with one query, which it may share with other look-ups. Its errors contain nothing of the credential. An
// error that matches [context.DeadlineExceeded] means that the database did not answer in time.
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
	return cache.Answer{}, fmt.Errorf("query the database: %w", addPoolerRemedy(err))
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

// queryLookups answers look-ups of one kind by the query, in their order. started identifies the server that answered. It takes a
// connection from database/sql, but reads lib/pq's rows: the rows of database/sql start a goroutine that waits for the context's
// end.
func queryLookups(ctx context.Context, db *sqlx.DB, query string, asked []authz.Lookup) (answers []cache.Answer, started int64, err error) {
	args, err := arguments(asked)
	if err != nil {
		return nil, 0, err
	}
	c, err := db.Connx(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = cmp.Or(err, c.Close()) }()
	err = c.Raw(func(raw any) (err error) {
		rows, err := raw.(*connection).queryPrepared(ctx, query, args)
		if err != nil {
			return err
		}
		defer func() { err = cmp.Or(err, rows.Close()) }() // also after a panic, because a goroutine of lib/pq waits for it
		answers, started, err = readAnswers(rows, asked)
		return err
	})
	return answers, started, err
}

// arguments returns the query's arguments for look-ups of one kind.
func arguments(asked []authz.Lookup) ([]driver.NamedValue, error) {
	var digests pq.ByteaArray
	var apis, sessions, users, ids, slugs pq.StringArray
	var began pq.Int64Array
	for _, l := range asked {
		ids, slugs = append(ids, l.Workspace.ID), append(slugs, l.Workspace.Slug)
		if l.Kind == authz.KindSession {
			sessions, users, began = append(sessions, l.Session.ID), append(users, l.Session.UserID), append(began, l.Session.Began)
			continue
		}
		digests, apis = append(digests, l.Digest[:]), append(apis, l.API)
	}
	arrays := []driver.Valuer{digests, apis, ids, slugs}
	if asked[0].Kind == authz.KindSession {
		arrays = []driver.Valuer{sessions, users, began, ids, slugs}
	}
	args := make([]driver.NamedValue, len(arrays))
	for i, a := range arrays {
		value, err := a.Value()
		if err != nil {
			return nil, err
		}
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: value}
	}
	return args, nil
}

// readAnswers reads the query's rows and returns the answers in the order of the look-ups. started identifies the server.
func readAnswers(rows driver.Rows, asked []authz.Lookup) (answers []cache.Answer, started int64, err error) {
	answers = make([]cache.Answer, len(asked))
	values := make([]driver.Value, len(rows.Columns()))
	n := 0
	for ; ; n++ {
		if err := rows.Next(values); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, 0, err
		}
		f, err := readFound(values, asked[0].Kind)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errUnreadable, err)
		}
		i := f.place - 1
		if i < 0 || i >= int64(len(asked)) || answers[i].Keys != nil {
			return nil, 0, fmt.Errorf("%w: it answers question %d of %d", errUnreadable, f.place, len(asked))
		}
		started, answers[i] = f.started, f.answer(asked[i])
	}
	if n != len(asked) {
		return nil, 0, fmt.Errorf("%w: it answers %d questions of %d", errUnreadable, n, len(asked))
	}
	return answers, started, nil
}

// found is a row of one of the queries.
type found struct {
	authz.Found
	started int64 // see servers
	place   int64 // number of the look-up in the query, from 1
	app     string
	left    sql.NullFloat64 // remaining lifetime in seconds
}

func readFound(values []driver.Value, kind authz.Kind) (f found, err error) {
	c := columns{left: values}
	f.started, f.place = next[int64](&c), next[int64](&c)
	f.Denial = authz.Reason(next[string](&c))
	p, w := &f.Principal, &f.Workspace
	p.ID, p.Kind, p.Environment = next[string](&c), authz.Kind(next[string](&c)), authz.Environment(next[string](&c))
	p.UserID = next[string](&c)
	c.scan((*pq.StringArray)(&p.Scopes))
	w.ID, w.Slug, w.Role = next[string](&c), next[string](&c), next[string](&c)
	c.scan(&f.left)
	p.Attributes, p.UserAttributes = authz.Attributes(next[string](&c)), authz.Attributes(next[string](&c))
	w.Attributes = authz.Attributes(next[string](&c))
	switch kind {
	case authz.KindOAuthToken:
		p.GrantID, f.app = next[string](&c), next[string](&c)
	case authz.KindSession:
		f.MFAEnrolled = next[bool](&c)
	}
	if len(c.left) > 0 {
		return found{}, fmt.Errorf("%d columns too many", len(c.left))
	}
	return f, c.err
}

// columns reads a row from left to right. err is the first error.
type columns struct {
	left []driver.Value
	err  error
}

func (c *columns) take() (value driver.Value) {
	if len(c.left) == 0 {
		c.fail(errors.New("a column is missing"))
		return nil
	}
	value, c.left = c.left[0], c.left[1:]
	return value
}

func (c *columns) fail(err error) { c.err = cmp.Or(c.err, err) }

func (c *columns) scan(into sql.Scanner) {
	value := c.take()
	c.fail(into.Scan(value))
}

// next reads a column as the type that lib/pq returns for it.
func next[T int64 | string | bool](c *columns) T {
	value, ok := c.take().(T)
	if !ok {
		c.fail(fmt.Errorf("a column is no %T", value))
	}
	return value
}

// answer returns the row as the answer to the look-up.
func (f *found) answer(l authz.Lookup) cache.Answer {
	keys := cache.CredentialKeys(l)
	if f.Denial == authz.ReasonUnknown {
		return cache.Answer{Found: authz.Found{Denial: f.Denial}, Keys: keys}
	}
	f.Principal.API, f.Principal.SessionID = l.API, l.Session.ID
	if l.Kind == authz.KindOAuthToken {
		keys = append(keys, cache.GrantKey(f.Principal.GrantID), cache.AppKey(f.app))
	}
	// The answer depends on the user: they may be banned or become a member.
	if f.Principal.UserID != "" && l.Kind != authz.KindSession {
		keys = append(keys, cache.UserKey(f.Principal.UserID))
	}
	const farAway = 1e9 // seconds; a time.Duration holds up to nine times as many
	a := cache.Answer{
		Found: f.Found, Keys: keys,
		Expires: f.left.Valid, TTL: time.Duration(min(f.left.Float64, farAway) * float64(time.Second)),
	}
	if f.Denial != "" {
		a.Found = authz.Found{Denial: f.Denial}
		a.Expires = f.left.Float64 > 0 // a ban ends, an expiry does not
		return a
	}
	if f.Workspace.ID != "" {
		a.Keys = append(a.Keys, cache.WorkspaceKey(f.Workspace.ID))
	}
	// The requested workspace may be created later.
	if f.Principal.UserID != "" && l.Workspace.Slug != "" {
		a.Keys = append(a.Keys, cache.SlugKey(l.Workspace.Slug))
	}
	return a
}

// lookupOnce answers one look-up for the operator, without a lane.
func lookupOnce(ctx context.Context, db *sqlx.DB, query string, l authz.Lookup) (authz.Found, error) {
	const attempts = 3 // connections of the pool may be dead; database/sql has the same number
	var answers []cache.Answer
	err := retryLost(ctx, attempts, func() (err error) {
		answers, _, err = queryLookups(ctx, db, query, []authz.Lookup{l})
		return err
	})
	if err != nil {
		return authz.Found{}, err
	}
	return answers[0].Found, nil
}
