package store

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// lookupQuery answers one check, with one row, also for a token that does not exist: the row tells which server answered
// (see servers). The workspace is the token's own one, or else the one that was asked for, reached by
// way of the user's membership in it: a workspace without one cannot appear. A token of a banned user counts as revoked
// while the ban lasts.
//
// It runs prepared, and soon with a generic plan; each step of it is one descent of a unique index. The two times are
// subtracted as numbers, because expires_at may be infinity, which Postgres subtracts nothing from before version 17.
const lookupQuery = foundColumns + `
FROM (VALUES (1)) AS one LEFT JOIN (
SELECT CASE WHEN t.revoked_at IS NOT NULL OR ` + banned + ` THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            ELSE '' END AS denial,
       t.id, t.kind, t.environment, t.user_id, t.scopes, w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM LEAST(t.expires_at, ` + banEnd + `)) - EXTRACT(EPOCH FROM clock_timestamp()))::float8 AS lifetime
FROM keywicket.tokens t
CROSS JOIN ` + noFacts + `
LEFT JOIN ` + users + ` ON u.id = t.user_id
LEFT JOIN keywicket.members m
       ON m.user_id = t.user_id
      AND m.workspace_id = COALESCE(NULLIF($3::text, ''), (SELECT id FROM keywicket.workspaces WHERE slug = $4::text))
LEFT JOIN keywicket.workspaces w ON w.id = COALESCE(t.workspace_id, m.workspace_id)
WHERE t.digest = $1::bytea AND t.api = $2::text
) AS found ON true`

// foundColumns are what every look-up begins with.
const foundColumns = `
SELECT ` + serverStarted + `, COALESCE(denial, 'unknown'), COALESCE(id, ''), COALESCE(kind, ''), COALESCE(environment, ''),
       COALESCE(user_id, ''), scopes, COALESCE(workspace_id, ''), COALESCE(slug, ''), COALESCE(role, ''), lifetime`

// The columns of migration 00010 may not be there yet when this code runs. In users their names then mean those of
// noFacts, the next names outward.
const (
	noFacts = `(SELECT NULL::timestamptz AS banned_until, false AS mfa_enrolled) no_facts`
	users   = `LATERAL (SELECT id, banned_until, mfa_enrolled FROM keywicket.users) u`
	banned  = `COALESCE(u.banned_until > clock_timestamp(), false)`
	banEnd  = `CASE WHEN ` + banned + ` THEN u.banned_until END`
)

// sessionQuery is lookupQuery for a session, whose token says who the user is: that there is such a user, who is not
// banned, that the session was not revoked, nor all those of the user that began by then.
const sessionQuery = foundColumns + `, COALESCE(mfa_enrolled, false)
FROM (VALUES (1)) AS one LEFT JOIN (
SELECT CASE WHEN ` + sessionRevoked + ` OR ` + banned + ` THEN 'revoked' ELSE '' END AS denial,
       u.id, 'session' AS kind, 'live' AS environment, u.id AS user_id, '{}'::text[] AS scopes,
       w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM ` + banEnd + `) - EXTRACT(EPOCH FROM clock_timestamp()))::float8 AS lifetime,
       u.mfa_enrolled
FROM ` + noFacts + `
JOIN ` + users + ` ON u.id = $2::text
LEFT JOIN keywicket.members m
       ON m.user_id = u.id
      AND m.workspace_id = COALESCE(NULLIF($4::text, ''), (SELECT id FROM keywicket.workspaces WHERE slug = $5::text))
LEFT JOIN keywicket.workspaces w ON w.id = m.workspace_id
) AS found ON true`

// sessionRevoked says of a session, $1 its id, $2 its user's and $3 when it began, that it was revoked.
const sessionRevoked = `(
	EXISTS (SELECT FROM keywicket.revoked_sessions r WHERE r.session_id = $1::text) OR
	EXISTS (SELECT FROM keywicket.revoked_sessions r WHERE r.user_id = $2::text AND r.revoked_at >= to_timestamp($3::bigint)))`

// oauthQuery is lookupQuery for an access token of OAuth 2.0, which is worth what its grant and its app are. The workspace is
// the one that was asked for, if it was granted; where none was asked for, the only one that was.
const oauthQuery = foundColumns + `, COALESCE(grant_id, ''), COALESCE(app_id, '')
FROM (VALUES (1)) AS one LEFT JOIN (
SELECT CASE WHEN t.revoked_at IS NOT NULL OR g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL
              OR ` + banned + ` THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            ELSE '' END AS denial,
       t.id, 'oauth_token' AS kind, 'live' AS environment, g.user_id, t.scopes,
       w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM LEAST(t.expires_at, ` + banEnd + `)) - EXTRACT(EPOCH FROM clock_timestamp()))::float8 AS lifetime,
       g.id AS grant_id, a.id AS app_id
FROM keywicket.oauth_access_tokens t
JOIN keywicket.oauth_grants g ON g.id = t.grant_id
JOIN keywicket.oauth_apps a ON a.id = g.app_id
CROSS JOIN ` + noFacts + `
JOIN ` + users + ` ON u.id = g.user_id
LEFT JOIN keywicket.oauth_grant_workspaces gw
       ON gw.grant_id = g.id
      AND gw.workspace_id = COALESCE(NULLIF($3::text, ''), (SELECT id FROM keywicket.workspaces WHERE slug = $4::text),
            (SELECT min(sole.workspace_id) FROM keywicket.oauth_grant_workspaces sole
             WHERE sole.grant_id = g.id AND $3::text = '' AND $4::text = '' HAVING count(*) = 1))
LEFT JOIN keywicket.members m ON m.user_id = g.user_id AND m.workspace_id = gw.workspace_id
LEFT JOIN keywicket.workspaces w ON w.id = m.workspace_id
WHERE t.digest = $1::bytea AND a.api = $2::text
) AS found ON true`

// lookups asks the database. It is the [cache.Source].
type lookups struct {
	db       *sqlx.DB
	servers  *servers
	timeout  time.Duration
	attempts int
	token    prepared
	session  prepared
	oauth    prepared
}

// prepared is a query, nil until the database was first reached.
type prepared struct{ atomic.Pointer[sqlx.Stmt] }

// Load answers with one query. Its errors hold nothing of the credential; an error that matches
// [context.DeadlineExceeded] means that the database did not answer in time.
func (q *lookups) Load(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
	answer, err := within(ctx, q.timeout, func(ctx context.Context) (a cache.Answer, err error) {
		err = retryLost(ctx, q.attempts, func() error {
			a, err = q.ask(ctx, l)
			return err
		})
		return a, err
	})
	if err != nil {
		return cache.Answer{}, fmt.Errorf("ask the database: %w", err)
	}
	return answer, nil
}

func (q *lookups) ask(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
	statement, err := q.statement(ctx, l.Kind)
	if err != nil {
		return cache.Answer{}, err
	}
	for attempt := 1; ; attempt++ {
		a, started, err := answer(statement.QueryRowxContext(ctx, arguments(l)...), l)
		switch {
		case err != nil:
			return cache.Answer{}, err
		case q.servers.isCurrent(started):
			return a, nil
		case attempt == q.attempts:
			return cache.Answer{}, errOtherServer
		}
		// After this the server that answered is the current one, or its connections are closed.
		if err := q.servers.settle(ctx); err != nil {
			return cache.Answer{}, err
		}
	}
}

func (q *lookups) statement(ctx context.Context, kind authz.Kind) (*sqlx.Stmt, error) {
	switch kind {
	case authz.KindSession:
		return q.session.on(ctx, q.db, sessionQuery)
	case authz.KindOAuthToken:
		return q.oauth.on(ctx, q.db, oauthQuery)
	}
	return q.token.on(ctx, q.db, lookupQuery)
}

// arguments of the kind's query.
func arguments(l authz.Lookup) []any {
	if l.Kind == authz.KindSession {
		return []any{l.Session.ID, l.Session.UserID, l.Session.Began, l.Workspace.ID, l.Workspace.Slug}
	}
	return []any{l.Digest[:], l.API, l.Workspace.ID, l.Workspace.Slug}
}

// answer reads the row of one of the queries, and tells which server it is from.
func answer(row *sqlx.Row, l authz.Lookup) (_ cache.Answer, started int64, _ error) {
	f := authz.Found{Principal: authz.Principal{API: l.API, SessionID: l.Session.ID}}
	var left sql.NullFloat64 // seconds
	var app string
	columns := []any{
		&started, &f.Denial,
		&f.Principal.ID, &f.Principal.Kind, &f.Principal.Environment, &f.Principal.UserID,
		(*pq.StringArray)(&f.Principal.Scopes),
		&f.Workspace.ID, &f.Workspace.Slug, &f.Workspace.Role,
		&left,
	}
	switch l.Kind {
	case authz.KindOAuthToken:
		columns = append(columns, &f.Principal.GrantID, &app)
	case authz.KindSession:
		columns = append(columns, &f.MFAEnrolled)
	}
	if err := row.Scan(columns...); err != nil {
		return cache.Answer{}, 0, err
	}
	keys := cache.CredentialKeys(l)
	if f.Denial == authz.ReasonUnknown {
		return cache.Answer{Found: authz.Found{Denial: f.Denial}, Keys: keys}, started, nil
	}
	if l.Kind == authz.KindOAuthToken {
		keys = append(keys, cache.GrantKey(f.Principal.GrantID), cache.AppKey(app))
	}
	// A user may be banned or become a member.
	if f.Principal.UserID != "" && l.Kind != authz.KindSession {
		keys = append(keys, cache.UserKey(f.Principal.UserID))
	}
	const farAway = 1e9 // seconds; a time.Duration holds nine times as many
	a := cache.Answer{Found: f, Keys: keys, Expires: left.Valid, TTL: time.Duration(min(left.Float64, farAway) * float64(time.Second))}
	if f.Denial != "" {
		a.Found = authz.Found{Denial: f.Denial}
		a.Expires = left.Float64 > 0 // a ban ends; what has expired stays so
		return a, started, nil
	}
	if f.Workspace.ID != "" {
		a.Keys = append(a.Keys, cache.WorkspaceKey(f.Workspace.ID))
	}
	// The workspace that was asked for may come into being.
	if f.Principal.UserID != "" && l.Workspace.Slug != "" {
		a.Keys = append(a.Keys, cache.SlugKey(l.Workspace.Slug))
	}
	return a, started, nil
}

// on prepares the query when it is first needed. From then on database/sql prepares it again on each new connection.
func (p *prepared) on(ctx context.Context, db *sqlx.DB, query string) (*sqlx.Stmt, error) {
	if s := p.Load(); s != nil {
		return s, nil
	}
	s, err := db.PreparexContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if !p.CompareAndSwap(nil, s) {
		_ = s.Close() // another look-up was quicker
	}
	return p.Load(), nil
}
