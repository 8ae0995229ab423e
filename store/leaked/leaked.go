// Package leaked revokes credentials that leaked, for the operator and for secret scanners.
package leaked

import (
	"context"
	"fmt"
	"slices"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Result is what became of a leaked credential.
type Result string

// The values of Result.
const (
	Revoked        Result = "revoked"         // it was revoked now
	AlreadyRevoked Result = "already_revoked" // it was revoked before; or, for an access token, its grant was
	Unknown        Result = "unknown"         // the database does not have it
)

// Credential is a credential that leaked. For an unknown credential, all fields except Result are empty.
type Credential struct {
	Result      Result     `db:"result" json:"result"`
	ID          string     `db:"id" json:"id,omitempty"`
	Prefix      string     `db:"visible_prefix" json:"prefix,omitempty"` // empty for an access token, because it is not stored
	Kind        authz.Kind `db:"kind" json:"kind,omitempty"`
	API         string     `db:"api" json:"api,omitempty"`
	Name        string     `db:"name" json:"name,omitempty"`   // of an access token: the app's name
	Owner       string     `db:"owner" json:"owner,omitempty"` // slug of the workspace, or email of the user
	WorkspaceID *string    `db:"workspace_id" json:"workspace_id,omitempty"`
	UserID      *string    `db:"user_id" json:"user_id,omitempty"`
	AppID       *string    `db:"app_id" json:"app_id,omitempty"`
	GrantID     *string    `db:"grant_id" json:"grant_id,omitempty"` // the grant of an access token
}

const revokeQuery = `
SELECT leaked.digest, leaked.result, COALESCE(leaked.id, '') AS id, COALESCE(t.visible_prefix, '') AS visible_prefix,
       COALESCE(t.kind, CASE WHEN leaked.grant_id IS NOT NULL THEN 'oauth_token' END, '') AS kind,
       COALESCE(t.api, app.api, '') AS api, COALESCE(t.name, app.name, '') AS name, COALESCE(w.slug, u.email, '') AS owner,
       t.workspace_id, u.id AS user_id, app.id AS app_id, leaked.grant_id
FROM keywicket.revoke_leaked($1) AS leaked
LEFT JOIN keywicket.tokens t ON t.id = leaked.id AND leaked.grant_id IS NULL
LEFT JOIN keywicket.oauth_grants g ON g.id = leaked.grant_id
LEFT JOIN keywicket.oauth_apps app ON app.id = g.app_id
LEFT JOIN keywicket.workspaces w ON w.id = t.workspace_id
LEFT JOIN keywicket.users u ON u.id = COALESCE(t.user_id, g.user_id)`

// Revoke revokes leaked credentials permanently, and notes that they leaked. The credentials are keys, and access tokens of apps. For
// an access token, it revokes the grant, because the refresh token may have leaked too. The results are in the order of the
// credentials. If a credential is already revoked or unknown, this is not an error. If there is an error, the results are those of
// the first credentials, which were processed. The actor may be zero.
func Revoke(ctx context.Context, r *registry.Registry, a database.Actor, credentials []authz.Secret) ([]Credential, error) {
	// One row of the change log lists the keys of at most 50 changed rows, before and after the change. After a larger statement,
	// every sidecar discards its whole cache.
	const batch = 50
	var results []Credential
	for some := range slices.Chunk(credentials, batch) {
		var found []Credential
		err := r.Acting(ctx, a, func(_ *registry.Registry, tx *sqlx.Tx) (err error) {
			found, err = revoke(ctx, tx, some)
			return err
		})
		if err != nil {
			return results, fmt.Errorf("revoke leaked tokens: %w", err)
		}
		results = append(results, found...)
	}
	return results, nil
}

func revoke(ctx context.Context, tx *sqlx.Tx, credentials []authz.Secret) ([]Credential, error) {
	digests := make(pq.ByteaArray, len(credentials))
	for i, c := range credentials {
		d := c.Digest()
		digests[i] = d[:]
	}
	var rows []struct {
		Digest []byte `db:"digest"`
		Credential
	}
	if err := tx.SelectContext(ctx, &rows, revokeQuery, digests); err != nil {
		return nil, err
	}
	found := make(map[string]Credential, len(rows))
	for _, row := range rows {
		found[string(row.Digest)] = row.Credential
	}
	results := make([]Credential, len(digests))
	for i, d := range digests {
		c, ok := found[string(d)]
		if err := database.ConfirmRow(ok, "find the tokens"); err != nil {
			return nil, err
		}
		results[i] = c
	}
	return results, nil
}
