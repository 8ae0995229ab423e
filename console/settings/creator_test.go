package settings_test

import (
	"testing"

	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// The creator of a token that a token creates is the user behind that token. So nobody evades the rule for those who leave.
func TestCreatorBehindAToken(t *testing.T) {
	f := newFixture(t)
	if err := f.settings.SetLeaverRule(t.Context(), f.admin(), registry.LeaversEnd); err != nil {
		t.Fatal(err)
	}
	ofNobody := f.token(t, "workspace_key", "workspace:admin")
	ofAda := ofNobody
	ofAda.Actor.ID = f.create(t, f.admin(), settings.OfWorkspace, newKey).Object.ID
	usersKey := f.admin()
	usersKey.Actor = database.Actor{Kind: database.ActorToken, ID: f.create(t, f.admin(), settings.OfUser, newKey).Object.ID}
	usersKey.Maker.Kind = "personal_key"

	created := map[string]string{}
	for by, c := range map[string]settings.Caller{"the operator's token": ofNobody, "ada's token": ofAda, "ada's own key": usersKey} {
		token := f.create(t, c, settings.OfWorkspace, newKey).Object
		rotated := storetest.Must(f.settings.RotateToken(t.Context(), c, settings.OfWorkspace, token.ID, 0, "")).Object
		created[by] = rotated.ID
		for _, n := range []registry.Token{token, rotated} {
			if isAdas := n.CreatedBy != nil && *n.CreatedBy == f.Ada.ID; isAdas != (by != "the operator's token") || !isAdas && n.CreatedBy != nil {
				t.Errorf("%s: created by %v", by, n.CreatedBy)
			}
		}
	}
	if err := f.RemoveMember(t.Context(), "acme", f.Ada.ID); err != nil {
		t.Fatal(err)
	}
	for by, id := range created {
		token := storetest.Must(f.Token(t.Context(), id))
		if isActive := token.Status == registry.Active; isActive != (by == "the operator's token") {
			t.Errorf("%s: after ada has left, the token is %s", by, token.Status)
		}
	}
}
