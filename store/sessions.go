package store

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// RevokedSessions is what was revoked: one session, or all that a user had begun.
type RevokedSessions struct {
	SessionID *string   `db:"session_id" json:"session_id"`
	UserID    *string   `db:"user_id" json:"user_id"`
	RevokedAt time.Time `db:"revoked_at" json:"revoked_at"`
}

// RevokeSession revokes a session, for good, whether or not it was ever seen here. Revoking it again changes nothing.
func (r *Registry) RevokeSession(ctx context.Context, id string) (RevokedSessions, error) {
	if strings.TrimSpace(id) == "" || strings.Count(id, ".") == 2 {
		// A token would be refused by nobody later, and be in the database.
		return RevokedSessions{}, refuse(ErrInvalid, "a session is named by its id, the claim session_id, and not by its token")
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
	return revoked, nil
}

// RevokeSessionsOf revokes all sessions that a user, named by id or email, has begun by now. Those that begin in the same
// second are revoked too: tokens know no less. [ErrNotFound]: there is no such user.
func (r *Registry) RevokeSessionsOf(ctx context.Context, user string) (RevokedSessions, error) {
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
	return revoked, nil
}
