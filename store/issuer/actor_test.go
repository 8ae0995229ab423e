package issuer_test

import (
	"testing"

	"github.com/keywicket/keywicket/store/auditlog"
	"github.com/keywicket/keywicket/store/storetest"
)

// The audit log names the user who gives a grant, and the app that ends it. The login is the issuer's.
func TestActorsOfAGrant(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	pair := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID))
	if _, err := g.Issuer.Revoke(t.Context(), pair.Refresh, g.App.ID); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for e, err := range auditlog.Entries(t.Context(), g.Registry, auditlog.Filter{OldestFirst: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.ActorID != nil {
			got[e.Action+" "+e.ObjectKind] = *e.ActorKind + " " + *e.ActorID
		}
	}
	want := map[string]string{"create grant": "user " + g.Ada.ID, "create grant_workspace": "user " + g.Ada.ID, "revoke grant": "app " + g.App.ID}
	for change, actor := range want {
		if got[change] != actor {
			t.Errorf("%s: the actor is %q, not %q", change, got[change], actor)
		}
	}
}
