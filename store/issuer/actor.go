package issuer

import (
	"context"
	"encoding/json"

	"github.com/jmoiron/sqlx"
)

// The kinds of actors in the audit log.
const (
	actorUser = "user"
	actorApp  = "app"
)

// setActor names the actor of the changes that the transaction makes after it. The database's audit log contains the actor.
func setActor(ctx context.Context, tx *sqlx.Tx, kind, id string) error {
	actor, err := json.Marshal(map[string]string{"kind": kind, "id": id})
	if err == nil {
		_, err = tx.ExecContext(ctx, `SELECT set_config('keywicket.actor', $1, true)`, string(actor))
	}
	return err
}
