package registry

import (
	"context"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
)

// Leaked is a credential that leaked, and what became of it. For an unknown credential, all fields except Result are empty.
type Leaked struct {
	Result      LeakResult `db:"result" json:"result"`
	ID          string     `db:"id" json:"id,omitempty"`
	Prefix      string     `db:"visible_prefix" json:"prefix,omitempty"` // empty for an access token, because it is not stored
	Kind        authz.Kind `db:"kind" json:"kind,omitempty"`
	API         string     `db:"api" json:"api,omitempty"`
	Name        string     `db:"name" json:"name,omitempty"`   // of an access token: the app's name
	Owner       string     `db:"owner" json:"owner,omitempty"` // slug of the workspace, or email of the user
	WorkspaceID *string    `db:"workspace_id" json:"workspace_id,omitempty"`
	UserID      *string    `db:"user_id" json:"user_id,omitempty"`
	AppID       string     `db:"app_id" json:"app_id,omitempty"`
	GrantID     string     `db:"grant_id" json:"grant_id,omitempty"`
}

// LeakResult is what became of a leaked credential.
type LeakResult string

// The values of LeakResult.
const (
	LeakRevoked LeakResult = "revoked"         // it was revoked now
	LeakKnown   LeakResult = "already_revoked" // it was revoked before; or, for an access token, its grant was
	LeakUnknown LeakResult = "unknown"         // the database does not have it
)

// revokeLeakedQuery revokes the tokens with the digests $1, and the grants of the access tokens with these digests. It locks the
// rows in the order of their ids, so that two such queries cannot wait for each other, and only one of them revokes a row.
const revokeLeakedQuery = `
WITH leaked_token AS (
	UPDATE keywicket.tokens SET revoked_at = clock_timestamp(), revoked_reason = 'leaked'
	WHERE id IN (SELECT id FROM keywicket.tokens WHERE digest = ANY ($1) AND revoked_at IS NULL ORDER BY id FOR UPDATE)
	RETURNING id),
leaked_grant AS (
	UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp(), revoked_reason = 'leaked'
	WHERE id IN (
		SELECT id FROM keywicket.oauth_grants WHERE revoked_at IS NULL AND id IN (
			SELECT grant_id FROM keywicket.oauth_access_tokens WHERE digest = ANY ($1)) ORDER BY id FOR UPDATE)
	RETURNING id)
SELECT asked.digest,
       CASE WHEN t.id IS NULL AND a.id IS NULL THEN 'unknown'
            WHEN leaked_token.id IS NULL AND leaked_grant.id IS NULL THEN 'already_revoked'
            ELSE 'revoked' END AS result,
       COALESCE(t.id, a.id, '') AS id, COALESCE(t.visible_prefix, '') AS visible_prefix,
       COALESCE(t.kind, CASE WHEN a.id IS NOT NULL THEN 'oauth_token' END, '') AS kind,
       COALESCE(t.api, app.api, '') AS api, COALESCE(t.name, app.name, '') AS name, COALESCE(w.slug, u.email, '') AS owner,
       t.workspace_id, u.id AS user_id, COALESCE(app.id, '') AS app_id, COALESCE(g.id, '') AS grant_id
FROM unnest($1::bytea[]) AS asked (digest)
LEFT JOIN keywicket.tokens t ON t.digest = asked.digest
LEFT JOIN leaked_token ON leaked_token.id = t.id
LEFT JOIN keywicket.oauth_access_tokens a ON a.digest = asked.digest
LEFT JOIN keywicket.oauth_grants g ON g.id = a.grant_id
LEFT JOIN leaked_grant ON leaked_grant.id = g.id
LEFT JOIN keywicket.oauth_apps app ON app.id = g.app_id
LEFT JOIN keywicket.workspaces w ON w.id = t.workspace_id
LEFT JOIN keywicket.users u ON u.id = COALESCE(t.user_id, g.user_id)`

// RevokeLeaked revokes leaked credentials permanently, and notes that they leaked. The credentials are keys, and access tokens of
// apps. For an access token, it revokes the grant, because the refresh token may have leaked too. The results are in the order of
// the credentials. If a credential is already revoked or unknown, this is not an error. If there is an error, the results are those
// of the credentials before it.
func (r *Registry) RevokeLeaked(ctx context.Context, credentials []authz.Secret) ([]Leaked, error) {
	const batch = 100 // one row of the change log lists at most 100 keys; for more, sidecars discard their whole cache
	var results []Leaked
	for some := range slices.Chunk(credentials, batch) {
		digests := make(pq.ByteaArray, len(some))
		for i, c := range some {
			d := c.Digest()
			digests[i] = d[:]
		}
		var rows []struct {
			Digest []byte `db:"digest"`
			Leaked
		}
		if err := r.db.SelectContext(ctx, &rows, revokeLeakedQuery, digests); err != nil {
			return results, fmt.Errorf("revoke leaked tokens: %w", err)
		}
		found := make(map[string]Leaked, len(rows))
		for _, row := range rows {
			found[string(row.Digest)] = row.Leaked
		}
		for _, d := range digests {
			l, ok := found[string(d)]
			if err := database.ConfirmRow(ok, "revoke leaked tokens"); err != nil {
				return results, err
			}
			results = append(results, l)
		}
	}
	return results, nil
}
