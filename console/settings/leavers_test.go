package settings_test

import (
	"errors"
	"testing"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// The managers of a workspace choose what happens to the tokens of people who leave.
func TestLeaverRule(t *testing.T) {
	f := newAccount(t)
	ada := f.session(f.Ada, "admin")
	if rule, err := f.Settings.LeaverRule(t.Context(), ada); err != nil || rule != registry.LeaversMark {
		t.Errorf("%s, %v", rule, err)
	}
	if err := f.Settings.SetLeaverRule(t.Context(), ada, registry.LeaversEnd); err != nil {
		t.Fatal(err)
	}
	if w := storetest.Must(f.Workspace(t.Context(), "acme")); w.LeaverRule != registry.LeaversEnd {
		t.Errorf("%+v", w)
	}
	event := storetest.Must(f.Settings.WorkspaceActivity(t.Context(), ada, settings.ActivityFilter{Limit: 1})).Events[0]
	if event.Text != "Ada@example.com changed the workspace Acme." || event.Changes[0] != (settings.Change{Field: "Tokens of people who leave", Before: "mark", After: "end"}) {
		t.Errorf("%+v", event)
	}
	err := f.Settings.SetLeaverRule(t.Context(), ada, "x")
	if field, ok := errors.AsType[*settings.FieldError](err); !ok || field.Field != "leaver_rule" {
		t.Errorf("%v", err)
	}
	for _, c := range []settings.Caller{f.session(f.Ada, "guest"), f.session(f.Ada, "")} {
		if err := f.Settings.SetLeaverRule(t.Context(), c, registry.LeaversKeep); !errors.Is(err, settings.ErrForbidden) {
			t.Errorf("%q: %v", c.Workspace.Role, err)
		}
	}
}
