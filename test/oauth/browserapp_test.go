package oauth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/js"
)

// browserApp is the page of an app. docs/oauth.md shows the same settings.
const browserApp = `<!doctype html><html lang="en"><title>Planner</title>
<script src="/oidc-client-ts.min.js"></script>
<script>
const issuer = "ISSUER";
const users = new oidc.UserManager({
  authority: issuer,
  metadataUrl: issuer + "/.well-known/oauth-authorization-server",
  client_id: "CLIENT_ID",
  redirect_uri: location.origin + "/callback",
  scope: "issues:read issues:write",
});
async function call(token, path) {
  const headers = {Authorization: "Bearer " + token, "X-Workspace-Slug": "your-workspace", "Content-Type": "application/json"};
  const response = await fetch(issuer + path, {method: "POST", headers, body: "{}"});
  const body = await response.json();
  return {Status: response.status, Challenge: response.headers.get("WWW-Authenticate") ?? "", Reason: body.error?.reason ?? ""};
}
function refused(path, request) {
  return fetch(issuer + path, request).then(response => "readable: " + response.status, () => "refused");
}
</script>
<button onclick="users.signinRedirect()">Log in</button>`

// The unmodified npm package oidc-client-ts runs in Chromium. Its page has another origin than the API and the issuer. Envoy's list
// of origins contains the page's origin.
func TestBrowserApp(t *testing.T) {
	t.Parallel()
	library, err := js.File("oidc-client-ts/dist/browser/oidc-client-ts.min.js")
	if err != nil {
		t.Fatal(err)
	}
	var page string
	mux := http.NewServeMux()
	mux.HandleFunc("/oidc-client-ts.min.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, library) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) })
	appServer := httptest.NewServer(mux)
	defer appServer.Close()
	d := harness.StartDemo(t, demo.Config{
		Environ:     []string{harness.ShortStaleness},
		EnvoyConfig: func(config []byte) []byte { return harness.Replace(t, config, "https://app.example", appServer.URL, 1) },
	})
	app := harness.Keywicket[harness.App](t, d.Stack, "oauth-app", "create", "--name", "Planner", "--redirect-uri", "http://127.0.0.1/callback")
	page = strings.NewReplacer("ISSUER", d.Velocity, "CLIENT_ID", app.ID).Replace(browserApp)
	chromium, err := browser.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := chromium.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := chromium.Page(t)

	// The library reads the metadata and redirects to the consent page. Ada grants the second of her workspaces.
	p.Visit(appServer.URL + "/")
	p.ClickAndLoad("button")
	signIn(p, "ada@example.com")
	p.Check("fieldset li:nth-child(2) input")
	if p.ClickAndLoad("button.yes"); !strings.HasPrefix(p.URL(), appServer.URL+"/callback?code=") {
		t.Fatalf("the user is at %s: %s", p.URL(), p.Text("body"))
	}

	// The library exchanges the code, and later refreshes and revokes the tokens.
	type tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Scope   string `json:"scope"`
	}
	var first, second tokens
	p.Eval(`users.signinRedirectCallback()`, &first)
	type response struct {
		Status            int
		Challenge, Reason string
	}
	call := func(token, path string) (r response) {
		p.Eval(fmt.Sprintf("call(%q, %q)", token, path), &r)
		return r
	}
	expect := func(token, path string, want response) {
		t.Helper()
		if got := call(token, path); !reflect.DeepEqual(got, want) {
			t.Errorf("POST %s: got %+v, want %+v", path, got, want)
		}
	}
	expect(first.Access, "/api/issues", response{Status: 200})
	// The page can read denials with their headers, not only their statuses.
	metadata := `, resource_metadata="` + d.Velocity + `/.well-known/oauth-protected-resource"`
	expect(first.Access, "/api/projects", response{403, `Bearer error="insufficient_scope", scope="projects:write"` + metadata, "missing_scope"})
	expect("velo_none", "/api/issues", response{401, `Bearer realm="keywicket", error="invalid_token", scope="issues:write"` + metadata, "malformed"})
	p.Eval(`users.signinSilent()`, &second)
	if second.Access == first.Access || second.Refresh == first.Refresh || second.Scope != "issues:read issues:write" {
		t.Errorf("got the scope %q, or the same tokens again", second.Scope)
	}
	expect(second.Access, "/api/issues", response{Status: 200})
	p.Eval(`users.revokeTokens().then(() => null)`, new(any))
	harness.Await(t, "the access token is revoked", func() bool { return call(second.Access, "/api/issues").Reason == "revoked" })
	for _, grant := range harness.Keywicket[[]registry.Grant](t, d.Stack, "grant", "list", "--app", app.ID) {
		if grant.Status == registry.Active {
			t.Errorf("the grant is not revoked: %+v", grant)
		}
	}

	// No page of another origin can read the consent page or use the introspection. Pages of origins that are not listed cannot
	// read anything.
	other := func(page *browser.Page, path, request string) (got string) {
		page.Eval(fmt.Sprintf(`refused(%q, %s)`, path, request), &got)
		return got
	}
	for path, request := range map[string]string{
		"/oauth/consent?client_id=nobody":         "{}", // a page without a session: the sign-in page would be refused in any case
		"/api/oauth/introspect":                   `{method: "POST", body: new URLSearchParams({token: "x"})}`,
		"/.well-known/oauth-authorization-server": `{credentials: "include"}`, // a page may not send cookies
	} {
		if got := other(p, path, request); got != "refused" {
			t.Errorf("%s: %s", path, got)
		}
	}
	unlisted := chromium.Page(t)
	unlisted.Visit(strings.Replace(appServer.URL, "127.0.0.1", "evil.localhost", 1))
	for path, request := range map[string]string{
		"/.well-known/oauth-authorization-server": "{}",
		"/api/issues": `{headers: {Authorization: "Bearer x"}}`,
	} {
		if got := other(unlisted, path, request); got != "refused" {
			t.Errorf("from an unlisted origin: %s: %s", path, got)
		}
	}
}
