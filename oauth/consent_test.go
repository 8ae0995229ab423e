package oauth_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
)

// In the complete flow, the user sees the app and its scopes and approves. The app receives a code and exchanges it for tokens
// (RFC 6749, section 4.1).
func TestUserApproves(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	p := b.do(t, "GET", i.request(), nil)
	for _, want := range []string{
		"Allow <bdi>Planner</bdi> to act for you?", "ada@example.com", "planner.example", "Read issues and comments", "Create, update, delete issues",
		"Acme", "Globex", i.acme.ID, `name="viewport"`, "<html lang=",
	} {
		if p.status != http.StatusOK || !strings.Contains(p.text, want) {
			t.Errorf("status %d, and %q is missing in %s", p.status, want, p.text)
		}
	}
	if strings.Contains(p.text, "Read your own profile") || strings.Contains(p.text, "<script") {
		t.Errorf("the page has more than the requested scopes: %s", p.text)
	}
	withoutWorkspace := b.do(t, "POST", i.request(), p.form("approve"))
	if withoutWorkspace.status != http.StatusUnprocessableEntity || !strings.Contains(withoutWorkspace.text, "Choose at least one workspace") {
		t.Errorf("without a workspace: %d %s", withoutWorkspace.status, withoutWorkspace.text)
	}
	q := expectRedirect(t, b.do(t, "POST", i.request(), withoutWorkspace.form("approve", i.globex.ID, i.acme.ID, i.acme.ID)))
	r := i.send(t, "/api/oauth/token", i.exchangeForm(t, i.public).withValue("code", q.Get("code")))
	if q.Get("error") != "" || r.status != http.StatusOK || r.text("scope") != "issues:read issues:write" {
		t.Fatalf("%v: %+v", q, r)
	}
	grants := must(i.registry.Grants(t.Context(), i.public.ID, i.ada.ID))
	if len(grants) != 2 || strings.Join(grants[1].Workspaces, " ") != "acme globex" { // i.exchangeForm created the newer grant
		t.Errorf("%+v", grants)
	}
	// The page separates scopes in the chosen workspaces from scopes of the whole account.
	both := b.do(t, "GET", i.request("scope", "user:read issues:read"), nil).text
	account, inWorkspaces := strings.Index(both, "for your whole account"), strings.Index(both, "in the workspaces that you choose")
	if profile, issues := strings.Index(both, "Read your own profile"), strings.Index(both, "Read issues"); account < 0 || account > profile || profile > inWorkspaces || inWorkspaces > issues {
		t.Error(both)
	}
	// If all scopes are for the user's account, the page shows no workspaces.
	profile := i.request("scope", "user:read")
	p = b.do(t, "GET", profile, nil)
	if strings.Contains(p.text, "Acme") || strings.Contains(p.text, "that you choose") || expectRedirect(t, b.do(t, "POST", profile, p.form("approve"))).Get("code") == "" {
		t.Error(p.text)
	}
	// A native app learns its port only when it runs (RFC 8252, section 7.3).
	native, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Native", RedirectURIs: []string{"http://127.0.0.1/cb?x=1"}})
	if err != nil {
		t.Fatal(err)
	}
	loopback := i.request("client_id", native.ID, "redirect_uri", "http://127.0.0.1:51004/cb?x=1", "state", "")
	p = b.do(t, "GET", loopback, nil)
	p = b.do(t, "POST", loopback, p.form("approve", i.acme.ID))
	if p.location == nil || !regexp.MustCompile(`^http://127\.0\.0\.1:51004/cb\?x=1&code=\w{52}&iss=https%3A%2F%2Fvelocity\.quest$`).MatchString(p.location.String()) {
		t.Errorf("%d %v", p.status, p.location)
	}
}

// The consent page says that an app is in development. The redirect goes to the app's current port on localhost.
func TestAppInDevelopment(t *testing.T) {
	i := newFixture(t)
	app, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{
		API: "velocity", Name: "Draft", RedirectURIs: []string{"http://localhost:3000/cb"}, Development: true})
	if err != nil || !app.Development {
		t.Fatalf("%+v, %v", app, err)
	}
	b := i.adaBrowser()
	request := i.request("client_id", app.ID, "redirect_uri", "http://localhost:5173/cb", "state", "")
	p := b.do(t, "GET", request, nil)
	if !strings.Contains(p.text, "This app is in development.") || !strings.Contains(p.text, "an app on this device (http://localhost:5173)") {
		t.Error(p.text)
	}
	p = b.do(t, "POST", request, p.form("approve", i.acme.ID))
	if p.location == nil || !strings.HasPrefix(p.location.String(), "http://localhost:5173/cb?code=") {
		t.Fatalf("%d %v %s", p.status, p.location, p.text)
	}
	r := i.send(t, "/api/oauth/token", i.exchangeForm(t, app).withValue("code", p.location.Query().Get("code")).withValue("redirect_uri", "http://localhost:5173/cb"))
	if r.status != http.StatusOK {
		t.Errorf("%+v", r)
	}
	if p := b.do(t, "GET", i.request(), nil); strings.Contains(p.text, "in development") {
		t.Errorf("another app: %s", p.text)
	}
	// Without the mark, the port on localhost must be the registered port.
	must(i.db.Exec(`UPDATE keywicket.oauth_apps SET development = false`))
	if p := b.do(t, "GET", request, nil); p.status != http.StatusBadRequest || p.location != nil {
		t.Errorf("%d to %v", p.status, p.location)
	}
}

// If a user opens the page in several tabs, the form in each tab stays valid. TestConsentPageInChromium opens the tabs from another
// site.
func TestConsentInTwoTabs(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	first := b.do(t, "GET", i.request(), nil)
	second := b.do(t, "GET", i.request("client_id", i.confidential.ID), nil)
	for client, p := range map[string]page{i.public.ID: first, i.confidential.ID: second} {
		if q := expectRedirect(t, b.do(t, "POST", i.request("client_id", client), p.form("approve", i.acme.ID))); q.Get("code") == "" {
			t.Errorf("%v", q)
		}
	}
	// In another browser, the form is refused.
	if p := i.adaBrowser().do(t, "POST", i.request(), first.form("approve", i.acme.ID)); p.status != http.StatusForbidden {
		t.Errorf("%d to %v", p.status, p.location)
	}
}

// A user without a workspace can deny the request, and the app receives access_denied.
func TestUserWithoutAWorkspace(t *testing.T) {
	i := newFixture(t)
	b := i.browser()
	b.signIn(must(i.registry.CreateUser(t.Context(), registry.User{Email: "eve@example.com"})).ID, nil)
	p := b.do(t, "GET", i.request(), nil)
	if p.status != http.StatusOK || !strings.Contains(p.text, "you are not a member of a workspace") || strings.Contains(p.text, `value="approve"`) {
		t.Errorf("%d %s", p.status, p.text)
	}
	if p := b.do(t, "POST", i.request(), p.form("approve")); p.status != http.StatusUnprocessableEntity {
		t.Errorf("%d to %v", p.status, p.location)
	}
	if q := expectRedirect(t, b.do(t, "POST", i.request(), p.form("deny"))); q.Get("error") != "access_denied" {
		t.Errorf("%v", q)
	}
	// A user's only workspace is preselected. If the user has several workspaces, none is preselected.
	must(i.registry.SetMember(t.Context(), "acme", "eve@example.com", "guest"))
	if one, two := b.do(t, "GET", i.request(), nil), i.adaBrowser().do(t, "GET", i.request(), nil); strings.Count(one.text, " checked>") != 1 || strings.Contains(two.text, " checked>") {
		t.Errorf("one workspace: %s\ntwo workspaces: %s", one.text, two.text)
	}
	// If all requested scopes are for the user's account, no workspace is granted, even if the form contains a workspace.
	b = i.adaBrowser()
	profile := i.request("scope", "user:read")
	p = b.do(t, "GET", profile, nil)
	if q := expectRedirect(t, b.do(t, "POST", profile, p.form("approve", i.acme.ID))); q.Get("code") == "" {
		t.Errorf("%v", q)
	}
	if grants := must(i.registry.Grants(t.Context(), "", i.ada.ID)); len(grants) != 1 || len(grants[0].Workspaces) != 0 {
		t.Errorf("%+v", grants)
	}
}

// The redirect contains the redirect URI exactly as the app wrote it.
func TestRedirectURIsAreKeptUnchanged(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	for _, uri := range []string{"com.example.App://cb", "com.example.app:/cb", "com.example.app://", "https://Planner.example", "http://[::1]/cb?", callback + "?x=%41"} {
		query := i.request("client_id", i.appWithRedirectURI(t, uri).ID, "redirect_uri", uri)
		p := b.do(t, "GET", query, nil)
		p = b.do(t, "POST", query, p.form("deny"))
		if to := p.header.Get("Location"); !regexp.MustCompile("^" + regexp.QuoteMeta(uri) + `[?&]error=access_denied&iss=`).MatchString(to) {
			t.Errorf("%s: %d to %s", uri, p.status, to)
		}
	}
}

func TestUserDenies(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	p := b.do(t, "GET", i.request(), nil)
	for _, decision := range []string{"deny", ""} {
		if q := expectRedirect(t, b.do(t, "POST", i.request(), p.form(decision, i.acme.ID))); q.Get("error") != "access_denied" || q.Get("code") != "" {
			t.Errorf("%v", q)
		}
	}
	if grants := must(i.registry.Grants(t.Context(), "", "")); len(grants) != 0 {
		t.Errorf("%+v", grants)
	}
}

// RFC 6749, section 4.1.2.1; RFC 9700, section 4.11: users are never redirected to a URI that the app has not registered.
func TestMistakesAreShownToTheUser(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	revoked, _ := i.app(t, false)
	must(i.registry.RevokeApp(t.Context(), revoked.ID))
	for name, query := range map[string]string{
		"no client":                         i.request("client_id", ""),
		"an unknown client":                 i.request("client_id", "nobody"),
		"a revoked client":                  i.request("client_id", revoked.ID),
		"two clients":                       i.request() + "&client_id=" + i.confidential.ID,
		"no redirect URI":                   i.request("redirect_uri", ""),
		"two redirect URIs":                 i.request() + "&redirect_uri=https://evil.example",
		"another redirect URI":              i.request("redirect_uri", "https://evil.example/cb"),
		"a redirect URI with a longer path": i.request("redirect_uri", callback+"/evil"),
		"a redirect URI with dot segments":  i.request("redirect_uri", callback+"/../evil"),
		"a redirect URI in capitals":        i.request("redirect_uri", "https://planner.example/CB"),
		"a redirect URI on another host":    i.request("redirect_uri", "https://planner.example.evil.example/cb"),
		"a redirect URI with a fragment":    i.request("redirect_uri", callback+"#x"),
		"a redirect URI with another query": i.request("redirect_uri", callback+"?x=1"),
		"an invalid escape":                 i.request() + "&%zz",
		"a zero byte as client":             i.request("client_id", "\x00"),
		"a client that is not UTF-8":        i.request("client_id", "\xff"),
		"a client of another API":           i.request("client_id", i.appOfOtherAPI(t).ID),
	} {
		for _, method := range []string{"GET", "POST"} {
			if p := b.do(t, method, query, url.Values{"decision": {"approve"}}); p.status != http.StatusBadRequest || p.location != nil ||
				!strings.Contains(p.text, "This did not work") || strings.Contains(p.text, "<form") {
				t.Errorf("%s %s: %d to %v", method, name, p.status, p.location)
			}
		}
	}
}

// Errors in the other parameters are sent to the app (RFC 6749, section 4.1.2.1; RFC 7636, section 4.4.1).
func TestRefusalsAreReportedToTheApp(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	for name, c := range map[string]struct{ query, want string }{
		"no response type":                                  {i.request("response_type", ""), "invalid_request"},
		"the response type code twice":                      {i.request() + "&response_type=code", "invalid_request"},
		"the response type token":                           {i.request("response_type", "token"), "unsupported_response_type"},
		"the response types code and id_token":              {i.request("response_type", "code id_token"), "unsupported_response_type"},
		"no challenge":                                      {i.request("code_challenge", ""), "invalid_request"},
		"no challenge method":                               {i.request("code_challenge_method", ""), "invalid_request"},
		"the challenge method plain":                        {i.request("code_challenge_method", "plain"), "invalid_request"},
		"a short challenge":                                 {i.request("code_challenge", challenge[1:]), "invalid_request"},
		"a challenge with +, which base64url does not have": {i.request("code_challenge", challenge[1:]+"+"), "invalid_request"},
		"no scope":                      {i.request("scope", ""), "invalid_scope"},
		"an unknown scope":              {i.request("scope", "issues:read issues:delete"), "invalid_scope"},
		"the scope workspace:admin":     {i.request("scope", "workspace:admin"), "invalid_scope"},
		"the scope admin":               {i.request("scope", "admin"), "invalid_scope"},
		"a scope with a capital letter": {i.request("scope", "Issues:read"), "invalid_scope"},
		"a scope twice":                 {i.request() + "&scope=issues:read", "invalid_request"},
		"a request object":              {i.request("request", "x"), "request_not_supported"},
		"the URI of a request object":   {i.request("request_uri", "https://planner.example/r"), "request_uri_not_supported"},
	} {
		q := expectRedirect(t, b.do(t, "GET", c.query, nil))
		if q.Get("error") != c.want || q.Get("code") != "" || c.want == "invalid_request" && q.Get("error_description") == "" {
			t.Errorf("%s: %v", name, q)
		}
	}
	p := b.do(t, "GET", i.request()+"&state=another", nil)
	if q := p.location.Query(); q.Get("error") != "invalid_request" || q.Has("state") {
		t.Errorf("two states: %v", q)
	}
}

// RFC 6749, section 3.3: if the request has no scope, the scopes that the app has registered are the default. They are no limit.
func TestRegisteredScopesAreTheDefault(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	register := func(scopes ...string) string {
		app, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{callback}, Scopes: scopes})
		if err != nil {
			t.Fatal(err)
		}
		return app.ID
	}
	id := register("issues:read", "user:read")
	for _, query := range []string{
		i.request("client_id", id, "scope", ""), i.request("client_id", id, "scope", "") + "&scope=", i.request("client_id", id, "scope", " "),
	} {
		p := b.do(t, "GET", query, nil)
		if p.status != http.StatusOK || !strings.Contains(p.text, "Read issues and comments") || !strings.Contains(p.text, "Read your own profile") {
			t.Fatalf("%d to %v: %s", p.status, p.location, p.text)
		}
		q := expectRedirect(t, b.do(t, "POST", query, p.form("approve", i.acme.ID)))
		form := i.exchangeForm(t, i.public).withValue("code", q.Get("code")).withValue("client_id", id)
		if r := i.send(t, "/api/oauth/token", form); r.status != http.StatusOK || r.text("scope") != "issues:read user:read" {
			t.Errorf("%+v", r)
		}
	}
	if p := b.do(t, "GET", i.request("client_id", id, "scope", "issues:write"), nil); p.status != http.StatusOK ||
		!strings.Contains(p.text, "Create, update, delete issues") || strings.Contains(p.text, "Read your own profile") {
		t.Errorf("%d to %v: %s", p.status, p.location, p.text)
	}
	// A scope that the policies no longer define, or that apps may not request, is refused even if it is registered.
	for _, scope := range []string{"issues:archive", "admin", "workspace:admin"} {
		if q := expectRedirect(t, b.do(t, "GET", i.request("client_id", register("issues:read", scope), "scope", ""), nil)); q.Get("error") != "invalid_scope" {
			t.Errorf("%s: %v", scope, q)
		}
	}
}

// RFC 6749, sections 10.2 and 10.12: after an approval, the server asks the user again at the next request. A GET request never
// approves anything.
func TestConsentIsAskedForEachTime(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	p := b.do(t, "GET", i.request(), nil)
	if q := expectRedirect(t, b.do(t, "POST", i.request(), p.form("approve", i.acme.ID))); q.Get("code") == "" {
		t.Fatal(q)
	}
	again := p.form("approve", i.acme.ID).Encode()
	for _, query := range []string{i.request(), i.request() + "&" + again, i.request() + "&prompt=none"} {
		if p := b.do(t, "GET", query, nil); p.status != http.StatusOK || !strings.Contains(p.text, "Allow <bdi>Planner</bdi> to act for you?") {
			t.Errorf("%s: %d to %v", query, p.status, p.location)
		}
	}
	if grants := must(i.registry.Grants(t.Context(), "", "")); len(grants) != 1 {
		t.Errorf("%+v", grants)
	}
}
