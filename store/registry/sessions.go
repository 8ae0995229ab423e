package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keywicket/keywicket/store/database"
)

// RevokedSessions describes a revocation of one session, or of all sessions that a user began before the revocation.
type RevokedSessions struct {
	SessionID *string   `db:"session_id" json:"session_id"`
	UserID    *string   `db:"user_id" json:"user_id"`
	RevokedAt time.Time `db:"revoked_at" json:"revoked_at"`
	// Seen says whether Supabase Auth has the session. It is nil if the database does not contain Supabase's table of sessions, if
	// the login may not read it, and for all sessions of a user.
	Seen *bool `db:"-" json:"seen"`
}

// RevokeSession revokes a session permanently. If the session is already revoked, this is not an error. keywicket has no table of
// sessions, so RevokeSession accepts an id that it has never seen. To detect mistakes, it rejects ids that look like tokens, and ids
// that belong to another object, such as a user or a token.
func (r *Registry) RevokeSession(ctx context.Context, id string) (RevokedSessions, error) {
	if !isSessionID(id) {
		return RevokedSessions{}, database.NewRefusal(database.ErrInvalid, "the session id is not valid: give the value of the claim session_id in a token of the session")
	}
	if err := r.refuseOtherObject(ctx, id); err != nil {
		return RevokedSessions{}, err
	}
	seen, err := r.seen(ctx, id)
	if err != nil {
		return RevokedSessions{}, err
	}
	revoked := RevokedSessions{Seen: seen}
	err = r.db.GetContext(ctx, &revoked, `
		WITH before AS (SELECT min(revoked_at) AS at FROM keywicket.revoked_sessions WHERE session_id = $1),
		     now AS (INSERT INTO keywicket.revoked_sessions (session_id) SELECT $1 FROM before WHERE at IS NULL
		             RETURNING revoked_at)
		SELECT $1 AS session_id, COALESCE((SELECT at FROM before), (SELECT revoked_at FROM now)) AS revoked_at`, id)
	if err != nil {
		return RevokedSessions{}, fmt.Errorf("revoke the session: %w", err)
	}
	return revoked, database.ConfirmRow(revoked.SessionID != nil && *revoked.SessionID == id, "revoke the session")
}

// otherObject returns $1 and a message if $1 identifies an object that is not a session.
const otherObject = `
SELECT $1, id || ' is a user: use --user to revoke all of the user''s sessions' FROM keywicket.users WHERE id = $1 OR lower(email) = lower($1)
UNION ALL SELECT $1, id || ' is the id of a token, not of a session: use keywicket token revoke' FROM keywicket.tokens WHERE id = $1
UNION ALL SELECT $1, id || ' is the id of an app''s access token, not of a session: use keywicket grant revoke ' || grant_id
	FROM keywicket.oauth_access_tokens WHERE id = $1
UNION ALL SELECT $1, id || ' is the id of a grant, not of a session: use keywicket grant revoke' FROM keywicket.oauth_grants WHERE id = $1
UNION ALL SELECT $1, id || ' is the id of an app, not of a session: use keywicket oauth-app revoke' FROM keywicket.oauth_apps WHERE id = $1
UNION ALL SELECT $1, $1 || ' is a workspace, not a session: give the value of the claim session_id' FROM keywicket.workspaces WHERE id = $1 OR slug = $1`

// refuseOtherObject returns an error if the id belongs to an object that is not a session.
func (r *Registry) refuseOtherObject(ctx context.Context, id string) error {
	var asked, message string
	switch err := r.pool.QueryRowxContext(ctx, otherObject, id).Scan(&asked, &message); {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("check the session id: %w", err)
	case asked != id:
		return database.ConfirmRow(false, "check the session id")
	}
	return database.NewRefusal(database.ErrInvalid, "%s", message)
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// seen reports whether Supabase's table auth.sessions has the session. The result is nil if this database has no such table, or if
// the login may not read all of its rows. The first query reads only the catalog, because Postgres would log a refused query.
func (r *Registry) seen(ctx context.Context, id string) (*bool, error) {
	var seen, readable bool
	err := r.db.GetContext(ctx, &readable, `
		SELECT EXISTS (
			SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
			WHERE n.nspname = 'auth' AND c.relname = 'sessions' AND a.attname = 'id' AND a.atttypid = 'uuid'::regtype
				AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid))`)
	if err == nil && readable && uuidForm.MatchString(id) {
		err = r.db.GetContext(ctx, &seen, `SELECT EXISTS (SELECT FROM auth.sessions WHERE id = $1::uuid)`, id)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("look for the session in auth.sessions: %w", err)
	case !readable:
		return nil, nil
	}
	return &seen, nil
}

// isSessionID reports whether the id has the form that the column's constraint requires. It also rejects tokens, ids that were
// copied with surrounding text, and U+FFFD, which no accepted token contains in its session_id. Postgres checks the form again, but
// logs a row that violates the constraint.
func isSessionID(id string) bool {
	return id != "" && !strings.ContainsRune(id, utf8.RuneError) && utf8.RuneCountInString(id) <= 255 && strings.TrimSpace(id) == id &&
		strings.Count(id, ".") != 2 && !strings.ContainsAny(id, "{}=") && !strings.ContainsFunc(id, unicode.IsControl)
}

// RevokeUserSessions revokes all sessions that a user has begun by now. The parameter `user` is an id or an email. Sessions that
// begin later in the same second are also revoked, because the times in tokens are in whole seconds. The error is
// [database.ErrNotFound] if the user does not exist.
func (r *Registry) RevokeUserSessions(ctx context.Context, user string) (RevokedSessions, error) {
	u, err := r.User(ctx, user)
	if err != nil {
		return RevokedSessions{}, err
	}
	var revoked RevokedSessions
	err = r.db.GetContext(ctx, &revoked, `
		INSERT INTO keywicket.revoked_sessions (user_id) VALUES ($1) RETURNING session_id, user_id, revoked_at`, u.ID)
	if err != nil {
		return RevokedSessions{}, fmt.Errorf("revoke the sessions: %w", err)
	}
	return revoked, database.ConfirmRow(revoked.UserID != nil && *revoked.UserID == u.ID, "revoke the sessions")
}
