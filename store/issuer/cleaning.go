package issuer

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// retention is how long codes and tokens are kept after their expiry. During this time, the issuer still detects a second use of a
// code or refresh token (RFC 6749, section 4.1.2). Also, an expired access token is still denied as expired, not as unknown.
const retention = `interval '1 day'`

// Clean deletes codes and tokens that expired more than a day ago. If a grant then has no codes and tokens left, Clean also deletes
// the grant. The result `tokens` is the number of deleted codes and tokens. The result `grants` is the number of deleted grants.
// While another issuer cleans, Clean does nothing.
//
// Each transaction deletes at most 100 rows, because one row of the change log can list the keys of 100 rows. A larger transaction
// would make every sidecar discard its whole cache.
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
				return tokens, grants, fmt.Errorf("delete expired codes and tokens: %w", err)
			}
		}
	}
	return tokens, grants, nil
}
