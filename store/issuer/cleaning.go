package issuer

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// retention is how long expired codes and tokens are kept. During that time, a second use of a code or refresh token is still
// recognized (RFC 6749, section 4.1.2), and an app learns that its token has expired.
const retention = `interval '1 day'`

// Clean deletes codes and tokens that expired more than a day ago, and grants that have none left. It returns the number of
// deleted rows. Only one issuer cleans at a time; Clean does nothing in the others.
//
// Each transaction deletes at most as many rows as one change notice can name. After a larger one, every sidecar would drop its
// whole cache.
func (i *Issuer) Clean(ctx context.Context) (tokens, grants int, err error) {
	const (
		batch = 100
		lock  = 1_801_812_343 // key of the advisory lock
	)
	for _, table := range []string{"oauth_codes", "oauth_access_tokens", "oauth_refresh_tokens"} {
		for cleaned := batch; cleaned > 0 && ctx.Err() == nil; {
			_, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
				var mine bool
				if err := tx.GetContext(ctx, &mine, `SELECT pg_try_advisory_xact_lock($1)`, lock); err != nil || !mine {
					cleaned = 0
					return nil, err
				}
				// Lock the grants first, and skip those that are locked. Use now(): Postgres uses no index for a comparison with
				// clock_timestamp().
				var locked, of []string
				err = tx.SelectContext(ctx, &locked, `
					SELECT id FROM keywicket.oauth_grants WHERE id IN (
						SELECT grant_id FROM keywicket.`+table+` WHERE expires_at < now() - `+retention+` ORDER BY expires_at LIMIT $1)
					FOR UPDATE SKIP LOCKED`, batch)
				if err == nil {
					err = tx.SelectContext(ctx, &of, `
						DELETE FROM keywicket.`+table+` WHERE digest IN (
							SELECT digest FROM keywicket.`+table+` WHERE grant_id = ANY ($2) AND expires_at < now() - `+retention+` LIMIT $1)
						RETURNING grant_id`, batch, pq.StringArray(locked))
				}
				if err != nil {
					return nil, err
				}
				cleaned = len(of)
				result, err := tx.ExecContext(ctx, `
					DELETE FROM keywicket.oauth_grants g WHERE id = ANY ($1)
					  AND NOT EXISTS (SELECT FROM keywicket.oauth_codes WHERE grant_id = g.id)
					  AND NOT EXISTS (SELECT FROM keywicket.oauth_access_tokens WHERE grant_id = g.id)
					  AND NOT EXISTS (SELECT FROM keywicket.oauth_refresh_tokens WHERE grant_id = g.id)`, pq.StringArray(of))
				if err != nil {
					return nil, err
				}
				n, err := result.RowsAffected()
				tokens, grants = tokens+cleaned, grants+int(n)
				return nil, err
			})
			if err != nil {
				return tokens, grants, fmt.Errorf("clean up: %w", err)
			}
		}
	}
	return tokens, grants, nil
}
