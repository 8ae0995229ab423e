package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/oauthapp"
	"github.com/keywicket/keywicket/store/registry"
)

// NewApp describes an app to register.
type NewApp struct {
	Name         string
	RedirectURIs []string
	Scopes       []string // the scopes of an authorization request without a scope
	Confidential bool     // the app must always authenticate with its secret
	Development  bool     // a redirect URI may be http://localhost, and the consent page says that the app is in development
	// IdempotencyKey makes a repeated request harmless; empty: each request registers an app.
	IdempotencyKey string
}

// maxApps is the maximum number of active apps that a user can have in an API.
const maxApps = 50

// RegisterApp registers an app of the caller.
func (s *Settings) RegisterApp(ctx context.Context, c Caller, n NewApp) (Created[console.App], error) {
	if err := c.MayManageApps(); err != nil {
		return Created[console.App]{}, err
	}
	n.Name = strings.TrimSpace(n.Name)
	n.Scopes = slices.Compact(slices.Sorted(slices.Values(n.Scopes)))
	if n.Name == "" {
		return Created[console.App]{}, &FieldError{Field: "name", Text: "Give the app a name."}
	}
	if err := oauthapp.CheckName(n.Name); err != nil {
		return Created[console.App]{}, &FieldError{Field: "name", Text: sentence(err)}
	}
	app := issuance.App{RedirectURIs: n.RedirectURIs, Scopes: n.Scopes, Development: n.Development}
	if err := c.API.Rules.CheckApp(c.Maker, app); err != nil {
		return Created[console.App]{}, refusalError(err)
	}
	return creation[console.App]{
		key:     n.IdempotencyKey,
		request: fmt.Sprintf("register app %q %q %q %q %t %t", c.API.Name, n.Name, n.RedirectURIs, n.Scopes, n.Confidential, n.Development),
		create: func(r *registry.Registry, tx *sqlx.Tx) (console.App, authz.Secret, error) {
			active, err := console.CountApps(ctx, tx, c.User.ID, c.API.Name)
			switch {
			case err != nil:
				return console.App{}, "", err
			case active >= maxApps:
				return console.App{}, "", database.NewRefusal(ErrInvalid, "You have %d apps, which is the maximum: delete an app first.", active)
			}
			app, secret, err := r.CreateApp(ctx, registry.NewApp{
				API: c.API.Name, Name: n.Name, RedirectURIs: n.RedirectURIs, Scopes: n.Scopes, Confidential: n.Confidential,
				Development: n.Development, Owner: c.User.ID,
			})
			return console.App{App: app}, secret, err
		},
		id:   func(a console.App) string { return a.ID },
		find: func(id string) (console.App, error) { return s.store.App(ctx, c.User.ID, c.API.Name, id) },
	}.run(ctx, s, c)
}

// Apps lists the caller's apps: active apps before revoked ones, and newest first.
func (s *Settings) Apps(ctx context.Context, c Caller) ([]console.App, error) {
	if err := c.MayManageApps(); err != nil {
		return nil, err
	}
	return s.store.Apps(ctx, c.User.ID, c.API.Name)
}

// App returns an app of the caller. The error is [ErrNotFound] also if the app belongs to somebody else.
func (s *Settings) App(ctx context.Context, c Caller, id string) (console.App, error) {
	if err := c.MayManageApps(); err != nil {
		return console.App{}, err
	}
	app, err := s.store.App(ctx, c.User.ID, c.API.Name, id)
	if errors.Is(err, database.ErrNotFound) {
		err = database.NewRefusal(ErrNotFound, "You have no such app.")
	}
	return app, err
}

// RotateAppSecret replaces the secret of an app of the caller. The previous secret becomes invalid immediately. The users' grants stay
// valid.
func (s *Settings) RotateAppSecret(ctx context.Context, c Caller, id string) (console.App, authz.Secret, error) {
	app, err := s.App(ctx, c, id)
	switch {
	case err != nil:
		return console.App{}, "", err
	case app.Status == registry.Revoked:
		return console.App{}, "", database.NewRefusal(ErrInvalid, "The app was deleted: register another app.")
	}
	var secret authz.Secret
	err = s.change(ctx, c, func(r *registry.Registry, _ *sqlx.Tx) (err error) {
		app.App, secret, err = r.RotateAppSecret(ctx, id)
		return err
	})
	return app, secret, err
}

// RevokeApp revokes an app of the caller, with all its grants and tokens. If it is already revoked, this is not an error.
func (s *Settings) RevokeApp(ctx context.Context, c Caller, id string) (console.App, error) {
	if _, err := s.App(ctx, c, id); err != nil {
		return console.App{}, err
	}
	err := s.change(ctx, c, func(r *registry.Registry, _ *sqlx.Tx) error {
		_, err := r.RevokeApp(ctx, id)
		return err
	})
	if err != nil {
		return console.App{}, err
	}
	return s.App(ctx, c, id)
}

// MayManageApps returns an error if the caller may not manage the apps and the grants of their user.
func (c Caller) MayManageApps() error {
	switch {
	case !c.API.HasApps:
		return database.NewRefusal(ErrNotFound, "This API has no apps.")
	case c.User.ID == "" || !c.API.Rules.ManagesApps(c.Maker):
		return database.NewRefusal(ErrForbidden, "You may not manage apps.")
	}
	return nil
}

// AppScopes returns the scopes that an app may request: the scopes in workspaces, and the scopes of the user's account.
func (a API) AppScopes() []Scope {
	var scopes []Scope
	for _, level := range []table.Level{table.LevelWorkspace, table.LevelUser} {
		for _, name := range a.Rules.Table.AppScopes(level) {
			scopes = append(scopes, a.Scope(name))
		}
	}
	return scopes
}

// Scope is a scope with the description of the API's table.
type Scope struct {
	Name, Description string
	Workspace         bool // the scope gives access to the data in workspaces, not to the user's account
}

// Scope returns a scope by its name. A scope that the table no longer has gets no description.
func (a API) Scope(name string) Scope {
	level, _ := a.Rules.Table.Scope(name)
	return Scope{Name: name, Description: a.Rules.Table.Scopes[level][name], Workspace: level == table.LevelWorkspace}
}
