package lookup

import "github.com/keywicket/keywicket/store/database"

// TokenQuery answers look-ups of tokens. It returns one row for each look-up, even if the token does not exist, because the row
// identifies the server that answered (see [database.ServerStarted]). If the token belongs to a workspace, the row contains this
// workspace. If the token belongs to a user, the row contains the requested workspace. The query finds this workspace through the
// user's membership, so it never returns a workspace of which the user is not a member. A token of a banned user counts as revoked
// during the ban.
//
// The query is prepared. After a few runs, Postgres uses a generic plan, in which each step searches a unique index once. Three
// parts of the query need an explanation:
//   - LIMIT 1 makes Postgres look up each token separately. Without LIMIT 1, Postgres would join whole tables if it estimated that
//     they are small.
//   - Each parameter is read by its own SELECT, which hides the length of the array from Postgres. If Postgres knew the length, it
//     would make a new plan for each query, because it would estimate that the new plan is cheaper. But planning takes longer than
//     the query itself.
//   - The two times are subtracted as numbers, because expires_at may be infinity, and Postgres before version 17 cannot subtract
//     from an infinite time. The numbers are not of the type float8, because the setting extra_float_digits may round the text of
//     a float8.
const TokenQuery = foundColumns + `
FROM unnest((SELECT $1::bytea[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[])) WITH ORDINALITY AS asked (digest, api, in_id, in_slug, place)
LEFT JOIN LATERAL (
SELECT CASE WHEN t.revoked_at IS NOT NULL OR ` + Banned + ` THEN 'revoked'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            ELSE '' END AS denial,
       t.id, t.kind, t.environment, t.user_id, t.scopes, w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM LEAST(t.expires_at, ` + banEnd + `)) - EXTRACT(EPOCH FROM clock_timestamp())) AS lifetime,
       token_attributes, user_attributes, workspace_attributes
FROM ` + MissingColumns + `
CROSS JOIN ` + tokens + `
LEFT JOIN ` + Users + ` ON u.id = t.user_id
LEFT JOIN keywicket.members m
       ON m.user_id = t.user_id
      AND m.workspace_id = COALESCE(NULLIF(asked.in_id, ''), (SELECT id FROM keywicket.workspaces WHERE slug = asked.in_slug))
LEFT JOIN ` + workspaces + ` ON w.id = COALESCE(t.workspace_id, m.workspace_id)
WHERE t.digest = asked.digest AND t.api = asked.api
LIMIT 1) AS found ON true`

// foundColumns are the first columns of every look-up query. The function readRow reads the columns by their position.
const foundColumns = `
SELECT ` + database.ServerStarted + `, place, COALESCE(denial, 'unknown'), COALESCE(id, ''), COALESCE(kind, ''), COALESCE(environment, ''),
       COALESCE(user_id, ''), scopes, COALESCE(workspace_id, ''), COALESCE(slug, ''), COALESCE(role, ''), lifetime,
       COALESCE(NULLIF(token_attributes, '{}')::text, ''), COALESCE(NULLIF(user_attributes, '{}')::text, ''),
       COALESCE(NULLIF(workspace_attributes, '{}')::text, '')`

// The migrations 00010 and 00012 add columns to users, tokens and workspaces. This code may run before these migrations. So each
// query reads these tables in LATERAL subqueries, and joins MissingColumns before the first subquery. If a table lacks a column,
// the name of the column in the subquery refers to the column of MissingColumns. Each subquery renames the column "attributes", so
// that this name is not ambiguous outside of the subquery.
const (
	// MissingColumns is a row with the values that replace missing columns: no ban, no second factor, no attributes.
	MissingColumns = `(SELECT NULL::timestamptz AS banned_until, false AS mfa_enrolled, NULL::jsonb AS attributes) no_facts`
	// Users is the table of users, with the alias u.
	Users  = `LATERAL (SELECT id, banned_until, mfa_enrolled, attributes AS user_attributes FROM keywicket.users) u`
	tokens = `LATERAL (SELECT id, api, kind, environment, digest, scopes, workspace_id, user_id, expires_at, revoked_at,
                   attributes AS token_attributes FROM keywicket.tokens) t`
	workspaces = `LATERAL (SELECT id, slug, attributes AS workspace_attributes FROM keywicket.workspaces) w`

	// Banned is true if the user u is banned now.
	Banned = `COALESCE(u.banned_until > clock_timestamp(), false)`
	banEnd = `CASE WHEN ` + Banned + ` THEN u.banned_until END`
)

// SessionQuery is the query for a session. The token of a session contains the user's id. The query checks that the user exists and
// is not banned. The session counts as revoked if revoked_sessions has a row for the session, or a row for the user that is not
// older than the session.
const SessionQuery = foundColumns + `, COALESCE(mfa_enrolled, false)
FROM unnest((SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::int8[]), (SELECT $4::text[]), (SELECT $5::text[])) WITH ORDINALITY
     AS asked (session, of_user, began, in_id, in_slug, place)
LEFT JOIN LATERAL (
SELECT CASE WHEN ` + SessionRevoked + ` OR ` + Banned + ` THEN 'revoked' ELSE '' END AS denial,
       u.id, 'session' AS kind, 'live' AS environment, u.id AS user_id, '{}'::text[] AS scopes,
       w.id AS workspace_id, w.slug, m.role,
       (EXTRACT(EPOCH FROM ` + banEnd + `) - EXTRACT(EPOCH FROM clock_timestamp())) AS lifetime,
       NULL::jsonb AS token_attributes, user_attributes, workspace_attributes, u.mfa_enrolled
FROM ` + MissingColumns + `
JOIN ` + Users + ` ON u.id = asked.of_user
LEFT JOIN keywicket.members m
       ON m.user_id = u.id
      AND m.workspace_id = COALESCE(NULLIF(asked.in_id, ''), (SELECT id FROM keywicket.workspaces WHERE slug = asked.in_slug))
LEFT JOIN ` + workspaces + ` ON w.id = m.workspace_id
LIMIT 1) AS found ON true`

// SessionRevoked is an SQL condition. It is true if the session was revoked. It needs a row with the alias "asked" and the columns
// "session" (the session's id), "of_user" (the user's id) and "began" (the session's start, in seconds since 1970).
const SessionRevoked = `(
	EXISTS (SELECT FROM keywicket.revoked_sessions r WHERE r.session_id = asked.session) OR
	EXISTS (SELECT FROM keywicket.revoked_sessions r WHERE r.user_id = asked.of_user AND r.revoked_at >= to_timestamp(asked.began)))`

// OAuthQuery is the query for access tokens of OAuth 2.0. A token counts as revoked if its grant or its app is revoked. The row
// contains the requested workspace if the user has granted the app access to this workspace and is a member. If no workspace is
// requested and the user has granted access to only one workspace, the row contains this workspace.
const OAuthQuery = foundColumns + `, COALESCE(grant_id, ''), COALESCE(app_id, '')
FROM unnest((SELECT $1::bytea[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[])) WITH ORDINALITY AS asked (digest, api, in_id, in_slug, place)
LEFT JOIN LATERAL (
SELECT CASE WHEN t.revoked_at IS NOT NULL OR g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL
              OR ` + Banned + ` THEN 'revoked'
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
CROSS JOIN ` + MissingColumns + `
JOIN ` + Users + ` ON u.id = g.user_id
LEFT JOIN keywicket.oauth_grant_workspaces gw
       ON gw.grant_id = g.id
      AND gw.workspace_id = COALESCE(NULLIF(asked.in_id, ''), (SELECT id FROM keywicket.workspaces WHERE slug = asked.in_slug),
            (SELECT min(sole.workspace_id) FROM keywicket.oauth_grant_workspaces sole
             WHERE sole.grant_id = g.id AND asked.in_id = '' AND asked.in_slug = '' HAVING count(*) = 1))
LEFT JOIN keywicket.members m ON m.user_id = g.user_id AND m.workspace_id = gw.workspace_id
LEFT JOIN ` + workspaces + ` ON w.id = m.workspace_id
WHERE t.digest = asked.digest AND a.api = asked.api
LIMIT 1) AS found ON true`

// Queries returns all queries of look-ups.
func Queries() []string { return []string{TokenQuery, SessionQuery, OAuthQuery} }
