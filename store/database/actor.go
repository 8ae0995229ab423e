package database

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// Actor is who a program acts for when it changes the database. The audit log contains the actor (migration 00018).
type Actor struct {
	// Kind is the kind of the actor: one of the Actor… constants.
	Kind string `json:"kind"`
	ID   string `json:"id"` // at most 255 characters
	// Source is the client's address, and RequestID the id of the sidecar's decision, if they are known.
	Source    string `json:"source,omitempty"`
	RequestID string `json:"request_id,omitempty"`
}

// The kinds of actors.
const (
	ActorUser  = "user"  // the id is the user's id
	ActorApp   = "app"   // an OAuth app: the id is its client_id
	ActorToken = "token" // a workspace's token, or a user's key: the id is the token's id
	// ActorScanner is a secret scanner: the id is the host from which the console fetches the scanner's public keys.
	ActorScanner = "scanner"
)

// ActAs names the actor of the changes that the transaction makes after it. The zero value names nobody.
func ActAs(ctx context.Context, tx *sqlx.Tx, a Actor) error {
	if a == (Actor{}) {
		return nil
	}
	text, err := json.Marshal(a)
	if err == nil {
		_, err = tx.ExecContext(ctx, `SELECT set_config('keywicket.actor', $1, true)`, string(text))
	}
	if err != nil {
		return fmt.Errorf("name the actor: %w", err)
	}
	return nil
}
