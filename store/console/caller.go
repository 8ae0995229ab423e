package console

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
)

// Caller is what the database must still say about a caller. Empty fields are not checked.
type Caller struct {
	User            string
	Session         authz.Session // of the user
	Workspace, Role string        // the user's role in the workspace
	Token           string        // the id of a token that must be active
}

// ErrOutdated means that the caller has lost their access or their role since they were identified.
var ErrOutdated = database.NewRefusal(database.ErrNotFound, "the caller's access or role has changed")

// Check returns [ErrOutdated] if the transaction sees that the caller has lost their access or their role. Time passes between the
// identification of a caller and a change, for example until a slow client has sent the request's body.
//
// Check also limits how long the transaction waits for each lock. Otherwise, one long transaction could make requests take all
// connections. If a request gave up, its process of the database would continue to wait.
func Check(ctx context.Context, tx *sqlx.Tx, c Caller) error {
	var valid bool
	err := tx.GetContext(ctx, &valid, `
		SELECT ($1 = '' OR EXISTS (
		           SELECT FROM (VALUES ($2::text, $1::text, $3::int8)) AS asked (session, of_user, began) CROSS JOIN `+lookup.MissingColumns+`
		           JOIN `+lookup.Users+` ON u.id = asked.of_user
		           WHERE NOT ($7 AND `+lookup.SessionRevoked+`) AND NOT `+lookup.Banned+`))
		   AND ($5 = '' OR EXISTS (SELECT FROM keywicket.members m WHERE m.user_id = $1 AND m.workspace_id = $4 AND m.role = $5))
		   AND ($6 = '' OR EXISTS (
		           SELECT FROM keywicket.tokens t
		           WHERE t.id = $6 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())))
		FROM set_config('lock_timeout', '1s', true)`,
		c.User, c.Session.ID, c.Session.StartedAt, c.Workspace, c.Role, c.Token, c.Session.UserID != "")
	switch {
	case err != nil:
		return fmt.Errorf("check the caller: %w", err)
	case !valid:
		return ErrOutdated
	}
	return nil
}
