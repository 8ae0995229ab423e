package settings_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

func texts(a settings.Activity) []string {
	var list []string
	for _, e := range a.Events {
		list = append(list, e.Text)
	}
	return list
}

// The managers of a workspace read what happened in it, in words. Other members cannot.
func TestWorkspaceActivity(t *testing.T) {
	f := newAccount(t)
	ada := f.session(f.Ada, "admin")
	created := storetest.Must(f.Settings.CreateToken(t.Context(), ada, settings.OfWorkspace, settings.NewToken{Name: "CI", Scopes: []string{"issues:read"}}))
	key := created.Object
	storetest.Must(f.Settings.RevokeToken(t.Context(), ada, settings.OfWorkspace, key.ID))
	storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "guest"))
	storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "member"))
	if err := f.RemoveMember(t.Context(), "acme", f.Bob.ID); err != nil {
		t.Fatal(err)
	}
	f.NewCode(t, f.Acme.ID)
	f.Create(t, registry.NewToken{Format: storetest.SkLive, API: "velaflows", Name: "of another API", Scopes: []string{"conversations:read"}, Workspace: "acme"})
	activity, err := f.Settings.WorkspaceActivity(t.Context(), ada, settings.ActivityFilter{})
	want := []string{
		"Ada@example.com gave the app Planner access to the workspace.",
		"The operator removed bob@example.com from the workspace Acme.",
		"The operator changed the role of bob@example.com in the workspace Acme from guest to member.",
		"The operator added bob@example.com to the workspace Acme as guest.",
		"Ada@example.com revoked the key CI (" + key.Prefix + "…).",
		"Ada@example.com created the key CI (" + key.Prefix + "…).",
		"The operator added Ada@example.com to the workspace Acme as admin.",
		"The operator created the workspace Acme.",
	}
	if err != nil || !slices.Equal(texts(activity), want) || activity.Next != "" {
		t.Errorf("%s\nnext %q, %v", strings.Join(texts(activity), "\n"), activity.Next, err)
	}
	f.Exec(t, `UPDATE keywicket.tokens SET name = 'C' || U&'\202E' || 'I' WHERE id = $1`, key.ID)
	if got := storetest.Must(f.Settings.WorkspaceActivity(t.Context(), ada, settings.ActivityFilter{Limit: 1})).Events[0]; got.Changes[0] != (settings.Change{Field: "Name", Before: "CI", After: "C\ufffdI"}) ||
		got.Text != "The operator changed the key C\ufffdI ("+key.Prefix+"…)." {
		t.Errorf("%+v", got)
	}
	f.Exec(t, `DELETE FROM keywicket.audit_log WHERE action = 'change' AND object_kind = 'token'`)
	f.Exec(t, `UPDATE keywicket.tokens SET name = 'CI' WHERE id = $1`, key.ID)
	f.Exec(t, `DELETE FROM keywicket.audit_log WHERE action = 'change' AND object_kind = 'token'`)
	create := activity.Events[5]
	if !slices.Equal(create.Changes, []settings.Change{{Field: "Name", After: "CI"}, {Field: "Scopes", After: "issues:read"}}) ||
		create.Source != "203.0.113.9" || create.RequestID != "request-1" || create.ObjectID != key.ID {
		t.Errorf("%+v", create)
	}

	for name, c := range map[string]struct {
		filter settings.ActivityFilter
		events int
	}{
		"an action":               {settings.ActivityFilter{Action: "revoke"}, 1},
		"a kind":                  {settings.ActivityFilter{ObjectKind: "member"}, 4},
		"an email address":        {settings.ActivityFilter{Actor: "ada@EXAMPLE.com"}, 3},
		"an id":                   {settings.ActivityFilter{Actor: f.Ada.ID}, 3},
		"an unknown address":      {settings.ActivityFilter{Actor: "nobody@example.com"}, 0},
		"a login of the database": {settings.ActivityFilter{Actor: storetest.Value[string](t, f.DB, `SELECT session_user`)}, 0},
		"two filters":             {settings.ActivityFilter{Action: "create", ObjectKind: "token"}, 1},
	} {
		if got, err := f.Settings.WorkspaceActivity(t.Context(), ada, c.filter); err != nil || len(got.Events) != c.events {
			t.Errorf("%s: %q, %v", name, texts(got), err)
		}
	}

	var pages []string
	for filter := (settings.ActivityFilter{Limit: 3}); ; {
		page := storetest.Must(f.Settings.WorkspaceActivity(t.Context(), ada, filter))
		if pages = append(pages, texts(page)...); page.Next == "" {
			break
		}
		filter.Cursor = page.Next
	}
	if !slices.Equal(pages, want) {
		t.Errorf("the pages have %q", pages)
	}
	for field, filter := range map[string]settings.ActivityFilter{
		"action": {Action: "expire"}, "object_kind": {ObjectKind: "audit_log"}, "cursor": {Cursor: "x"}, "limit": {Limit: 101}, "actor": {Actor: "a\x00"},
	} {
		_, err := f.Settings.WorkspaceActivity(t.Context(), ada, filter)
		if e, ok := errors.AsType[*settings.FieldError](err); !ok || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := f.Settings.WorkspaceActivity(t.Context(), f.session(f.Ada, "guest"), settings.ActivityFilter{}); !errors.Is(err, settings.ErrForbidden) {
		t.Errorf("a guest: %v", err)
	}
	if _, err := f.Settings.WorkspaceActivity(t.Context(), f.session(f.Ada, ""), settings.ActivityFilter{}); !errors.Is(err, settings.ErrForbidden) {
		t.Errorf("outside of workspaces: %v", err)
	}
}

// A user reads what happened to their account, and nothing about other accounts.
func TestAccountActivity(t *testing.T) {
	f := newAccount(t)
	ada, bob := f.session(f.Ada, ""), f.session(f.Bob, "")
	key := storetest.Must(f.Settings.CreateToken(t.Context(), ada, settings.OfUser, settings.NewToken{Name: "Laptop", Scopes: []string{"user:read"}})).Object
	app := storetest.Must(f.Settings.RegisterApp(t.Context(), ada, draft)).Object
	if _, _, err := f.Registry.RotateAppSecret(t.Context(), app.ID); err != nil { // the operator's command
		t.Fatal(err)
	}
	storetest.Must(f.Settings.RegisterApp(t.Context(), bob, draft))
	f.NewCode(t, f.Acme.ID)
	grants := storetest.Must(f.Settings.Grants(t.Context(), ada))
	storetest.Must(f.Settings.RevokeGrant(t.Context(), ada, grants[0].ID))
	storetest.Must(f.RevokeUserSessions(t.Context(), f.Ada.ID))
	withKey := ada
	withKey.Actor.Kind, withKey.Actor.ID = "token", key.ID
	withKey.Maker.Kind, withKey.Maker.Scopes = authz.KindPersonalKey, []string{"admin"}
	storetest.Must(f.Settings.RevokeApp(t.Context(), withKey, app.ID))
	activity, err := f.Settings.AccountActivity(t.Context(), ada, settings.ActivityFilter{})
	want := []string{
		"The key Laptop (" + key.Prefix + "…) deleted the app Draft.",
		"The operator ended a session of Ada@example.com.",
		"Ada@example.com ended the access of the app Planner.",
		"Ada@example.com authorized the app Planner.",
		"The operator replaced the secret of the app Draft.",
		"Ada@example.com registered the app Draft.",
		"Ada@example.com created the key Laptop (" + key.Prefix + "…).",
		"The operator added Ada@example.com to the workspace Globex as guest.",
		"The operator added Ada@example.com to the workspace Acme as admin.",
		"The operator created the account Ada@example.com.",
	}
	if err != nil || !slices.Equal(texts(activity), want) {
		t.Errorf("%s\n%v", strings.Join(texts(activity), "\n"), err)
	}
	ada.Maker.Kind, ada.Maker.Scopes = authz.KindPersonalKey, []string{"user:read"}
	if _, err := f.Settings.AccountActivity(t.Context(), ada, settings.ActivityFilter{}); !errors.Is(err, settings.ErrForbidden) {
		t.Errorf("a key without admin: %v", err)
	}
}
