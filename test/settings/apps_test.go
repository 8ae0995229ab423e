package settings

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/test/harness"
)

// The example of RFC 7636, appendix B.
const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

// apps registers an OAuth app, lets it act for the user, rotates its secret, ends its access and deletes it.
func (w *walk) apps() {
	w.t.Helper()
	appServer := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "Back at the app.") }))
	w.t.Cleanup(appServer.Close)
	p, name := w.page, "Planner "+rand.Text()[:8]
	w.step("sign in")
	w.signIn(w.Velocity)
	w.step("navigate")
	w.navigate("OAuth Apps")
	w.good("list")

	w.step("register")
	w.follow("Register an app")
	w.good("form")
	w.hand.write(p, "#name", name)
	w.hand.write(p, "#redirect-uris", "http://127.0.0.1/callback")
	w.hand.check(p, `input[name="type"][value="confidential"]`)
	w.follow("Register the app")
	w.good("registered")
	client, secret := w.clientID(), w.clientSecret()

	w.step("use at once")
	w.consents(client, appServer.URL)
	code := w.code()
	first := w.tokenRequest(client, secret, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {appServer.URL + "/callback"}, "code_verifier": {verifier},
	})
	access := first.Text("access_token")
	issues := tokenPage{api: "velocity", workspace: example.YourSlug, allowed: "GET /api/issues"}
	w.request(issues, issues.allowed, access, "allow")
	w.request(issues, "POST /api/issues", access, "FORBIDDEN missing_scope")

	w.step("authorized apps")
	p.Visit(w.Velocity + "/settings/oauth-apps?workspace=" + example.YourSlug)
	w.navigate("Account > Authorized Apps")
	harness.Await(w.t, "the list shows the use of the app", func() bool {
		p.Visit(p.URL())
		return strings.Contains(p.Text("tbody tr:first-child"), "just now")
	})
	requireText(w.t, p, "tbody tr:first-child", name, "issues:read", "Read issues and comments", "Your workspace")
	w.good("authorized")

	w.step("rotate")
	w.navigate("OAuth Apps")
	requireText(w.t, p, "tbody", name, client)
	w.followIn(name, "Rotate the secret")
	w.good("rotate")
	w.follow("Rotate the secret")
	next := w.clientSecret()
	w.good("rotated")
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.Text("refresh_token")}}
	if got := w.tokenRequest(client, secret, refresh); got.Status != http.StatusUnauthorized {
		w.t.Errorf("the old secret gets %d %s", got.Status, got.Text("error"))
	}
	if got := w.tokenRequest(client, next, refresh); got.Status != http.StatusOK {
		w.t.Errorf("the new secret gets %d %s", got.Status, got.Text("error"))
	}

	w.step("revoke")
	w.navigate("Account > Authorized Apps")
	w.followIn(name, "Revoke")
	requireText(w.t, p, "main", name, "issues:read")
	w.good("revoke")
	w.follow("Revoke the access")
	w.ends(issues, access)
	requireText(w.t, p, `[role="status"]`, name, "is revoked")
	w.good("revoked")

	w.step("delete")
	w.navigate("OAuth Apps")
	w.followIn(name, "Delete")
	requireText(w.t, p, "h1", "Delete "+name+"?")
	w.good("delete")
	w.follow("Delete the app")
	requireText(w.t, p, `[role="status"]`, name, "is deleted")
	w.good("deleted")

	w.step("activity")
	w.navigate("Account > Activity")
	for _, deed := range []string{"registered", "authorized", "replaced the secret of", "ended the access of", "deleted"} {
		requireText(w.t, p, "tbody", example.User+" "+deed+" the app "+name)
	}
	requireStatus(w.t, p, p.Visit(w.consentURL(client, appServer.URL)), http.StatusBadRequest)
}

func (w *walk) clientID() (id string) {
	w.t.Helper()
	w.page.Eval(`document.querySelector("#client-id").value`, &id)
	return id
}

// clientSecret returns the secret that the page shows, after the user has copied it.
func (w *walk) clientSecret() (secret string) {
	w.t.Helper()
	requireText(w.t, w.page, "main", "it will only be shown once")
	w.page.Eval(`document.querySelector("#secret").value`, &secret)
	if !w.look.noScript {
		w.hand.press(w.page, `[data-copy="secret"]`)
		w.page.Await(`document.querySelector("#copied").textContent === "Copied"`)
		if got := w.page.Clipboard(); got != secret {
			w.t.Errorf("the clipboard does not contain the secret, but %d characters", len(got))
		}
	}
	return secret
}

func (w *walk) consentURL(client, app string) string {
	return w.Velocity + "/oauth/consent?" + url.Values{
		"client_id": {client}, "redirect_uri": {app + "/callback"}, "response_type": {"code"}, "scope": {"issues:read"},
		"state": {"random_state"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}.Encode()
}

// consents lets the app act for the user in the user's own workspace.
func (w *walk) consents(client, app string) {
	w.t.Helper()
	requireStatus(w.t, w.page, w.page.Visit(w.consentURL(client, app)), http.StatusOK)
	w.hand.check(w.page, `input[name="workspace"][value="`+w.workspace.ID+`"]`)
	requireStatus(w.t, w.page, w.hand.follow(w.page, "button.yes"), http.StatusOK)
}

// code returns the code in the URL that the app received.
func (w *walk) code() string {
	w.t.Helper()
	at, err := url.Parse(w.page.URL())
	if err != nil || at.Query().Get("code") == "" {
		w.t.Fatalf("the user is at %s: %s", w.page.URL(), w.page.Text("body"))
	}
	return at.Query().Get("code")
}

// tokenRequest sends a request of the app to the token endpoint.
func (w *walk) tokenRequest(client, secret string, form url.Values) harness.Reply {
	w.t.Helper()
	form.Set("client_id", client)
	form.Set("client_secret", secret)
	return harness.Fetch(w.t, http.DefaultClient, http.MethodPost, w.Velocity+"/api/oauth/token", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}
