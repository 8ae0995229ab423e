package settings

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// The pages are accessible in states that the walk does not reach: empty and long lists, long names, ended tokens, mistakes and errors.
func TestStatesInEveryLook(t *testing.T) {
	harness.SkipIfShort(t)
	t.Parallel()
	d := start(t)
	r, err := registry.Open(t.Context(), d.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	email := strings.Repeat("grace", 12) + "@" + strings.Repeat("a-long-name.", 10) + "example"
	grace := harness.Keywicket[registry.User](t, d.Stack, "user", "create", "--email", email)
	d.SignIn.AddUser(grace.ID, grace.Email)
	p := d.browser.Page(t)
	p.Visit(d.Velocity + "/settings")
	p.ClickAndLoad(find(t, p, "Sign in as "+email, "", ""))
	at := func(name, address string, want int) {
		t.Helper()
		requireStatus(t, p, p.Visit(address), want)
		requireGoodEverywhere(t, p, name)
	}
	at("no workspace", d.VelaFlows+"/settings/developer/api-tokens", http.StatusOK)
	at("no workspace general", d.VelaFlows+"/settings/general", http.StatusOK)

	workspaces := map[string]string{"empty": "owner", "full": "owner", "foreign": "guest"}
	for slug, role := range workspaces {
		harness.Keywicket[registry.Workspace](t, d.Stack, "workspace", "create", "--slug", slug, "--name", strings.Repeat("Workspace", 9)+slug)
		harness.Keywicket[registry.Member](t, d.Stack, "member", "set", "--workspace", slug, "--user", grace.ID, "--role", role)
	}
	api, format := product.FormatOf("sk_live_")
	for n := range 100 {
		d.fill(t, r, registry.NewToken{Format: format, API: api, Workspace: "full"}, n)
	}
	tokens, keys := d.VelaFlows+"/settings/developer/api-tokens", d.Velocity+"/settings"
	at("empty list", tokens+"?workspace=empty", http.StatusOK)
	at("no rights", tokens+"?workspace=foreign", http.StatusOK)
	at("long list", tokens+"?workspace=full", http.StatusOK)
	if rows := count(p, "tbody tr"); rows != 25 {
		t.Errorf("the page has %d rows", rows)
	}
	p.ClickAndLoad(find(t, p, "Next page", "", ""))
	requireGoodEverywhere(t, p, "second page")
	pages := 2
	for ; count(p, ".pages a") == 2; pages++ {
		p.ClickAndLoad(find(t, p, "Next page", "", ""))
	}
	if rows := count(p, "tbody tr"); pages != 4 || rows != 25 {
		t.Errorf("the list has %d pages, and %d rows on the last one", pages, rows)
	}
	at("no match", tokens+"?workspace=full&q=nothing", http.StatusOK)
	at("expired", tokens+"?workspace=full&status=expired", http.StatusOK)
	requireText(t, p, "tbody", "Expired")
	if count(p, "tbody .actions a") != 0 {
		t.Error("the list offers to rotate or to revoke an expired token")
	}
	at("revoked list", tokens+"?workspace=full&status=revoked", http.StatusOK)
	at("activity", d.VelaFlows+"/settings/activity?workspace=full", http.StatusOK)
	at("no activity", d.VelaFlows+"/settings/activity?workspace=full&actor=nobody@example.com", http.StatusOK)
	at("people who leave", tokens+"/leavers?workspace=full", http.StatusOK)
	at("not found", tokens+"/none/revoke?workspace=full", http.StatusNotFound)
	at("no page", d.VelaFlows+"/settings/nothing", http.StatusNotFound)
	requireStatus(t, p, p.ClickAndLoad(find(t, p, "Go to the settings", "", "")), http.StatusOK)
	at("unknown workspace", tokens+"?workspace=other", http.StatusNotFound)
	at("personal keys", keys+"/account/personal-api-keys?workspace=full", http.StatusOK)
	at("form of personal keys", keys+"/account/personal-api-keys/new?workspace=full", http.StatusOK)
	at("apps", keys+"/oauth-apps?workspace=full", http.StatusOK)
	at("authorized apps", keys+"/account/authorized-apps?workspace=full", http.StatusOK)

	at("form", tokens+"/new?workspace=full", http.StatusOK)
	p.Type("#name", "Dashboard")
	p.ClickAndLoad(find(t, p, "Create", "", ""))
	requireText(t, p, `[role="alert"]`, "Nothing was changed.")
	requireGoodEverywhere(t, p, "mistake")
	p.Check(`input[value="admin:all"]`)
	p.ClickAndLoad(find(t, p, "Create", "", ""))
	requireText(t, p, `[role="alert"]`, "Confirm that you want to give full access")
	requireGoodEverywhere(t, p, "full access")
	p.SetCookie("sb-demo-auth-token", "over", d.VelaFlows)
	p.ClickAndLoad(find(t, p, "Create", "", ""))
	requireText(t, p, "main", "Your session has ended, so nothing was changed.")
	requireGoodEverywhere(t, p, "session over")
}

// fill creates a token. Its name and its state depend on n.
func (d *deployment) fill(t *testing.T, r *registry.Registry, n registry.NewToken, i int) {
	t.Helper()
	n.Name = fmt.Sprintf("%s %d", strings.Repeat("Unbreakable", 1+i%9), i)
	n.Scopes = []string{"inbox:read", "crm:read", "contacts:read", "analytics:read", "tags:read"}[:1+i%5]
	lifetime := time.Duration(i) * 24 * time.Hour
	switch {
	case i%10 == 0:
		lifetime = 50 * time.Millisecond
		n.ExpiresIn = &lifetime
	case i%3 == 0:
		n.ExpiresIn = &lifetime
	}
	token, _, err := r.CreateToken(t.Context(), n)
	if err == nil && i%7 == 0 {
		_, err = r.RevokeToken(t.Context(), token.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// count returns the number of elements.
func count(p *browser.Page, selector string) (n int) {
	p.Eval(fmt.Sprintf(`document.querySelectorAll(%q).length`, selector), &n)
	return n
}
