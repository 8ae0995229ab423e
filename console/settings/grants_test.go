package settings_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// A user sees what an authorized app may do, and ends its access. The owner of the app sees the number of its users.
func TestUserManagesGrants(t *testing.T) {
	f := newAccount(t)
	ada, bob := f.session(f.Ada, ""), f.session(f.Bob, "")
	f.App = storetest.Must(f.Settings.RegisterApp(t.Context(), bob, settings.NewApp{Name: "Planner", RedirectURIs: []string{"https://planner.example/cb"}})).Object.App
	f.NewCode(t, f.Globex.ID, f.Acme.ID)
	f.NewCode(t, f.Acme.ID)
	grants, err := f.Settings.Grants(t.Context(), ada)
	if err != nil || len(grants) != 2 {
		t.Fatalf("%+v, %v", grants, err)
	}
	g := grants[1] // the older one
	if g.LastUsedAt != nil {
		t.Errorf("%+v", g)
	}
	f.Exec(t, `INSERT INTO keywicket.grant_usage VALUES ($1, '2026-01-02 03:04Z')`, g.ID) // as a sidecar does
	if g = storetest.Must(f.Settings.Grant(t.Context(), ada, g.ID)); g.LastUsedAt == nil || g.LastUsedAt.UTC().Format(time.DateTime) != "2026-01-02 03:04:00" {
		t.Errorf("%+v", g)
	}
	if g.AppName != "Planner" || g.Status != registry.Active || len(g.Workspaces) != 2 || g.Workspaces[0].Name != "Acme" || g.Workspaces[1].Slug != "globex" {
		t.Errorf("%+v", g)
	}
	if len(g.Scopes) != 2 || g.Scopes[0].Name != "issues:read" || g.Scopes[0].Description == "" || !g.Scopes[0].Workspace {
		t.Errorf("%+v", g.Scopes)
	}
	if app, err := f.Settings.App(t.Context(), bob, f.App.ID); err != nil || app.Users != 1 {
		t.Errorf("%d users, %v", app.Users, err)
	}
	for _, err := range []error{second(f.Settings.Grant(t.Context(), bob, g.ID)), second(f.Settings.RevokeGrant(t.Context(), bob, g.ID)), second(f.Settings.Grant(t.Context(), bob, "\x00"))} {
		if !errors.Is(err, settings.ErrNotFound) {
			t.Errorf("bob, with ada's grant: %v", err)
		}
	}
	for _, g := range grants {
		if g, err = f.Settings.RevokeGrant(t.Context(), ada, g.ID); err != nil || g.Status != registry.Revoked {
			t.Errorf("%+v, %v", g, err)
		}
	}
	if grants, err = f.Settings.Grants(t.Context(), ada); err != nil || len(grants) != 0 {
		t.Errorf("%+v, %v", grants, err)
	}
	if app, err := f.Settings.App(t.Context(), bob, f.App.ID); err != nil || app.Users != 0 {
		t.Errorf("%d users, %v", app.Users, err)
	}
}

// A grant shows only workspaces of which the user is still a member, because the app has no access to others.
func TestGrantAfterLeavingTheWorkspace(t *testing.T) {
	f := newAccount(t)
	storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "owner"))
	f.NewCode(t, f.Acme.ID)
	if err := f.RemoveMember(t.Context(), "acme", f.Ada.ID); err != nil {
		t.Fatal(err)
	}
	grants, err := f.Settings.Grants(t.Context(), f.session(f.Ada, ""))
	if err != nil || len(grants) != 1 || len(grants[0].Workspaces) != 0 {
		t.Errorf("%+v, %v", grants, err)
	}
}
