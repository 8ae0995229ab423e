package lookup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
)

// User is the user of a session.
type User struct {
	ID          string
	Email       string
	MFAEnrolled bool // the user has a second factor
}

// SessionUser returns the user of a session. The error is [database.ErrNotFound] if the user does not exist or is banned, or if the
// session was revoked.
func SessionUser(ctx context.Context, db *sqlx.DB, s authz.Session) (User, error) {
	var u User
	err := db.QueryRowContext(ctx, `
		SELECT u.id, email.email, u.mfa_enrolled
		FROM (VALUES ($1::text, $2::text, $3::int8)) AS asked (session, of_user, began) CROSS JOIN `+MissingColumns+`
		JOIN `+Users+` ON u.id = asked.of_user JOIN keywicket.users email ON email.id = u.id
		WHERE NOT `+SessionRevoked+` AND NOT `+Banned,
		s.ID, s.UserID, s.StartedAt).Scan(&u.ID, &u.Email, &u.MFAEnrolled)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return User{}, database.NewRefusal(database.ErrNotFound, "the session's user no longer exists or is banned, or the session was revoked")
	case err != nil:
		return User{}, fmt.Errorf("find the session's user: %w", err)
	}
	return u, nil
}
