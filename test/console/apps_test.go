package console

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
// The page Authorized Apps shows when the access was last used, and ends it. Then the access token is refused. By mouse and by keyboard
// alone.
func TestUserRegistersAnApp(t *testing.T) {
	t.Parallel()
	d := start(t)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<title>app</title>") }))
	t.Cleanup(app.Close)
	for _, c := range []struct {
		device string
		hand   func(*testing.T) hand
		width  int
	}{
		{"mouse", func(*testing.T) hand { return mouse{} }, 1280},
		{"keyboard", func(t *testing.T) hand { return keyboard{t} }, 360},
	} {
		t.Run(c.device, func(t *testing.T) {
			p := d.open(t, d.Velocity+"/settings/oauth-apps")
			p.Size(c.width, 740)
			(&appWalk{d, p, c.hand(t), "Scheduler " + c.device, app.URL + "/callback"}).run(t)
		})
	}
}

// appWalk is the walk of a user who registers and authorizes an app.
type appWalk struct {
	*deployment
	page           *browser.Page
	hand           hand
	name, callback string
}

func (a *appWalk) run(t *testing.T) {
	h, p := a.hand, a.page
	visit := func(path, contains string) {
		t.Helper()
		if status := p.Visit(a.Velocity + path); status != http.StatusOK || !strings.Contains(p.Text("body"), contains) {
			t.Fatalf("%s: %d at %s: %s", path, status, p.URL(), p.Text("body"))
		}
	}
	h.follow(p, ".heading .button")
	h.write(p, "#name", a.name)
	h.write(p, "#redirect-uris", a.callback)
	h.check(p, `input[value="confidential"]`)
	if status := h.follow(p, ".answers .primary"); status != http.StatusOK {
		t.Fatalf("%d: %s", status, p.Text("main"))
	}
	var id, secret string
	p.Eval(`document.getElementById("client-id").value`, &id)
	p.Eval(`document.getElementById("secret").value`, &secret)

	access := a.authorize(t, id, secret)
	request := a.Velocity + "/api/issues"
	visit("/settings/account/authorized-apps", a.name)
	if text := p.Text("tbody tr:first-child"); !strings.Contains(text, "Never") {
		t.Errorf("before the first request: %s", text)
	}
	if got := status(t, request, access, ""); got != http.StatusOK {
		t.Fatalf("the app's first request: %d", got)
	}
	harness.Await(t, "the page shows the last use", func() bool {
		visit("/settings/account/authorized-apps", a.name)
		return strings.Contains(p.Text("tbody tr:first-child"), "just now")
	})

	visit("/settings/oauth-apps", "1 user")
	h.follow(p, "tbody tr:first-child .actions a:first-child")
	h.follow(p, ".answers .primary")
	var rotated string
	p.Eval(`document.getElementById("secret").value`, &rotated)
	if rotated == "" || rotated == secret {
		t.Errorf("the new secret is %q", rotated)
	}
	if got := status(t, request, access, ""); got != http.StatusOK {
		t.Errorf("after the rotation of the secret, the access token got %d", got)
	}
	if a.knows(t, id, secret) || !a.knows(t, id, rotated) {
		t.Error("the issuer accepts the old secret, or refuses the new one")
	}

	visit("/settings/account/authorized-apps", a.name)
	h.follow(p, "tbody tr:first-child .actions a")
	h.follow(p, ".answers .solid")
	if text := p.Text(`[role="status"]`); !strings.Contains(text, "The access of "+a.name+" is revoked.") {
		t.Errorf("after the revocation: %s", text)
	}
	harness.Await(t, "the access token is refused", func() bool { return status(t, request, access, "") == http.StatusUnauthorized })

	visit("/settings/oauth-apps", a.name)
	h.follow(p, "tbody tr:first-child .actions a:last-child")
	h.follow(p, ".answers .solid")
	if text := p.Text(`[role="status"]`); !strings.Contains(text, "The app "+a.name+" is deleted.") {
		t.Errorf("after the deletion: %s", text)
	}
	if a.knows(t, id, rotated) {
		t.Error("the issuer knows the deleted app")
	}
	visit("/settings/account/activity?kind=grant", "ada@example.com ended the access of the app "+a.name+".")
	visit("/settings/account/activity?kind=app", "ada@example.com deleted the app "+a.name+".")
}

// authorize lets the user allow the app on the consent page, and returns the access token that the app gets.
func (a *appWalk) authorize(t *testing.T, id, secret string) string {
	t.Helper()
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	p := a.page
	ask := a.Velocity + "/oauth/consent?" + url.Values{
		"client_id": {id}, "redirect_uri": {a.callback}, "response_type": {"code"}, "scope": {"issues:read user:read"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}.Encode()
	if status := p.Visit(ask); status != http.StatusOK || !strings.Contains(p.Text("h1"), a.name) {
		t.Fatalf("%d: %s", status, p.Text("body"))
	}
	a.hand.check(p, `input[name="workspace"]`)
	a.hand.follow(p, `button[value="approve"]`)
	at, err := url.Parse(p.URL())
	if err != nil || at.Query().Get("code") == "" {
		t.Fatalf("the browser is at %s", p.URL())
	}
	tokens := a.post(t, "/api/oauth/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {a.callback}, "code_verifier": {verifier},
		"client_id": {id}, "client_secret": {secret},
	})
	access := tokens.Text("access_token")
	if tokens.Status != http.StatusOK || access == "" {
		t.Fatalf("%d %v", tokens.Status, tokens.JSON)
	}
	return access
}

// knows reports whether the issuer accepts the app's secret.
func (a *appWalk) knows(t *testing.T, id, secret string) bool {
	t.Helper()
	return a.post(t, "/api/oauth/introspect", url.Values{"token": {"velo_x"}, "client_id": {id}, "client_secret": {secret}}).Status == http.StatusOK
}

func (a *appWalk) post(t *testing.T, path string, form url.Values) harness.Reply {
	t.Helper()
	return harness.Fetch(t, http.DefaultClient, "POST", a.Velocity+path, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}
