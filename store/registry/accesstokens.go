package registry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
)

// AccessToken is an access token of OAuth 2.0. Its Token has the form of a user's token, with the name of the app.
type AccessToken struct {
	Token               // RevokedAt is the time at which the token, its grant or its app was revoked first; RevokedReason is of the grant
	AppID        string `db:"app_id"`
	AppRevoked   bool   `db:"app_revoked"`
	GrantID      string `db:"grant_id"`
	GrantRevoked bool   `db:"grant_revoked"`
	// WorkspaceIDs and WorkspaceSlugs identify the workspaces that the user has granted to the app, sorted by slug.
	WorkspaceIDs   pq.StringArray `db:"workspace_ids"`
	WorkspaceSlugs pq.StringArray `db:"workspace_slugs"`
}

const (
	accessTokenQuery = `
SELECT t.id, t.api, t.name, 'oauth_token' AS kind, 'live' AS environment, t.scopes, t.user_id, t.created_at, ` + expiresAt + `,
       ` + revokedAt + `, ` + revokedReason + `, t.app_id, t.app_revoked, t.grant_id, t.grant_revoked,
       ARRAY(SELECT w.id ` + grantedWorkspaces + `) AS workspace_ids, ARRAY(SELECT w.slug ` + grantedWorkspaces + `) AS workspace_slugs
FROM (SELECT t.id, t.scopes, t.created_at, t.expires_at, LEAST(t.revoked_at, g.revoked_at, a.revoked_at) AS revoked_at,
             CASE WHEN g.revoked_at IS NOT NULL THEN g.revoked_reason END AS revoked_reason,
             g.id AS grant_id, g.user_id, g.revoked_at IS NOT NULL AS grant_revoked,
             a.id AS app_id, a.api, a.name, a.revoked_at IS NOT NULL AS app_revoked
      FROM keywicket.oauth_access_tokens t
      JOIN keywicket.oauth_grants g ON g.id = t.grant_id
      JOIN keywicket.oauth_apps a ON a.id = g.app_id) t
WHERE t.id = $1`
	grantedWorkspaces = `FROM keywicket.oauth_grant_workspaces gw JOIN keywicket.workspaces w ON w.id = gw.workspace_id
             WHERE gw.grant_id = t.grant_id ORDER BY w.slug`
)

// AccessToken returns an access token by its id. The error is [database.ErrNotFound] if the token does not exist.
func (r *Registry) AccessToken(ctx context.Context, id string) (AccessToken, error) {
	var t AccessToken
	err := r.db.GetContext(ctx, &t, accessTokenQuery, id)
	if errors.Is(err, sql.ErrNoRows) {
		return AccessToken{}, errNoToken
	}
	if err != nil {
		return AccessToken{}, fmt.Errorf("find the access token: %w", err)
	}
	return t, database.ConfirmRow(t.ID == id, "find the access token")
}

// AccessTokenByDigest returns an access token by its digest. The error is [database.ErrNotFound] if the token does not exist.
func (r *Registry) AccessTokenByDigest(ctx context.Context, d authz.Digest) (AccessToken, error) {
	id, err := r.idByDigest(ctx, "oauth_access_tokens", d)
	if err != nil {
		return AccessToken{}, err
	}
	return r.AccessToken(ctx, id)
}

// idByDigest returns the id of the token with the digest. The error is [database.ErrNotFound] if the table does not have the token.
func (r *Registry) idByDigest(ctx context.Context, table string, d authz.Digest) (string, error) {
	var found struct {
		ID     string `db:"id"`
		Digest []byte `db:"digest"`
	}
	err := r.db.GetContext(ctx, &found, `SELECT id, digest FROM keywicket.`+table+` WHERE digest = $1`, d[:])
	if errors.Is(err, sql.ErrNoRows) {
		return "", errNoToken
	}
	if err == nil {
		err = database.ConfirmRow(bytes.Equal(found.Digest, d[:]), "compare the digest")
	}
	if err != nil {
		return "", fmt.Errorf("find the token: %w", err)
	}
	return found.ID, nil
}
