package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/oauthapp"
)

// App is an OAuth 2.0 client: a third-party program that acts for users who have consented.
type App struct {
	ID           string         `db:"id" json:"id"` // the client_id
	API          string         `db:"api" json:"api"`
	Name         string         `db:"name" json:"name"`
	RedirectURIs pq.StringArray `db:"redirect_uris" json:"redirect_uris"`
	// Scopes are the scopes of an authorization request without a scope.
	Scopes pq.StringArray `db:"scopes" json:"scopes"`
	// Confidential reports whether the app must always authenticate with its secret.
	Confidential bool `db:"confidential" json:"confidential"`
	// Development reports whether the app is in development. The consent page says so.
	Development bool `db:"development" json:"development"`
	// OwnerID is the user who registered the app; nil: only the operator manages the app.
	OwnerID   *string    `db:"owner_id" json:"owner_id"`
	CreatedAt time.Time  `db:"created_at" json:"created_at"`
	RevokedAt *time.Time `db:"revoked_at" json:"revoked_at"`
	Status    Status     `db:"status" json:"status"`
}

// NewApp describes the app to create. The caller must check the redirect URIs and the scopes, because the registry does not check
// them.
type NewApp struct {
	ID           string // the client_id; if it is empty, CreateApp generates a random UUID
	API, Name    string
	RedirectURIs []string
	Scopes       []string
	Confidential bool
	Development  bool   // the app is in development
	Owner        string // id of the user who registers the app; empty: only the operator manages the app
}

// AppColumns are the columns of an [App].
const AppColumns = `id, api, name, redirect_uris, scopes, confidential, development, owner_id, created_at, revoked_at,
	CASE WHEN revoked_at IS NULL THEN 'active' ELSE 'revoked' END AS status`

// CreateApp creates an app and returns it with its secret. The database stores only the secret's digest.
func (r *Registry) CreateApp(ctx context.Context, n NewApp) (App, authz.Secret, error) {
	secret := oauthapp.NewSecret()
	digest := secret.Digest()
	// The database's constraints also check these values. Check them here first, because Postgres logs a row that violates a
	// constraint.
	if err := oauthapp.CheckName(n.Name); err != nil {
		return App{}, "", err
	}
	switch {
	case n.ID != "" && !oauthapp.ValidID(n.ID):
		return App{}, "", database.NewRefusal(database.ErrInvalid, "the client id %q is not valid: write 1 to 100 letters, digits and . _ ~ -, starting with a letter or digit", n.ID)
	case len(n.RedirectURIs) == 0 || len(n.RedirectURIs) > 20:
		return App{}, "", database.NewRefusal(database.ErrInvalid, "an app must have 1 to 20 redirect URIs")
	}
	var app App
	err := r.db.GetContext(ctx, &app, `
		INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential, development, scopes, owner_id)
		VALUES (COALESCE(NULLIF($1, ''), gen_random_uuid()::text), $2, $3, $4, $5, $6, $7, $8, NULLIF($9, ''))
		RETURNING `+AppColumns, n.ID, n.API, n.Name, database.NonNilArray(n.RedirectURIs), digest[:], n.Confidential, n.Development,
		database.NonNilArray(n.Scopes), n.Owner)
	if err != nil {
		return App{}, "", database.ConstraintError(err, "create the app", map[string]error{
			"oauth_apps_pkey":     database.NewRefusal(database.ErrExists, "the client id %q is taken", n.ID),
			"oauth_apps_api_form": database.NewRefusal(database.ErrInvalid, "the API's name %q is invalid: use only letters, digits, _ and -", n.API),
		})
	}
	return app, secret, database.ConfirmRow((n.ID == "" || app.ID == n.ID) && app.API == n.API && app.Name == n.Name, "create the app")
}

// Apps lists all apps, newest first.
func (r *Registry) Apps(ctx context.Context) ([]App, error) {
	list := []App{}
	err := r.db.SelectContext(ctx, &list, `SELECT `+AppColumns+` FROM keywicket.oauth_apps ORDER BY created_at DESC, id`)
	if err != nil {
		return nil, fmt.Errorf("list the apps: %w", err)
	}
	return list, nil
}

// RotateAppSecret sets a new secret for an app. The previous secret becomes invalid immediately.
func (r *Registry) RotateAppSecret(ctx context.Context, id string) (App, authz.Secret, error) {
	secret := oauthapp.NewSecret()
	digest := secret.Digest()
	app, err := r.oneApp(ctx, id, `UPDATE keywicket.oauth_apps SET secret_digest = $2 WHERE id = $1 RETURNING `+AppColumns, digest[:])
	if err != nil {
		return App{}, "", err
	}
	return app, secret, nil
}

// RevokeApp revokes an app with all its grants and tokens. If the app is already revoked, this is not an error.
func (r *Registry) RevokeApp(ctx context.Context, id string) (App, error) {
	app, err := r.oneApp(ctx, id, `
		UPDATE keywicket.oauth_apps SET revoked_at = COALESCE(revoked_at, clock_timestamp()) WHERE id = $1 RETURNING `+AppColumns)
	if err != nil {
		return App{}, err
	}
	return app, database.ConfirmRow(app.RevokedAt != nil, "revoke the app")
}

// oneApp runs a query that returns an app. $1 is the app's id.
func (r *Registry) oneApp(ctx context.Context, id, query string, args ...any) (App, error) {
	var app App
	err := r.db.GetContext(ctx, &app, query, append([]any{id}, args...)...)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return App{}, oauthapp.ErrUnknown
	case err != nil:
		return App{}, fmt.Errorf("find the app: %w", err)
	}
	return app, database.ConfirmRow(app.ID == id, "find the app")
}

// Grant is a user's grant to an app.
type Grant struct {
	ID         string         `db:"id" json:"id"`
	AppID      string         `db:"app_id" json:"app_id"`
	AppName    string         `db:"app_name" json:"app_name"`
	UserID     string         `db:"user_id" json:"user_id"`
	Email      string         `db:"email" json:"email"`
	Scopes     pq.StringArray `db:"scopes" json:"scopes"`
	Workspaces pq.StringArray `db:"workspaces" json:"workspaces"` // slugs
	CreatedAt  time.Time      `db:"created_at" json:"created_at"`
	RevokedAt  *time.Time     `db:"revoked_at" json:"revoked_at"`
	// RevokedReason is "leaked", or nil if no reason was given or the grant is not revoked.
	RevokedReason *string `db:"revoked_reason" json:"revoked_reason"`
	Status        Status  `db:"status" json:"status"`
}

// GrantStatus is an SQL expression: the status of the grant g to the app a. A grant without a code or a token that is still valid has
// expired.
const GrantStatus = `CASE WHEN g.revoked_at IS NOT NULL OR a.revoked_at IS NOT NULL THEN 'revoked'
            WHEN EXISTS (SELECT FROM keywicket.oauth_codes c WHERE c.grant_id = g.id AND c.used_at IS NULL AND c.expires_at > clock_timestamp())
              OR EXISTS (SELECT FROM keywicket.oauth_access_tokens t
                         WHERE t.grant_id = g.id AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp())
              OR EXISTS (SELECT FROM keywicket.oauth_refresh_tokens r
                         WHERE r.grant_id = g.id AND r.used_at IS NULL AND r.expires_at > clock_timestamp()) THEN 'active'
            ELSE 'expired' END`

const grantQuery = `
SELECT g.id, g.app_id, a.name AS app_name, g.user_id, u.email, g.scopes, g.created_at, LEAST(g.revoked_at, a.revoked_at) AS revoked_at,
       CASE WHEN g.revoked_at IS NOT NULL THEN g.revoked_reason END AS revoked_reason,
       ` + GrantStatus + ` AS status,
       ARRAY(SELECT w.slug FROM keywicket.oauth_grant_workspaces gw JOIN keywicket.workspaces w ON w.id = gw.workspace_id
             WHERE gw.grant_id = g.id ORDER BY w.slug) AS workspaces
FROM keywicket.oauth_grants g
JOIN keywicket.oauth_apps a ON a.id = g.app_id
JOIN keywicket.users u ON u.id = g.user_id`

// Grants lists the grants, newest first. If the parameter `app` or `user` is not empty, Grants lists only the grants of this app or
// user.
func (r *Registry) Grants(ctx context.Context, app, user string) ([]Grant, error) {
	if user != "" {
		u, err := r.User(ctx, user)
		if err != nil {
			return nil, err
		}
		user = u.ID
	}
	list := []Grant{}
	if app != "" {
		if _, err := r.oneApp(ctx, app, `SELECT `+AppColumns+` FROM keywicket.oauth_apps WHERE id = $1`); err != nil {
			return nil, err
		}
	}
	err := r.db.SelectContext(ctx, &list, grantQuery+`
		WHERE ($1 = '' OR g.app_id = $1) AND ($2 = '' OR g.user_id = $2) ORDER BY g.created_at DESC, g.id`, app, user)
	if err != nil {
		return nil, fmt.Errorf("list the grants: %w", err)
	}
	return list, nil
}

// RevokeGrant revokes a grant with all its tokens. If the grant is already revoked, this is not an error.
func (r *Registry) RevokeGrant(ctx context.Context, id string) (Grant, error) {
	_, err := r.db.ExecContext(ctx, `
		UPDATE keywicket.oauth_grants SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL`, id)
	if err != nil {
		return Grant{}, fmt.Errorf("revoke the grant: %w", err)
	}
	var g Grant
	err = r.db.GetContext(ctx, &g, grantQuery+` WHERE g.id = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Grant{}, database.NewRefusal(database.ErrNotFound, "no grant has this id")
	}
	if err != nil {
		return Grant{}, fmt.Errorf("find the grant: %w", err)
	}
	return g, database.ConfirmRow(g.ID == id && g.RevokedAt != nil, "revoke the grant")
}
