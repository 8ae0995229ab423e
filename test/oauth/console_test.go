package oauth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
)

// A user registers an app on the page OAuth Apps. At once, the app runs the whole flow, through Envoy: consent, code, tokens, request.
// The page Authorized Apps shows when the access was last used, and ends it. Then the access token is refused.
func TestUserRegistersAnApp(t *testing.T) {
	t.Parallel()
	chromium, err := browser.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chromium.Close(); err != nil {
			t.Error(err)
		}
	})
	d := startDemo(t)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<title>app</title>") }))
	t.Cleanup(app.Close)
	callback := app.URL + "/callback"
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

	p := chromium.Page(t)
	visit := func(path, contains string) {
		t.Helper()
		if status := p.Visit(d.Velocity + path); status != http.StatusOK || !strings.Contains(p.Text("body"), contains) {
			t.Fatalf("%s: %d at %s: %s", path, status, p.URL(), p.Text("body"))
		}
	}
	visit("/settings/oauth-apps/new", "Sign in as")
	signIn(p, "ada@example.com")
	p.Type("#name", "Scheduler")
	p.Type("#redirect-uris", callback)
	p.Check(`input[value="confidential"]`)
	if status := p.ClickAndLoad("main .primary"); status != http.StatusOK {
		t.Fatalf("%d: %s", status, p.Text("body"))
	}
	var id, secret string
	p.Eval(`document.getElementById("client-id").value`, &id)
	p.Eval(`document.getElementById("secret").value`, &secret)
	if id == "" || secret == "" {
		t.Fatalf("no client id or no secret: %s", p.Text("body"))
	}

	authorize := d.Velocity + "/oauth/consent?" + url.Values{
		"client_id": {id}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"issues:read user:read"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}.Encode()
	if status := p.Visit(authorize); status != http.StatusOK || !strings.Contains(p.Text("h1"), "Scheduler") {
		t.Fatalf("%d: %s", status, p.Text("body"))
	}
	p.Click(`input[name="workspace"]`)
	p.ClickAndLoad(`button[value="approve"]`)
	at, err := url.Parse(p.URL())
	if err != nil || at.Query().Get("code") == "" {
		t.Fatalf("the browser is at %s", p.URL())
	}
	exchange := func(secret string) harness.Reply {
		form := url.Values{
			"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {callback}, "code_verifier": {verifier},
			"client_id": {id}, "client_secret": {secret},
		}
		return harness.Fetch(t, http.DefaultClient, "POST", d.Velocity+"/api/oauth/token", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	}
	if r := exchange(""); r.Status == http.StatusOK {
		t.Errorf("without the secret: %+v", r)
	}
	tokens := exchange(secret)
	access := tokens.Text("access_token")
	if tokens.Status != http.StatusOK || access == "" {
		t.Fatalf("%d %v", tokens.Status, tokens.JSON)
	}
	call := func() int {
		return harness.Get(t, http.DefaultClient, d.Velocity+"/api/issues", "Authorization", "Bearer "+access).Status
	}
	visit("/settings/account/authorized-apps", "Scheduler")
	if text := p.Text("tbody"); !strings.Contains(text, "Never") {
		t.Errorf("before the first request: %s", text)
	}
	if status := call(); status != http.StatusOK {
		t.Fatalf("the app's request: %d", status)
	}
	harness.Await(t, "the page shows the last use", func() bool {
		visit("/settings/account/authorized-apps", "Scheduler")
		return strings.Contains(p.Text("tbody"), "just now")
	})
	visit("/settings/oauth-apps", "1 user")
	visit("/settings/account/authorized-apps", "Scheduler")
	p.ClickAndLoad("tbody tr:first-child .actions a")
	p.ClickAndLoad("main .solid")
	if text := p.Text("main"); !strings.Contains(text, "The access of Scheduler is revoked.") {
		t.Errorf("after the revocation: %s", text)
	}
	harness.Await(t, "the access token is refused", func() bool { return call() == http.StatusUnauthorized })
	visit("/settings/account/activity", "ada@example.com ended the access of the app Scheduler.")
	visit("/settings/account/activity?kind=app", "ada@example.com registered the app Scheduler.")
}
