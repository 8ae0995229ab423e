package issuer

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// retention is how long expired codes and tokens are kept. During that time, the issuer still recognizes a second use of a code
// or refresh token (RFC 6749, section 4.1.2). An app with an old token still learns that its token has expired.
const retention = `interval '1 day'`

// Clean deletes codes and tokens that expired more than a day ago, and grants without codes and tokens. It returns the numbers of
// deleted tokens and grants. If another issuer is already cleaning, Clean does nothing.
//
// Each transaction deletes at most as many rows as one row of the change log can list. A larger transaction would make every
// sidecar discard its whole cache.
func (i *Issuer) Clean(ctx context.Context) (tokens, grants int, err error) {
	const (
		batch = 100
		lock  = 1_801_812_343 // key of the advisory lock
	)
	for _, table := range []string{"oauth_codes", "oauth_access_tokens", "oauth_refresh_tokens"} {
		for cleaned := batch; cleaned > 0 && ctx.Err() == nil; {
			_, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
				var isCleaner bool
				if err := tx.GetContext(ctx, &isCleaner, `SELECT pg_try_advisory_xact_lock($1)`, lock); err != nil || !isCleaner {
					cleaned = 0
					return nil, err
				}
				// Lock the grants first, and skip locked grants. Use now(), because Postgres uses no index for a comparison with
				// clock_timestamp().
				var locked, grantIDs []string
				err = tx.SelectContext(ctx, &locked, `
					SELECT id FROM keywicket.oauth_grants WHERE id IN (
						SELECT grant_id FROM keywicket.`+table+` WHERE expires_at < now() - `+retention+` ORDER BY expires_at LIMIT $1)
					FOR UPDATE SKIP LOCKED`, batch)
				if err == nil {
					err = tx.SelectContext(ctx, &grantIDs, `
						DELETE FROM keywicket.`+table+` WHERE digest IN (
							SELECT digest FROM keywicket.`+table+` WHERE grant_id = ANY ($2) AND expires_at < now() - `+retention+` LIMIT $1)
						RETURNING grant_id`, batch, pq.StringArray(locked))
				}
				if err != nil {
					return nil, err
				}
				cleaned = len(grantIDs)
				result, err := tx.ExecContext(ctx, `
					DELETE FROM keywicket.oauth_grants g WHERE id = ANY ($1)
					  AND NOT EXISTS (SELECT FROM keywicket.oauth_codes WHERE grant_id = g.id)
					  AND NOT EXISTS (SELECT FROM keywicket.oauth_access_tokens WHERE grant_id = g.id)
					  AND NOT EXISTS (SELECT FROM keywicket.oauth_refresh_tokens WHERE grant_id = g.id)`, pq.StringArray(grantIDs))
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
