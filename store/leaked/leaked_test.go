package leaked_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/leaked"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// Each leaked key is revoked with its reason. A key that did not leak stays valid, and an earlier revocation keeps its time, and has
// no reason.
func TestRevokeLeaked(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	token, leakedKey := f.WorkspaceToken(t, "inbox:read")
	old, oldKey := f.UserToken(t, "issues:read")
	before := storetest.Must(f.RevokeToken(t.Context(), old.ID))
	_, goodKey := f.WorkspaceToken(t, "inbox:read")
	results, err := leaked.Revoke(t.Context(), f.Registry, database.Actor{}, []authz.Secret{"sk_live_unknown", leakedKey, oldKey, leakedKey})
	if err != nil || len(results) != 4 {
		t.Fatalf("%+v, %v", results, err)
	}
	if results[0] != (leaked.Credential{Result: leaked.Unknown}) {
		t.Errorf("unknown: %+v", results[0])
	}
	if l := results[1]; l.Result != leaked.Revoked || l.ID != token.ID || l.Prefix != token.Prefix || l.Kind != token.Kind ||
		l.Name != token.Name || l.Owner != f.Acme.Slug || *l.WorkspaceID != f.Acme.ID || l.API != token.API || results[3].ID != l.ID {
		t.Errorf("leaked: %+v", l)
	}
	if l := results[2]; l.Result != leaked.AlreadyRevoked || l.ID != old.ID || l.Owner != f.Ada.Email || *l.UserID != f.Ada.ID {
		t.Errorf("already revoked: %+v", l)
	}
	if got := storetest.Must(f.Token(t.Context(), token.ID)); got.Status != registry.Revoked || got.RevokedReason == nil || *got.RevokedReason != "leaked" {
		t.Errorf("%+v", got)
	}
	if got := storetest.Must(f.Token(t.Context(), old.ID)); !got.RevokedAt.Equal(*before.RevokedAt) || got.RevokedReason != nil {
		t.Errorf("%+v", got)
	}
	for key, want := range map[authz.Secret]authz.Reason{leakedKey: authz.ReasonRevoked, oldKey: authz.ReasonRevoked, goodKey: ""} {
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != want {
			t.Errorf("%q, not %q", got.Denial, want)
		}
	}
	// If somebody restores the token by hand, the reason disappears.
	f.Exec(t, `UPDATE keywicket.tokens SET revoked_at = NULL WHERE id = $1`, token.ID)
	if got := storetest.Must(f.Token(t.Context(), token.ID)); got.Status != registry.Active || got.RevokedReason != nil {
		t.Errorf("%+v", got)
	}
}

// A leaked access token ends the whole grant, so that the refresh token gets no new access token. The grants of other apps and users
// stay.
func TestLeakedAccessTokenRevokesItsGrant(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	pair := g.ExchangeCode(t, g.NewCode(t))
	other := g.ExchangeCode(t, g.NewCode(t))
	results, err := leaked.Revoke(t.Context(), g.Registry, database.Actor{}, []authz.Secret{pair.Access})
	if err != nil || len(results) != 1 || results[0].Result != leaked.Revoked || results[0].Kind != authz.KindOAuthToken ||
		results[0].GrantID == nil || results[0].AppID == nil || results[0].Owner != g.Ada.Email {
		t.Fatalf("%+v, %v", results, err)
	}
	if _, err := g.RefreshToken(t, pair.Refresh); err == nil {
		t.Error("the refresh token still works")
	}
	if _, err := g.RefreshToken(t, other.Refresh); err != nil {
		t.Errorf("another grant: %v", err)
	}
	grants := storetest.Must(g.Grants(t.Context(), "", ""))
	for _, grant := range grants {
		if isLeaked := grant.RevokedReason != nil && *grant.RevokedReason == "leaked"; isLeaked != (grant.ID == *results[0].GrantID) {
			t.Errorf("%+v", grant)
		}
	}
	// The refresh token may have leaked alone, and the app may have used it since. The old access token still ends the grant.
	again := g.ExchangeCode(t, g.NewCode(t))
	refreshed := storetest.Must(g.RefreshToken(t, again.Refresh))
	if results, err := leaked.Revoke(t.Context(), g.Registry, database.Actor{}, []authz.Secret{again.Access}); err != nil || results[0].Result != leaked.Revoked {
		t.Errorf("%+v, %v", results, err)
	}
	if _, err := g.RefreshToken(t, refreshed.Refresh); err == nil {
		t.Error("the new refresh token still works")
	}
}

// Several reports of the same tokens at the same time, in different orders, do not wait for each other forever. Each token is
// revoked by exactly one of them. A report has more tokens than one statement.
func TestLeakedReportsAtTheSameTime(t *testing.T) {
	f := storetest.NewFixture(t)
	const n, reports = 250, 6
	keys := make([]authz.Secret, n)
	for i := range keys {
		keys[i] = storetest.ProductKey(storetest.Vel, i)
		digest := keys[i].Digest()
		f.Exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
			VALUES ('velocity', 'workspace_key', 'live', 'vel_', $1, $2, '{}', $3)`, digest[:], fmt.Sprint(i), f.Acme.ID)
	}
	var group sync.WaitGroup
	revoked := make([]int, reports)
	for report := range reports {
		mine := slices.Clone(keys)
		if report%2 == 1 {
			slices.Reverse(mine)
		}
		group.Go(func() {
			results, err := leaked.Revoke(t.Context(), f.Registry, database.Actor{}, mine)
			if err != nil || len(results) != n {
				t.Errorf("%d results, %v", len(results), err)
			}
			for i, l := range results {
				if want := fmt.Sprint(slices.Index(keys, mine[i])); l.Name != want {
					t.Errorf("the result for %s is %+v", want, l)
				}
				if l.Result == leaked.Revoked {
					revoked[report]++
				}
			}
		})
	}
	group.Wait()
	total := 0
	for _, r := range revoked {
		total += r
	}
	if total != n {
		t.Errorf("%d tokens were revoked: %v", total, revoked)
	}
}
