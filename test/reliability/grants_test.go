package reliability

import (
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// A user's grant to an app ends when the grant or the app is revoked, when the grant's code is used twice, or when the user is
// deleted.
func TestRevokedGrants(t *testing.T) {
	t.Parallel()
	f := newFaults(t, harness.StartStack)
	ada := harness.Keywicket[registry.User](t, f.Stack, "user", "create", "--email", "ada@example.com")
	harness.Keywicket[registry.Member](t, f.Stack, "member", "set", "--workspace", f.home.Slug, "--user", ada.ID, "--role", "member")
	grants, err := issuer.Open(f.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = grants.Close() })
	_, format := product.FormatOf("velo_")
	type app struct{ ID string }
	register := func() app {
		return harness.Keywicket[app](t, f.Stack, "oauth-app", "create", "--name", "Planner", "--redirect-uri", "https://planner.example/cb")
	}
	// warm creates a grant. It returns the code, the tokens, and a request with the access token. The sidecar has cached the
	// answer for this request. The user granted one workspace, so requests with the token need no workspace header.
	warm := func(a app) (code authz.Secret, issued issuer.TokenPair, r harness.Request) {
		approved, err := grants.Approve(t.Context(), issuer.Approval{
			Client: a.ID, User: ada.ID, Workspaces: []string{f.home.ID}, Scopes: []string{"issues:read"},
			RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43),
		})
		if err == nil {
			issued, err = grants.Exchange(t.Context(), approved.Code, format, func(issuer.Code) error { return nil })
		}
		if err != nil {
			t.Fatal(err)
		}
		r = harness.NewRequest("velocity", "GET /api/issues", issued.Access.Reveal(), "")
		f.warmUp(t, r)
		return approved.Code, issued, r
	}
	revoked := "UNAUTHORIZED revoked"

	t.Run("the grant, by the CLI", func(t *testing.T) {
		a := register()
		_, _, token := warm(a)
		grants := harness.Keywicket[[]registry.Grant](t, f.Stack, "grant", "list", "--app", a.ID, "--user", ada.ID)
		if len(grants) != 1 {
			t.Fatalf("%+v", grants)
		}
		harness.Keywicket[registry.Grant](t, f.Stack, "grant", "revoke", grants[0].ID)
		f.requireChange(t, token, time.Now(), bound, "allow", revoked)
	})
	t.Run("the app, by the CLI", func(t *testing.T) {
		a := register()
		_, _, one := warm(a)
		_, _, other := warm(a)
		harness.Keywicket[registry.App](t, f.Stack, "oauth-app", "revoke", a.ID)
		f.requireChange(t, one, time.Now(), bound, "allow", revoked)
		f.requireChange(t, other, time.Now(), bound, "allow", revoked)
	})
	t.Run("by a second use of the code, while the connection for hints is frozen", func(t *testing.T) {
		code, _, token := warm(register())
		heal := addToxic(t, f.feed, "timeout", `"timeout": 0`)
		defer heal()
		if _, err := grants.Exchange(t.Context(), code, format, func(issuer.Code) error { return nil }); err == nil {
			t.Error("a code was accepted twice")
		}
		f.requireChange(t, token, time.Now(), bound, "allow", revoked)
	})
	t.Run("a scope that the user did not grant", func(t *testing.T) {
		_, issued, _ := warm(register())
		f.client.Expect(t, harness.NewRequest("velocity", "POST /api/issues", issued.Access.Reveal(), ""), "FORBIDDEN missing_scope", "issues:write")
		f.client.Expect(t, harness.NewRequest("velocity", "GET /api/issues", issued.Refresh.Reveal(), ""), "UNAUTHORIZED unknown")
	})
	t.Run("the user", func(t *testing.T) {
		_, _, token := warm(register())
		f.requireChange(t, token, f.exec(t, `DELETE FROM keywicket.users`), bound, "allow", "UNAUTHORIZED unknown")
	})
}
