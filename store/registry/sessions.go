package registry

import (
	"context"
	"errors"
	"fmt"
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
}

// RevokeSession revokes a session permanently. If the session is already revoked, this is not an error. The database does not
// contain sessions, so RevokeSession accepts every valid id. To detect mistakes, it rejects ids that look like tokens, and the ids
// and emails of users.
func (r *Registry) RevokeSession(ctx context.Context, id string) (RevokedSessions, error) {
	if !isSessionID(id) {
		return RevokedSessions{}, database.NewRefusal(database.ErrInvalid, "the session id is not valid: give the value of the claim session_id in a token of the session")
	}
	switch u, err := r.User(ctx, id); {
	case err == nil:
		return RevokedSessions{}, database.NewRefusal(database.ErrInvalid, "%s is a user: use --user to revoke all of the user's sessions", u.ID)
	case !errors.Is(err, database.ErrNotFound):
		return RevokedSessions{}, err
	}
	var revoked RevokedSessions
	err := r.db.GetContext(ctx, &revoked, `
		WITH before AS (SELECT min(revoked_at) AS at FROM keywicket.revoked_sessions WHERE session_id = $1),
		     now AS (INSERT INTO keywicket.revoked_sessions (session_id) SELECT $1 FROM before WHERE at IS NULL
		             RETURNING revoked_at)
		SELECT $1 AS session_id, COALESCE((SELECT at FROM before), (SELECT revoked_at FROM now)) AS revoked_at`, id)
	if err != nil {
		return RevokedSessions{}, fmt.Errorf("revoke the session: %w", err)
	}
	return revoked, database.ConfirmRow(revoked.SessionID != nil && *revoked.SessionID == id, "revoke the session")
}

// isSessionID reports whether the id has the form that the column's constraint requires. It also rejects tokens, and ids that were
// copied with surrounding text. Check the form here too, because Postgres logs a row that violates the constraint.
func isSessionID(id string) bool {
	return id != "" && utf8.ValidString(id) && utf8.RuneCountInString(id) <= 255 && strings.TrimSpace(id) == id &&
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
