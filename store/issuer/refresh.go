package issuer

import (
	"context"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/lookup"
)

// RefreshRequest is an app's request for new tokens.
type RefreshRequest struct {
	Token  authz.Secret
	Client string                 // id of the app that sends the request
	Format authz.CredentialFormat // format of the new access token
	// ReuseWindow is the time after the first use of a refresh token in which a second use does not revoke the grant. With 0, every
	// second use revokes the grant.
	ReuseWindow time.Duration
}

// Refresh returns a new refresh token with the same scopes, and an access token. The function choose selects the scopes of the
// access token from the granted scopes. If choose returns an error, Refresh returns the same error, and the refresh token can still
// be used. The error is [ErrGrant] if the token is unknown, expired, used or revoked, or belongs to another client.
//
// The client may use a token again within the reuse window, as long as no successor of the token has been used. It then gets one
// more successor. Each successor can be refreshed independently, so that two tabs of an app can go on. No number of uses ends another
// successor, because its holder must be able to revoke the grant. A second use that is later, or by another client, or of an older
// token, revokes the grant with all successors.
func (i *Issuer) Refresh(
	ctx context.Context, request RefreshRequest, choose func(granted []string) ([]string, error),
) (TokenPair, error) {
	var issued TokenPair
	digest := request.Token.Digest()
	refused, err := i.transact(ctx, func(ctx context.Context, tx *sqlx.Tx) (refused, err error) {
		var row struct {
			Client    string `db:"app_id"`
			HasParent bool   `db:"has_parent"` // the table has the column parent, which migration 00014 adds
			grantState
		}
		err = tx.GetContext(ctx, &row, `
			SELECT g.app_id, g.id, g.scopes, r.used_at IS NOT NULL AS used,
			       r.expires_at <= clock_timestamp() OR g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL OR `+lookup.Banned+` AS over,
			       EXISTS (SELECT FROM pg_attribute
			               WHERE attrelid = 'keywicket.oauth_refresh_tokens'::regclass AND attname = 'parent') AS has_parent
			FROM keywicket.oauth_refresh_tokens r
			JOIN keywicket.oauth_grants g ON g.id = r.grant_id
			JOIN keywicket.oauth_apps a ON a.id = g.app_id
			CROSS JOIN `+lookup.MissingColumns+`
			JOIN `+lookup.Users+` ON u.id = g.user_id
			WHERE r.digest = $1 FOR UPDATE OF g, r`, digest[:])
		issued.Grant = row.Grant
		repeated := false
		if err == nil && row.Used && !row.Ended && row.HasParent && row.Client == request.Client && request.ReuseWindow > 0 {
			repeated, err = isRepeatable(ctx, tx, digest, request.ReuseWindow)
		}
		var scopes []string
		if err == nil && !row.Ended && (!row.Used || repeated) {
			if row.Client != request.Client {
				return ErrGrant, nil
			}
			if scopes, refused = choose(row.Scopes); refused != nil {
				return refused, nil
			}
		}
		if !repeated {
			if refused, err = row.markUsed(ctx, tx, err, `oauth_refresh_tokens`, digest); refused != nil || err != nil {
				return refused, err
			}
		}
		var parent []byte
		if row.HasParent {
			parent = digest[:]
		}
		issued, err = row.issue(ctx, tx, request.Format, scopes, parent)
		issued.Repeated = repeated
		return nil, err
	})
	if err != nil {
		return TokenPair{}, fmt.Errorf("refresh the grant: %w", err)
	}
	return issued, refused
}

// isRepeatable reports whether a used refresh token may be used again: its first use is not longer ago than the window, and none of
// its successors has been used. The caller must have locked the grant in an earlier statement, because only a later statement sees
// the successors that a concurrent use has created. All times are of the database's clock. If that clock was set back, the first
// use is in the future, and the same limit applies.
func isRepeatable(ctx context.Context, tx *sqlx.Tx, digest authz.Digest, window time.Duration) (repeatable bool, err error) {
	err = tx.GetContext(ctx, &repeatable, `
		SELECT COALESCE(bool_and(successor.used_at IS NULL
		                         AND abs(EXTRACT(EPOCH FROM clock_timestamp() - r.used_at)) < $2::float8), false)
		FROM keywicket.oauth_refresh_tokens r
		JOIN keywicket.oauth_refresh_tokens successor ON successor.grant_id = r.grant_id AND successor.parent = r.digest
		WHERE r.digest = $1`, digest[:], window.Seconds())
	return repeatable, err
}
