package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/store/database"
)

// IdempotencyLifetime is how long the store remembers a creation.
const IdempotencyLifetime = 24 * time.Hour

// ErrOtherRequest means that the idempotency key was used for a different request.
var ErrOtherRequest = database.NewRefusal(database.ErrExists, "the idempotency key was used for a different request: use a new key")

// Creation identifies a creation, so that a repetition of the request creates nothing.
type Creation struct {
	Caller string // the id of the user or of the token
	Key    string // chosen by the client; empty: each request creates an object
	// Request is the request in any form that is equal for equal requests.
	Request string
}

// Once calls the function, which creates an object in the transaction and returns its id. If the same request was made before, Once
// does not call the function, and returns the id of the object that it created. The error is [ErrOtherRequest] if the key was used for
// another request. If another transaction makes the same request, Once waits for it.
func Once(ctx context.Context, tx *sqlx.Tx, c Creation, create func() (id string, err error)) (id string, repeated bool, err error) {
	if c.Key == "" {
		id, err = create()
		return id, false, err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%q %q", c.Caller, c.Key))
	request := sha256.Sum256([]byte(c.Request))
	_, err = tx.ExecContext(ctx, `
		DELETE FROM keywicket.idempotency_keys WHERE digest = $1 AND created_at < clock_timestamp() - $2 * interval '1 second'`,
		key[:], IdempotencyLifetime.Seconds())
	if err != nil {
		return "", false, fmt.Errorf("delete the old idempotency key: %w", err)
	}
	inserted, err := tx.ExecContext(ctx, `
		INSERT INTO keywicket.idempotency_keys (digest, request_digest) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING`, key[:], request[:])
	if err != nil {
		return "", false, fmt.Errorf("store the idempotency key: %w", err)
	}
	if n, err := inserted.RowsAffected(); err != nil || n == 0 {
		return find(ctx, tx, key, request)
	}
	if id, err = create(); err != nil {
		return "", false, err
	}
	if _, err = tx.ExecContext(ctx, `UPDATE keywicket.idempotency_keys SET object_id = $2 WHERE digest = $1`, key[:], id); err != nil {
		return "", false, fmt.Errorf("store the idempotency key: %w", err)
	}
	return id, false, nil
}

// find returns the id of the object that an earlier request created.
func find(ctx context.Context, tx *sqlx.Tx, key, request [sha256.Size]byte) (string, bool, error) {
	var row struct {
		Request []byte         `db:"request_digest"`
		Object  sql.NullString `db:"object_id"`
	}
	err := tx.GetContext(ctx, &row, `SELECT request_digest, object_id FROM keywicket.idempotency_keys WHERE digest = $1`, key[:])
	switch {
	case err != nil:
		return "", false, fmt.Errorf("find the idempotency key: %w", err)
	case !bytes.Equal(row.Request, request[:]):
		return "", false, ErrOtherRequest
	case !row.Object.Valid:
		return "", false, errors.New("the idempotency key has no object")
	}
	return row.Object.String, true, nil
}

// DeleteOldKeys deletes idempotency keys that are no longer needed.
func (s *Store) DeleteOldKeys(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, `
		DELETE FROM keywicket.idempotency_keys WHERE created_at < clock_timestamp() - $1 * interval '1 second'`, IdempotencyLifetime.Seconds())
	if err != nil {
		return fmt.Errorf("delete old idempotency keys: %w", err)
	}
	return nil
}
