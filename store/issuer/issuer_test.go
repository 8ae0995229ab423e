package issuer_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// An access token is valid only in workspaces that the user has granted and is a member of.
func TestAccessTokensWorkOnlyInGrantedWorkspaces(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	acme := authz.Membership{ID: g.Acme.ID, Slug: "acme", Role: "admin"}
	globex := authz.Membership{ID: g.Globex.ID, Slug: "globex", Role: "guest"}
	none := g.ExchangeCode(t, g.NewCode(t)).Access
	one := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID)).Access
	both := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID, g.Globex.ID)).Access
	for name, d := range map[string]*directory.Directory{"uncached": g.Directory(t, nil), "cached": g.CachedDirectory(t)} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				token authz.Secret
				slug  string
				want  authz.Membership
			}{
				{none, "", authz.Membership{}}, {none, "acme", authz.Membership{}},
				{one, "", acme}, {one, "acme", acme}, {one, "globex", authz.Membership{}}, {one, "nowhere", authz.Membership{}},
				{both, "", authz.Membership{}}, {both, "acme", acme}, {both, "globex", globex}, {both, "nowhere", authz.Membership{}},
			} {
				for range 2 {
					got := storetest.Must(d.Lookup(t.Context(), storetest.AccessLookup(c.token, c.slug)))
					p := got.Principal
					if got.Denial != "" || got.Workspace != c.want || p.Kind != authz.KindOAuthToken || p.UserID != g.Ada.ID || p.ID == "" ||
						p.GrantID == "" || !slices.Equal(p.Scopes, []string{"issues:read", "issues:write"}) {
						t.Errorf("in %q: %+v", c.slug, got)
					}
				}
			}
			byID := storetest.AccessLookup(one, "")
			byID.Workspace.ID = g.Acme.ID
			if got := storetest.Must(d.Lookup(t.Context(), byID)); got.Workspace != acme {
				t.Errorf("by id: %+v", got)
			}
			for what, l := range map[string]authz.Lookup{
				"another API":              {Kind: authz.KindOAuthToken, Digest: one.Digest(), API: "velaflows"},
				"looked up as a key":       {Kind: authz.KindPersonalKey, Digest: one.Digest(), API: "velocity"},
				"unknown":                  storetest.AccessLookup("velo_nobody", ""),
				"a code":                   storetest.AccessLookup(g.NewCode(t), ""),
				"a key as an access token": {Kind: authz.KindOAuthToken, Digest: authz.Secret("velu_x").Digest(), API: "velocity"},
			} {
				if got := storetest.Must(d.Lookup(t.Context(), l)); got.Denial != authz.ReasonUnknown || got.Principal.ID != "" {
					t.Errorf("%s: %+v", what, got)
				}
			}
		})
	}
	_, err := g.Approve(t.Context(), issuer.Approval{Client: g.App.ID, User: g.Bob.ID, Workspaces: []string{g.Acme.ID}, RedirectURI: "r", Challenge: strings.Repeat("c", 43)})
	if !errors.Is(err, database.ErrInvalid) {
		t.Errorf("a workspace of which the user is not a member: %v", err)
	}
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM keywicket.oauth_grants WHERE user_id = $1`, g.Bob.ID); n != 0 {
		t.Errorf("%d grants of the refused approval are left", n)
	}
}

// An access token depends on its grant, app, user and workspace. If one of them changes, look-ups return the new state, with and
// without a cache.
func TestAccessTokensFollowChanges(t *testing.T) {
	for name, change := range map[string]struct {
		statement   string // $1 is the grant's id
		want        authz.Reason
		noWorkspace bool // after the statement, the token is still valid, but not in the workspace
	}{
		"the token is revoked":               {`UPDATE keywicket.oauth_access_tokens SET revoked_at = now() WHERE grant_id = $1`, authz.ReasonRevoked, false},
		"the token expires":                  {`UPDATE keywicket.oauth_access_tokens SET expires_at = now() WHERE grant_id = $1`, authz.ReasonExpired, false},
		"the token is deleted":               {`DELETE FROM keywicket.oauth_access_tokens WHERE grant_id = $1`, authz.ReasonUnknown, false},
		"the grant is revoked":               {`UPDATE keywicket.oauth_grants SET revoked_at = now() WHERE id = $1`, authz.ReasonRevoked, false},
		"the grant is deleted":               {`DELETE FROM keywicket.oauth_grants WHERE id = $1`, authz.ReasonUnknown, false},
		"the app is revoked":                 {`UPDATE keywicket.oauth_apps SET revoked_at = now() WHERE id = (SELECT app_id FROM keywicket.oauth_grants WHERE id = $1)`, authz.ReasonRevoked, false},
		"the app is deleted":                 {`DELETE FROM keywicket.oauth_apps WHERE id = (SELECT app_id FROM keywicket.oauth_grants WHERE id = $1)`, authz.ReasonUnknown, false},
		"the user is deleted":                {`DELETE FROM keywicket.users WHERE id = (SELECT user_id FROM keywicket.oauth_grants WHERE id = $1)`, authz.ReasonUnknown, false},
		"the membership is deleted":          {`DELETE FROM keywicket.members WHERE user_id = (SELECT user_id FROM keywicket.oauth_grants WHERE id = $1)`, "", true},
		"the workspace is no longer granted": {`DELETE FROM keywicket.oauth_grant_workspaces WHERE grant_id = $1`, "", true},
		"the workspace has another slug":     {`UPDATE keywicket.workspaces SET slug = 'moved' WHERE slug = 'acme' AND $1 <> ''`, "", true},
		"the tables are truncated":           {`DO $$ BEGIN TRUNCATE keywicket.oauth_apps CASCADE; END $$`, authz.ReasonUnknown, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := storetest.NewGrantFixture(t)
			token := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID)).Access
			uncached, cached := g.Directory(t, nil), g.CachedDirectory(t)
			l := storetest.AccessLookup(token, "acme")
			var grant string
			storetest.Eventually(t, "the answer is cached", func() bool {
				found := storetest.Must(cached.Lookup(t.Context(), l))
				grant = found.Principal.GrantID
				return found.Cache == authz.CacheHit && found.Workspace.ID == g.Acme.ID
			})
			if strings.Contains(change.statement, "$1") {
				g.Exec(t, change.statement, grant)
			} else {
				g.Exec(t, change.statement)
			}
			for who, d := range map[string]*directory.Directory{"uncached": uncached, "cached": cached} {
				storetest.Eventually(t, who+": the look-up returns the new state", func() bool {
					found := storetest.Must(d.Lookup(t.Context(), l))
					return found.Denial == change.want && (found.Workspace.ID == "") == (change.want != "" || change.noWorkspace)
				})
			}
		})
	}
}

// A code can be used only once. A second use revokes the tokens that the first use returned.
func TestCodesWorkOnce(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	d := g.Directory(t, nil)
	code := g.NewCode(t)
	first := g.ExchangeCode(t, code)
	if got, err := g.Exchange(t.Context(), code, storetest.Velo, storetest.AcceptCode); !errors.Is(err, issuer.ErrGrant) || got.Access != "" {
		t.Errorf("the second use: %+v, %v", got, err)
	}
	if got := storetest.Must(d.Lookup(t.Context(), storetest.AccessLookup(first.Access, ""))); got.Denial != authz.ReasonRevoked {
		t.Errorf("the first use's access token: %+v", got)
	}
	if _, err := g.RefreshToken(t, first.Refresh); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("the first use's refresh token: %v", err)
	}

	// If the function check refuses a use, the code counts as used. There are no tokens to revoke, because none was issued.
	wrong := errors.New("another client")
	code = g.NewCode(t)
	if got, err := g.Exchange(t.Context(), code, storetest.Velo, func(c issuer.Code) error {
		if c != (issuer.Code{Client: g.App.ID, RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43)}) {
			t.Errorf("%+v", c)
		}
		return wrong
	}); !errors.Is(err, wrong) || got.Access != "" {
		t.Errorf("a refused use: %+v, %v", got, err)
	}
	if _, err := g.Exchange(t.Context(), code, storetest.Velo, storetest.AcceptCode); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("a use after a refused use: %v", err)
	}

	for name, statement := range map[string]string{
		"an expired code":           `UPDATE keywicket.oauth_codes SET expires_at = now() WHERE used_at IS NULL`,
		"a code of a revoked grant": `UPDATE keywicket.oauth_grants SET revoked_at = now()`,
		"a code of a revoked app":   `UPDATE keywicket.oauth_apps SET revoked_at = now()`,
	} {
		code := g.NewCode(t)
		g.Exec(t, statement)
		if _, err := g.Exchange(t.Context(), code, storetest.Velo, storetest.AcceptCode); !errors.Is(err, issuer.ErrGrant) {
			t.Errorf("%s: %v", name, err)
		}
		g.Exec(t, `UPDATE keywicket.oauth_apps SET revoked_at = NULL`)
	}
	if _, err := g.Exchange(t.Context(), "unknown", storetest.Velo, storetest.AcceptCode); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("an unknown code: %v", err)
	}
}

// A refresh token can be used only once, and the response contains the next refresh token. A second use revokes all tokens of the
// grant.
func TestRefreshTokensRotate(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	d := g.Directory(t, nil)
	first := g.ExchangeCode(t, g.NewCode(t))
	request := issuer.RefreshRequest{Token: first.Refresh, Client: g.App.ID, Format: storetest.Velo}
	narrowed, err := g.Refresh(t.Context(), request, func(granted []string) ([]string, error) {
		if !slices.Equal(granted, []string{"issues:read", "issues:write"}) {
			t.Errorf("%v", granted)
		}
		return []string{"issues:read"}, nil
	})
	if err != nil || !slices.Equal(narrowed.Scopes, []string{"issues:read"}) {
		t.Fatalf("%+v, %v", narrowed, err)
	}
	if got := storetest.Must(d.Lookup(t.Context(), storetest.AccessLookup(narrowed.Access, ""))); !slices.Equal(got.Principal.Scopes, []string{"issues:read"}) {
		t.Errorf("%+v", got)
	}
	wider := errors.New("more than was granted")
	request.Token = narrowed.Refresh
	if _, err := g.Refresh(t.Context(), request, func([]string) ([]string, error) { return nil, wider }); !errors.Is(err, wider) {
		t.Errorf("%v", err)
	}
	request.Client = "another"
	if _, err := g.Refresh(t.Context(), request, storetest.AllScopes); !errors.Is(err, issuer.ErrGrant) || errors.Is(err, issuer.ErrReused) {
		t.Errorf("another client: %v", err)
	}
	allScopes := storetest.Must(g.RefreshToken(t, narrowed.Refresh)) // the refused token is still unused, and the new access token has all scopes again
	if len(allScopes.Scopes) != 2 {
		t.Errorf("%+v", allScopes)
	}
	if _, err := g.RefreshToken(t, first.Refresh); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("the second use: %v", err)
	}
	for _, token := range []authz.Secret{first.Access, narrowed.Access, allScopes.Access} {
		if got := storetest.Must(d.Lookup(t.Context(), storetest.AccessLookup(token, ""))); got.Denial != authz.ReasonRevoked {
			t.Errorf("an access token of the same grant: %+v", got)
		}
	}
	if _, err := g.RefreshToken(t, allScopes.Refresh); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("the last refresh token of the grant: %v", err)
	}
	expiring := g.ExchangeCode(t, g.NewCode(t))
	g.Exec(t, `UPDATE keywicket.oauth_refresh_tokens SET expires_at = now() WHERE used_at IS NULL`)
	if _, err := g.RefreshToken(t, expiring.Refresh); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("an expired refresh token: %v", err)
	}
	if got := storetest.Must(d.Lookup(t.Context(), storetest.AccessLookup(expiring.Access, ""))); got.Denial != "" {
		t.Errorf("the access token after the expiry of its refresh token: %+v", got)
	}
}

func TestAppsAndGrantsOfTheRegistry(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	client := storetest.Must(g.Client(t.Context(), g.App.ID))
	if client.Name != "Planner" || client.Confidential || client.HasSecret("") || client.HasSecret("guessed") {
		t.Errorf("%+v", client)
	}
	app, secret, err := g.RotateAppSecret(t.Context(), g.App.ID)
	if err != nil || app.ID != g.App.ID || !storetest.Must(g.Client(t.Context(), g.App.ID)).HasSecret(secret) || client.HasSecret(secret) {
		t.Errorf("%+v, %v", app, err)
	}
	token := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID, g.Globex.ID))
	list := storetest.Must(g.Grants(t.Context(), g.App.ID, "ada@example.com"))
	if len(list) != 1 || list[0].AppName != "Planner" || list[0].UserID != g.Ada.ID || list[0].Status != registry.Active ||
		!slices.Equal(list[0].Workspaces, []string{"acme", "globex"}) || !slices.Equal(list[0].Scopes, []string{"issues:read", "issues:write"}) {
		t.Errorf("%+v", list)
	}
	if none := storetest.Must(g.Grants(t.Context(), "", g.Bob.ID)); len(none) != 0 {
		t.Errorf("%+v", none)
	}
	revoked := storetest.Must(g.RevokeGrant(t.Context(), list[0].ID))
	if again := storetest.Must(g.RevokeGrant(t.Context(), list[0].ID)); revoked.Status != registry.Revoked || !again.RevokedAt.Equal(*revoked.RevokedAt) {
		t.Errorf("%+v, and again %+v", revoked, again)
	}
	if _, err := g.RefreshToken(t, token.Refresh); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("%v", err)
	}
	revokedApp := storetest.Must(g.RevokeApp(t.Context(), g.App.ID))
	if again := storetest.Must(g.RevokeApp(t.Context(), g.App.ID)); revokedApp.Status != registry.Revoked || !again.RevokedAt.Equal(*revokedApp.RevokedAt) {
		t.Errorf("%+v, and again %+v", revokedApp, again)
	}
	if apps := storetest.Must(g.Apps(t.Context())); len(apps) != 1 || apps[0].Status != registry.Revoked {
		t.Errorf("%+v", apps)
	}
	_, err = g.Client(t.Context(), g.App.ID)
	_, _, rotateErr := g.RotateAppSecret(t.Context(), "nobody")
	_, revokeErr := g.RevokeGrant(t.Context(), "nobody")
	_, listErr := g.Grants(t.Context(), "nobody", "")
	_, invalidTextErr := g.Client(t.Context(), "\xff")
	for _, err := range []error{err, rotateErr, revokeErr, listErr, invalidTextErr} {
		if !errors.Is(err, database.ErrNotFound) {
			t.Errorf("%v", err)
		}
	}
	withOwnID, _, err := g.CreateApp(t.Context(), registry.NewApp{ID: "their.own~id", API: "velocity", Name: "n", RedirectURIs: []string{"r"}})
	if err != nil || withOwnID.ID != "their.own~id" {
		t.Errorf("%+v, %v", withOwnID, err)
	}
	if _, _, err := g.CreateApp(t.Context(), registry.NewApp{ID: withOwnID.ID, API: "velocity", Name: "n", RedirectURIs: []string{"r"}}); !errors.Is(err, database.ErrExists) {
		t.Errorf("a second app with the same id: %v", err)
	}
	for _, n := range []registry.NewApp{
		{ID: "a:b", API: "velocity", Name: "n", RedirectURIs: []string{"r"}}, {ID: "..", API: "velocity", Name: "n", RedirectURIs: []string{"r"}},
		{API: "velocity", Name: " ", RedirectURIs: []string{"r"}}, {API: "velocity", Name: "a\nb", RedirectURIs: []string{"r"}},
		{API: "velocity", Name: "a\u202eb", RedirectURIs: []string{"r"}}, {API: "velocity", Name: "a\u200bb", RedirectURIs: []string{"r"}},
		{API: "velocity", Name: strings.Repeat("n", 101), RedirectURIs: []string{"r"}}, {API: "velocity", Name: "n"}, {API: "velo city", Name: "n", RedirectURIs: []string{"r"}},
	} {
		if _, _, err := g.CreateApp(t.Context(), n); !errors.Is(err, database.ErrInvalid) {
			t.Errorf("%+v: %v", n, err)
		}
	}
}

// A user is deleted while apps refresh tokens, and while grants are revoked and cleaned up. None of these operations fails,
// because all of them lock rows in the same order.
func TestUserIsDeletedWhileAppsWork(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	for round := range 20 {
		user := storetest.Must(g.CreateUser(t.Context(), registry.User{Email: fmt.Sprintf("u%d@example.com", round)}))
		storetest.Must(g.SetMember(t.Context(), g.Acme.ID, user.ID, "member"))
		approve := func() (issuer.ApprovalResult, error) {
			return g.Approve(t.Context(), issuer.Approval{Client: g.App.ID, User: user.ID, Workspaces: []string{g.Acme.ID}, RedirectURI: "r", Challenge: strings.Repeat("c", 43)})
		}
		fresh, used, old := storetest.Must(approve()), storetest.Must(approve()), storetest.Must(approve())
		issued := g.ExchangeCode(t, used.Code)
		g.ExchangeCode(t, old.Code)
		g.Exec(t, `UPDATE keywicket.oauth_refresh_tokens SET expires_at = now() - interval '2 days' WHERE grant_id = $1`, old.Grant)
		var racing sync.WaitGroup
		for what, f := range map[string]func() error{
			"the user's deletion": func() error { _, err := g.DB.Exec(`DELETE FROM keywicket.users WHERE id = $1`, user.ID); return err },
			"an exchange": func() error {
				_, err := g.Exchange(t.Context(), fresh.Code, storetest.Velo, storetest.AcceptCode)
				return err
			},
			"a second exchange": func() error {
				_, err := g.Exchange(t.Context(), used.Code, storetest.Velo, storetest.AcceptCode)
				return err
			},
			"a refresh":               func() error { _, err := g.RefreshToken(t, issued.Refresh); return err },
			"an approval":             func() error { _, err := approve(); return err },
			"a revocation":            func() error { _, err := g.RevokeGrant(t.Context(), used.Grant); return err },
			"a revocation by the app": func() error { _, err := g.Revoke(t.Context(), issued.Access, g.App.ID); return err },
			"cleaning":                func() error { _, _, err := g.Clean(t.Context()); return err },
		} {
			racing.Go(func() {
				if err := f(); err != nil && !errors.Is(err, issuer.ErrGrant) && !errors.Is(err, database.ErrInvalid) && !errors.Is(err, database.ErrNotFound) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		racing.Wait()
	}
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM keywicket.oauth_grants`); n != 0 {
		t.Errorf("%d grants are left", n)
	}
}

// A long transaction that locks a grant delays other operations only for a short time, and does not block their connections.
func TestLockedGrantDelaysOthersOnlyBriefly(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	issued := g.ExchangeCode(t, g.NewCode(t))
	other, err := g.DB.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback() }()
	if _, err := other.Exec(`UPDATE keywicket.oauth_grants SET revoked_at = NULL`); err != nil {
		t.Fatal(err)
	}
	if _, err := g.RefreshToken(t, issued.Refresh); err == nil || errors.Is(err, issuer.ErrGrant) || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("%v", err)
	}
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`); n != 0 {
		t.Errorf("%d connections wait", n)
	}
	if _, err := other.Exec(`LOCK TABLE keywicket.oauth_apps`); err != nil { // a migration may take the same lock
		t.Fatal(err)
	}
	if _, err := g.Client(t.Context(), g.App.ID); err == nil || errors.Is(err, database.ErrNotFound) {
		t.Errorf("%v", err)
	}
	storetest.Eventually(t, "no connection waits", func() bool {
		return storetest.Value[int](t, g.DB, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`) == 0
	})
	if err := other.Rollback(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.RefreshToken(t, issued.Refresh); err != nil {
		t.Errorf("after the long transaction: %v", err)
	}
}

// Ready also checks the privileges of the login.
func TestIssuerIsReady(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	if err := g.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	g.Exec(t, `REVOKE DELETE ON keywicket.oauth_grants FROM keywicket_issuer`)
	if err := g.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "oauth_grants: DELETE") || !strings.Contains(err.Error(), "keywicket migrate up") {
		t.Errorf("%v", err)
	}
}

// The cleaning deletes credentials a day after their expiry, and a grant together with its last credential. It keeps valid
// credentials, and used credentials whose second use must still be detected. It does not make a sidecar discard all its cached
// answers.
func TestCleaning(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	update := func(statement string) {
		g.Exec(t, `UPDATE keywicket.`+statement)
	}
	for range 120 {
		g.NewCode(t, g.Acme.ID)
	}
	deleted := g.ExchangeCode(t, g.NewCode(t, g.Acme.ID))
	update(`oauth_codes SET expires_at = now() - interval '25 hours'`)
	update(`oauth_access_tokens SET expires_at = now() - interval '25 hours'`)
	update(`oauth_refresh_tokens SET expires_at = now() - interval '25 hours'`)
	kept := g.ExchangeCode(t, g.NewCode(t))
	update(`oauth_access_tokens SET expires_at = now() - interval '25 hours'`) // the refresh token is still valid
	used := g.NewCode(t)
	issued := g.ExchangeCode(t, used)
	update(`oauth_codes SET expires_at = now() - interval '23 hours' WHERE expires_at > now()`)
	if grants := storetest.Must(g.Grants(t.Context(), "", g.Ada.ID)); grants[0].Status != registry.Active || grants[len(grants)-1].Status != registry.Expired {
		t.Errorf("the newest grant is %s, and the oldest grant is %s", grants[0].Status, grants[len(grants)-1].Status)
	}
	d := g.CachedDirectory(t)
	storetest.Eventually(t, "no more changes are read", func() bool {
		n := d.CacheStats().Changes
		time.Sleep(50 * time.Millisecond)
		return d.CacheStats().Changes == n
	})
	before := d.CacheStats()

	tokens, grants, err := g.Clean(t.Context())
	if err != nil || tokens != 121+2+1 || grants != 121 {
		t.Errorf("%d tokens and %d grants, %v", tokens, grants, err)
	}
	if tokens, grants, err = g.Clean(t.Context()); err != nil || tokens != 0 || grants != 0 {
		t.Errorf("the second cleaning: %d tokens and %d grants, %v", tokens, grants, err)
	}
	storetest.Eventually(t, "the changes are read", func() bool { return d.CacheStats().Changes > before.Changes })
	if after := d.CacheStats(); after.Discarded["notice"] != before.Discarded["notice"] {
		t.Error("all cached answers were discarded")
	}
	if _, err := g.RefreshToken(t, deleted.Refresh); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("the deleted credential: %v", err)
	}
	if _, err := g.RefreshToken(t, kept.Refresh); err != nil {
		t.Errorf("the valid credential: %v", err)
	}
	again, err := g.Exchange(t.Context(), used, storetest.Velo, storetest.AcceptCode)
	if !errors.Is(err, issuer.ErrReused) || again.Grant != issued.Grant {
		t.Errorf("a code that is used again after its expiry: %v, of the grant %s", err, again.Grant)
	}
	if _, err := g.RefreshToken(t, issued.Refresh); !errors.Is(err, issuer.ErrGrant) {
		t.Errorf("the grant of the code that was used again is not revoked: %v", err)
	}
}

// For any number of tokens, a look-up reads only the rows that it needs, and the cleaning reads only the rows that it deletes.
func TestAccessTokensAreFoundByIndexes(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	const many = `FROM generate_series(1, 20000) n`
	for _, statement := range []string{
		`INSERT INTO keywicket.users (id, email) SELECT 'u' || n, n || '@example.com' ` + many,
		`INSERT INTO keywicket.workspaces (id, slug, name) SELECT lpad(to_hex(n), 24, '0'), 'w' || n, 'w' ` + many,
		`INSERT INTO keywicket.members (workspace_id, user_id, role) SELECT w.id, 'u' || substr(w.slug, 2), 'member' FROM keywicket.workspaces w WHERE w.slug ~ '^w\d'`,
		`INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential) SELECT 'a' || n, 'velocity', 'n', '{u}', sha256(''), false ` + many,
		`INSERT INTO keywicket.oauth_grants (id, app_id, user_id, scopes) SELECT 'g' || n, 'a' || n, 'u' || n, '{}' ` + many,
		`INSERT INTO keywicket.oauth_grant_workspaces SELECT 'g' || substr(w.slug, 2), w.id FROM keywicket.workspaces w WHERE w.slug ~ '^w\d'`,
		`INSERT INTO keywicket.oauth_access_tokens (digest, grant_id, scopes, expires_at) SELECT sha256(n::text::bytea), 'g' || n, '{}', now() ` + many,
		`ANALYZE`,
	} {
		g.Exec(t, statement)
	}
	g.DB.SetMaxOpenConns(1)
	g.Exec(t, `SET plan_cache_mode = force_generic_plan`)
	g.Exec(t, `PREPARE q AS `+lookup.OAuthQuery)
	for name, statement := range map[string]string{
		"a requested workspace":      `EXECUTE q(ARRAY[sha256('7')], '{velocity}', '{""}', '{w7}')`,
		"the only granted workspace": `EXECUTE q(ARRAY[sha256('7')], '{velocity}', '{""}', '{""}')`,
		"cleaning": `SELECT id FROM keywicket.oauth_grants WHERE id IN (
			SELECT grant_id FROM keywicket.oauth_access_tokens WHERE expires_at < now() - interval '1 day' ORDER BY expires_at LIMIT 100)
			FOR UPDATE SKIP LOCKED`,
	} {
		var plan []string
		if err := g.DB.SelectContext(t.Context(), &plan, `EXPLAIN (ANALYZE, TIMING off) `+statement); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(plan, "\n")
		if strings.Contains(text, "Seq Scan") || !strings.Contains(text, "Index") {
			t.Errorf("%s: the plan has no index, or reads a whole table:\n%s", name, text)
		}
	}
}

// While one issuer cleans, another issuer does not clean.
func TestOneIssuerCleansAtATime(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	g.NewCode(t)
	g.Exec(t, `UPDATE keywicket.oauth_codes SET expires_at = now() - interval '25 hours'`)
	other, err := g.DB.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback() }()
	if _, err := other.Exec(`SELECT pg_advisory_xact_lock(1801812343)`); err != nil {
		t.Fatal(err)
	}
	if tokens, _, err := g.Clean(t.Context()); err != nil || tokens != 0 {
		t.Errorf("%d tokens, %v", tokens, err)
	}
	if err := other.Rollback(); err != nil {
		t.Fatal(err)
	}
	if tokens, _, err := g.Clean(t.Context()); err != nil || tokens != 1 {
		t.Errorf("%d tokens, %v", tokens, err)
	}
}
