// Package verify says what a token is, and whether a sidecar would accept it now. It recognizes and verifies tokens with the code of
// a check, and looks them up with the queries of a sidecar. Its results and errors contain no part of the token and no hash of it.
package verify

import (
	"context"
	"errors"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Result is what keywicket knows about a token. If a sidecar does not know the token, most fields are nil.
type Result struct {
	Good        bool          `json:"good"`   // a sidecar accepts the token now
	Reason      *authz.Reason `json:"reason"` // why the token is not good: the reason of a sidecar's 401
	Explanation string        `json:"explanation,omitempty"`

	Kind        authz.Kind        `json:"kind"`
	API         string            `json:"api"` // empty if several APIs have tokens with this prefix and the database does not have the token
	Environment authz.Environment `json:"environment"`
	Prefix      string            `json:"prefix,omitempty"` // the configured prefix of all tokens of this kind; empty for a session
	ID          *string           `json:"id"`               // of the token, or of the session
	Name        *string           `json:"name"`
	Owner       *string           `json:"owner"` // slug of the workspace, or email of the user
	Scopes      []string          `json:"scopes"`
	WorkspaceID *string           `json:"workspace_id"`
	UserID      *string           `json:"user_id"`
	CreatedAt   *time.Time        `json:"created_at"`
	ExpiresAt   *time.Time        `json:"expires_at"`
	RevokedAt   *time.Time        `json:"revoked_at"` // for the token of an app: when the token, its grant or its app was revoked first
	// RevokedReason is "leaked", or nil if no reason was given or the token is not revoked.
	RevokedReason *string    `json:"revoked_reason"`
	LastUsedAt    *time.Time `json:"last_used_at"` // at most two minutes too early

	App     *App     `json:"app,omitempty"`     // nil if the token is not the access token of an app
	Session *Session `json:"session,omitempty"` // nil if the token is not of a session
}

// App describes the app of an access token, and what the user has granted to it.
type App struct {
	ClientID   string   `json:"client_id"`
	Name       string   `json:"name"`
	GrantID    string   `json:"grant_id"`
	Workspaces []string `json:"workspaces"` // slugs of the granted workspaces
}

// Session describes the session of a token.
type Session struct {
	StartedAt   *time.Time `json:"started_at"`   // at most the configured leeway too early; nil: unknown
	AAL         string     `json:"aal"`          // as in authz.Principal
	MFAEnrolled bool       `json:"mfa_enrolled"` // the user has a second factor
	ConsoleOnly bool       `json:"console_only"` // sidecars accept the session only on the paths of the console
}

func (r *Result) refuse(reason authz.Reason, explanation string) {
	r.Good, r.Reason, r.Explanation = false, &reason, explanation
}

// explainBan returns why the credentials of a banned user are refused.
func explainBan(u registry.User) string {
	return "its user is banned until " + u.BannedUntil.UTC().Format(time.RFC3339)
}

// Verify verifies the token and looks it up. If the token cannot be verified now, or if the database cannot answer, it returns an
// error and no result.
func (t Token) Verify(ctx context.Context, r *registry.Registry) (Result, error) {
	if t.sessionAPI != "" {
		return t.verifySession(ctx, r)
	}
	row, app, revoked, err := find(ctx, r, t.secret.Digest())
	if errors.Is(err, database.ErrNotFound) {
		return t.unknown(), nil
	}
	if err != nil {
		return Result{}, err
	}
	if t.api != "" && row.API != t.api {
		return Result{}, t.otherAPI(row.API)
	}
	result := Result{
		Kind: row.Kind, API: row.API, Environment: row.Environment, Prefix: t.formats[row.API].Prefix, ID: &row.ID, Scopes: row.Scopes,
		WorkspaceID: row.WorkspaceID, UserID: row.UserID, CreatedAt: &row.CreatedAt, ExpiresAt: row.ExpiresAt, RevokedAt: row.RevokedAt,
		RevokedReason: row.RevokedReason, LastUsedAt: row.LastUsedAt, App: app,
	}
	if app == nil {
		result.Name = &row.Name
	}
	if row.WorkspaceID != nil {
		w, err := r.Workspace(ctx, *row.WorkspaceID)
		if err != nil {
			return Result{}, err
		}
		result.Owner = &w.Slug
	} else {
		u, err := r.User(ctx, *row.UserID)
		if err != nil {
			return Result{}, err
		}
		result.Owner = &u.Email
		if row.RevokedAt == nil && u.BannedUntil != nil {
			revoked = explainBan(u)
		}
	}
	denial := authz.ReasonUnknown // a sidecar looks up only what the token's API recognizes
	if format, ok := t.formats[row.API]; ok {
		found, err := r.LookupDigest(ctx, authz.Lookup{Kind: format.Kind, Digest: t.secret.Digest(), API: row.API})
		if err != nil {
			return Result{}, err
		}
		if err := database.ConfirmRow(found.Denial != "" || found.Principal.ID == row.ID, "verify the token"); err != nil {
			return Result{}, err
		}
		denial = found.Denial
	}
	result.Good = denial == ""
	switch denial {
	case "":
	case authz.ReasonExpired:
		result.refuse(denial, "the token has expired")
	case authz.ReasonRevoked:
		if row.RevokedReason != nil {
			revoked += " (" + *row.RevokedReason + ")"
		}
		result.refuse(denial, revoked)
	default:
		result.refuse(denial, "in the configuration, the API "+row.API+" has no tokens of the kind "+string(row.Kind)+" with this prefix")
	}
	return result, nil
}

// find returns the token with the digest, and why it would be revoked. The app is nil if the token is not an access token. The error
// is [database.ErrNotFound] if the database does not have the token.
func find(ctx context.Context, r *registry.Registry, d authz.Digest) (t registry.Token, app *App, revoked string, err error) {
	t, err = r.TokenByDigest(ctx, d)
	if !errors.Is(err, database.ErrNotFound) {
		return t, nil, "the token was revoked", err
	}
	access, err := r.AccessTokenByDigest(ctx, d)
	switch {
	case access.AppRevoked:
		revoked = "its app was revoked"
	case access.GrantRevoked:
		revoked = "its grant was revoked"
	default:
		revoked = "the token was revoked"
	}
	app = &App{ClientID: access.AppID, Name: access.Name, GrantID: access.GrantID, Workspaces: access.WorkspaceSlugs}
	return access.Token, app, revoked, err
}

// unknown returns the result for a token that the database does not have.
func (t Token) unknown() Result {
	var result Result
	for name, format := range t.formats {
		if t.api == "" || name == t.api {
			result.Kind, result.Environment, result.Prefix = format.Kind, format.Environment, format.Prefix
			result.API = name
		}
	}
	if t.api == "" && len(t.formats) > 1 {
		result.API = ""
	}
	result.refuse(authz.ReasonUnknown, "no token in this database has this key")
	return result
}
