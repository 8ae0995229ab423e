package settings_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

var draft = settings.NewApp{Name: " Draft ", RedirectURIs: []string{"https://draft.example/cb"}, Scopes: []string{"issues:read"}, Confidential: true}

// A user registers an app, rotates its secret and deletes it. Nobody else sees the app.
func TestUserManagesApps(t *testing.T) {
	f := newAccount(t)
	ada, bob := f.session(f.Ada, ""), f.session(f.Bob, "")
	created, err := f.Settings.RegisterApp(t.Context(), ada, draft)
	if err != nil || created.Secret == "" || created.Object.Name != "Draft" || created.Object.API != "velocity" || *created.Object.OwnerID != f.Ada.ID {
		t.Fatalf("%+v, %v", created, err)
	}
	id := created.Object.ID
	if _, err := f.Issuer.Client(t.Context(), id); err != nil {
		t.Errorf("the issuer does not know the app: %v", err)
	}
	app, secret, err := f.Settings.RotateAppSecret(t.Context(), ada, id)
	if err != nil || secret == "" || secret == created.Secret || app.ID != id {
		t.Errorf("%+v, %v", app, err)
	}
	digest := storetest.Value[[]byte](t, f.DB, `SELECT secret_digest FROM keywicket.oauth_apps WHERE id = $1`, id)
	if want := secret.Digest(); string(digest) != string(want[:]) {
		t.Error("the app has another secret than the new one")
	}
	for _, notBobs := range []string{id, f.App.ID, "unknown", "a\x00", "\xff"} { // the second app belongs to the operator
		_, read := f.Settings.App(t.Context(), bob, notBobs)
		_, _, rotated := f.Settings.RotateAppSecret(t.Context(), bob, notBobs)
		_, revoked := f.Settings.RevokeApp(t.Context(), bob, notBobs)
		for _, err := range []error{read, rotated, revoked} {
			if !errors.Is(err, settings.ErrNotFound) || err.Error() != "You have no such app." {
				t.Errorf("%s: %v", notBobs, err)
			}
		}
	}
	if list, err := f.Settings.Apps(t.Context(), bob); err != nil || len(list) != 0 {
		t.Errorf("bob has the apps %+v, %v", list, err)
	}
	app, err = f.Settings.RevokeApp(t.Context(), ada, id)
	if err != nil || app.Status != registry.Revoked {
		t.Errorf("%+v, %v", app, err)
	}
	if _, _, err = f.Settings.RotateAppSecret(t.Context(), ada, id); !errors.Is(err, settings.ErrInvalid) {
		t.Errorf("the secret of a deleted app: %v", err)
	}
	if list, err := f.Settings.Apps(t.Context(), ada); err != nil || len(list) != 1 || list[0].Status != registry.Revoked {
		t.Errorf("ada has the apps %+v, %v", list, err)
	}
}

// A repeated request with an idempotency key registers one app.
func TestRegisterAppOnce(t *testing.T) {
	f := newAccount(t)
	n := draft
	n.IdempotencyKey = "k"
	first := storetest.Must(f.Settings.RegisterApp(t.Context(), f.session(f.Ada, ""), n))
	again, err := f.Settings.RegisterApp(t.Context(), f.session(f.Ada, ""), n)
	if err != nil || !again.Repeated || again.Secret != "" || again.Object.ID != first.Object.ID {
		t.Errorf("%+v, %v", again, err)
	}
	n.Name = "Other"
	if _, err := f.Settings.RegisterApp(t.Context(), f.session(f.Ada, ""), n); !errors.Is(err, settings.ErrConflict) {
		t.Errorf("another app with the same key: %v", err)
	}
	if list := storetest.Must(f.Settings.Apps(t.Context(), f.session(f.Ada, ""))); len(list) != 1 {
		t.Errorf("%d apps", len(list))
	}
}

// The error for an invalid app names the field.
func TestRegisterAppRefusals(t *testing.T) {
	f := newAccount(t)
	for name, c := range map[string]struct {
		change      func(*settings.NewApp)
		field, text string
	}{
		"no name":                    {func(n *settings.NewApp) { n.Name = "  " }, "name", "Give the app a name."},
		"an invisible character":     {func(n *settings.NewApp) { n.Name = "a\u202eb" }, "name", "invisible"},
		"no redirect URI":            {func(n *settings.NewApp) { n.RedirectURIs = nil }, "redirect_uris", "1 to 20"},
		"a redirect URI twice":       {func(n *settings.NewApp) { n.RedirectURIs = []string{"https://a.example/", "https://a.example/"} }, "redirect_uris", "twice"},
		"localhost":                  {func(n *settings.NewApp) { n.RedirectURIs = []string{"http://localhost/cb"} }, "redirect_uris", "mark the app as an app in development"},
		"http":                       {func(n *settings.NewApp) { n.RedirectURIs = []string{"http://a.example/"} }, "redirect_uris", "use https"},
		"an unknown scope":           {func(n *settings.NewApp) { n.Scopes = []string{"issues:fly"} }, "scopes", "issues:fly"},
		"an override scope":          {func(n *settings.NewApp) { n.Scopes = []string{"admin"} }, "scopes", "not a scope that an app may request"},
		"an override of a workspace": {func(n *settings.NewApp) { n.Scopes = []string{"workspace:admin"} }, "scopes", "not a scope that an app may request"},
	} {
		t.Run(name, func(t *testing.T) {
			n := draft
			c.change(&n)
			_, err := f.Settings.RegisterApp(t.Context(), f.session(f.Ada, ""), n)
			if field, ok := errors.AsType[*settings.FieldError](err); !ok || field.Field != c.field || !strings.Contains(field.Text, c.text) {
				t.Errorf("%#v", err)
			}
		})
	}
	n := draft
	n.Development, n.RedirectURIs = true, []string{"http://localhost:3000/cb"}
	if created, err := f.Settings.RegisterApp(t.Context(), f.session(f.Ada, ""), n); err != nil || !created.Object.Development {
		t.Errorf("an app in development: %+v, %v", created, err)
	}
}

// Only a session, or a key with the override scope of the user level, manages apps and grants. An API without apps has none.
func TestWhoManagesApps(t *testing.T) {
	f := newAccount(t)
	for name, c := range map[string]struct {
		change func(*settings.Caller)
		want   error
	}{
		"a session":        {func(*settings.Caller) {}, nil},
		"a key with admin": {func(c *settings.Caller) { c.Maker.Kind, c.Maker.Scopes = authz.KindPersonalKey, []string{"admin"} }, nil},
		"a key with other scopes": {func(c *settings.Caller) {
			c.Maker.Kind, c.Maker.Scopes = authz.KindPersonalKey, []string{"user:read", "workspace:admin"}
		}, settings.ErrForbidden},
		"an app's token, even with admin": {func(c *settings.Caller) { c.Maker.Kind, c.Maker.Scopes = authz.KindOAuthToken, []string{"admin"} }, settings.ErrForbidden},
		"a workspace's key, even with admin": {func(c *settings.Caller) {
			c.Maker.Kind, c.Maker.Scopes = authz.KindWorkspaceKey, []string{"workspace:admin", "admin"}
		}, settings.ErrForbidden},
		"nobody":              {func(c *settings.Caller) { c.User.ID = "" }, settings.ErrForbidden},
		"an API without apps": {func(c *settings.Caller) { c.API = f.apis["velaflows"] }, settings.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			caller := f.session(f.Ada, "")
			c.change(&caller)
			_, registered := f.Settings.RegisterApp(t.Context(), caller, draft)
			_, apps := f.Settings.Apps(t.Context(), caller)
			_, grants := f.Settings.Grants(t.Context(), caller)
			for _, err := range []error{registered, apps, grants} {
				if !errors.Is(err, c.want) {
					t.Errorf("%v, not %v", err, c.want)
				}
			}
			for _, err := range []error{
				second(f.Settings.App(t.Context(), caller, f.App.ID)), second(f.Settings.RevokeApp(t.Context(), caller, f.App.ID)),
				second(f.Settings.Grant(t.Context(), caller, "g")), second(f.Settings.RevokeGrant(t.Context(), caller, "g")),
			} {
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("an object of somebody else: %v", err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }
