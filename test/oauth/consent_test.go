package oauth

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
)

// consentStack is a deployment behind Envoy, a user's browser, and an app on this machine. The app asks for the user's consent.
type consentStack struct {
	*demo.Demo
	browser   *browser.Browser
	app       harness.App
	appServer *httptest.Server // the app's own server
}

// requestURL returns the URL to which the app sends its user. The parameter `change` contains query parameters to change, as names
// and values in turn.
func (c *consentStack) requestURL(change ...string) string {
	q := url.Values{
		"client_id": {c.app.ID}, "redirect_uri": {c.appServer.URL + "/callback"}, "response_type": {"code"}, "scope": {"issues:read issues:write"},
		"state": {"random_state"}, "code_challenge": {strings.Repeat("c", 43)}, "code_challenge_method": {"S256"},
	}
	for n := 0; n < len(change); n += 2 {
		q.Set(change[n], change[n+1])
	}
	return c.Velocity + "/oauth/consent?" + q.Encode()
}

// openSignedIn returns a tab that shows the consent page to a signed-in user.
func (c *consentStack) openSignedIn(t *testing.T, email, address string) *browser.Page {
	t.Helper()
	p := c.browser.Page(t)
	if status := p.Visit(address); status != http.StatusOK || !strings.Contains(p.URL(), "/login?") {
		t.Fatalf("without a sign-in the browser is at %s, %d", p.URL(), status)
	}
	signIn(p, email)
	if p.URL() != address+"&returned=1" {
		t.Fatalf("after the sign-in the browser is at %s", p.URL())
	}
	return p
}

// signIn signs the user in, on the demo's sign-in page.
func signIn(p *browser.Page, email string) {
	var name string
	p.Eval(`[...document.querySelectorAll("button")].findIndex(b => b.textContent === "Sign in as `+email+`") + 1 + ""`, &name)
	p.ClickAndLoad(`p:nth-of-type(` + name + `) > button`)
}

// appQuery returns the query that the app receives after the user has pressed a button.
func (c *consentStack) appQuery(t *testing.T, p *browser.Page, status int) url.Values {
	t.Helper()
	at, err := url.Parse(p.URL())
	if err != nil || status != http.StatusOK || !strings.HasPrefix(p.URL(), c.appServer.URL+"/callback?") {
		t.Fatalf("the user is at %s, %d: %s", p.URL(), status, p.Text("body"))
	}
	if q := at.Query(); q.Get("state") != "random_state" || q.Get("iss") != c.Velocity {
		t.Errorf("the app received %v", q)
	}
	return at.Query()
}

func (c *consentStack) grants(t *testing.T) int {
	t.Helper()
	return len(harness.Keywicket[[]registry.Grant](t, c.Stack, "grant", "list", "--app", c.app.ID))
}

// A user reads and uses the consent page in Chromium.
func TestConsentPageInChromium(t *testing.T) {
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
	c := &consentStack{Demo: startDemo(t), browser: chromium}
	c.appServer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "Back at the app.") }))
	t.Cleanup(c.appServer.Close)
	c.app = harness.Keywicket[harness.App](t, c.Stack, "oauth-app", "create", "--name", "Planner", "--redirect-uri", "http://127.0.0.1/callback")
	const ada = "ada@example.com"
	const allow, deny = "button.yes", `button[value="deny"]`
	box := func(n int) string { return fmt.Sprintf("fieldset li:nth-child(%d) input", n) }

	t.Run("approve", func(t *testing.T) {
		p := c.openSignedIn(t, ada, c.requestURL())
		for _, want := range []string{"Allow Planner to act for you?", ada, "Read issues and comments", "Target workspace", "http://127.0.0.1:"} {
			if text := p.Text("main"); !strings.Contains(text, want) {
				t.Errorf("%q is missing in %s", want, text)
			}
		}
		if status := p.ClickAndLoad(allow); status != http.StatusUnprocessableEntity || p.Text(`[role="alert"]`) != "Choose at least one workspace." {
			t.Errorf("without a workspace: %d %s", status, p.Text("main"))
		}
		p.Check(box(2))
		if q := c.appQuery(t, p, p.ClickAndLoad(allow)); q.Get("code") == "" || q.Get("error") != "" {
			t.Errorf("%v", q)
		}
	})
	t.Run("deny", func(t *testing.T) {
		before := c.grants(t)
		p := c.openSignedIn(t, ada, c.requestURL())
		p.Check(box(1))
		if q := c.appQuery(t, p, p.ClickAndLoad(deny)); q.Get("error") != "access_denied" || q.Has("code") {
			t.Errorf("%v", q)
		}
		if c.grants(t) != before {
			t.Error("a grant was created")
		}
	})
	// This is the usual case: a link or a redirect of an app's site opens the page. The browser then sends only cookies that are not
	// SameSite=Strict.
	t.Run("in two tabs, opened from another site", func(t *testing.T) {
		signedIn := c.openSignedIn(t, ada, c.requestURL())
		signedIn.SetCookie("keywicket_consent", "", c.Velocity) // as in a browser that has not shown the page yet
		open := func() *browser.Page {
			p := signedIn.Tab()
			p.Visit(c.servePage(t, "planner.localhost", `<!doctype html><title>x</title><a href="`+html.EscapeString(strings.Replace(c.requestURL(), "random_state", "random_state;", 1))+`">Log in</a>`))
			if status := p.ClickAndLoad("a"); status != http.StatusOK || !strings.Contains(p.Text("main"), "Allow Planner") {
				t.Fatalf("%d at %s: %s", status, p.URL(), p.Text("body"))
			}
			return p
		}
		for _, p := range []*browser.Page{open(), open(), open()} {
			p.Check(box(1))
			status := p.ClickAndLoad(allow)
			at, err := url.Parse(p.URL())
			if err != nil || status != http.StatusOK || at.Query().Get("code") == "" || at.Query().Get("state") != "random_state;" {
				t.Errorf("%d at %s: %s", status, p.URL(), p.Text("body"))
			}
		}
	})
	// If several tabs request the page at the same time, no request has the cookie, and each response sets another value. Removing the
	// cookie between the requests leads to the same state.
	t.Run("in two tabs that open at the same time", func(t *testing.T) {
		earlier := c.openSignedIn(t, ada, c.requestURL())
		earlier.SetCookie("keywicket_consent", "", c.Velocity)
		later := earlier.Tab()
		if status := later.Visit(c.requestURL()); status != http.StatusOK {
			t.Fatalf("%d at %s", status, later.URL())
		}
		before := c.grants(t)
		earlier.Check(box(1))
		if status := earlier.ClickAndLoad(allow); status != http.StatusOK || !strings.Contains(earlier.Text(`[role="alert"]`), "Check the page, and answer again.") {
			t.Fatalf("%d at %s: %s", status, earlier.URL(), earlier.Text("body"))
		}
		if c.grants(t) != before {
			t.Error("the outdated form has created a grant")
		}
		requireAccessible(t, earlier, "outdated")
		for _, p := range []*browser.Page{earlier, later} {
			p.Check(box(1))
			if q := c.appQuery(t, p, p.ClickAndLoad(allow)); q.Get("code") == "" {
				t.Errorf("%v", q)
			}
		}
	})
	t.Run("with only the keyboard", func(t *testing.T) {
		p := c.openSignedIn(t, ada, c.requestURL())
		p.Press("\t \t\t\t") // the first box, the second, Deny, Allow
		if p.Eval(`document.activeElement.value`, new(string)); p.Focused() != "button" {
			t.Errorf("the keyboard focus is at %s", p.Focused())
		}
		if q := c.appQuery(t, p, p.Enter()); q.Get("code") == "" {
			t.Errorf("%v", q)
		}
	})
	t.Run("an app with an invalid request", func(t *testing.T) {
		p := c.browser.Page(t)
		if status := p.Visit(c.requestURL("redirect_uri", c.appServer.URL+"/callback/../else")); status != http.StatusBadRequest || !strings.HasPrefix(p.URL(), c.Velocity) {
			t.Errorf("%d at %s", status, p.URL())
		}
		requireAccessible(t, p, "mistake")
	})
	// Chromium applies the page's Content-Security-Policy to every redirect that follows a form.
	t.Run("an app that redirects again", func(t *testing.T) {
		elsewhere := c.servePage(t, "elsewhere.localhost", "Somewhere else.")
		appServer := c.appServer
		defer func() { c.appServer = appServer }()
		c.appServer = httptest.NewServer(http.RedirectHandler(elsewhere, http.StatusFound))
		defer c.appServer.Close()
		p := c.openSignedIn(t, ada, c.requestURL())
		p.Check(box(1))
		if status := p.ClickAndLoad(allow); status != http.StatusOK || p.URL() != elsewhere {
			t.Errorf("the user is at %s, %d", p.URL(), status)
		}
	})
	t.Run("the session ends while the page is open", func(t *testing.T) {
		p := c.openSignedIn(t, ada, c.requestURL())
		p.SetCookie("sb-demo-auth-token", "over", c.Velocity)
		if status := p.ClickAndLoad(deny); status != http.StatusOK && status != http.StatusForbidden {
			t.Errorf("%d at %s", status, p.URL())
		}
		if text := p.Text("main"); !strings.Contains(text, "your account is not known here") {
			t.Errorf("the page shows %s", text)
		}
		p.ClickAndLoad("main a")
		p.ClickAndLoad("button")
		if text := p.Text("main"); !strings.Contains(text, "Allow Planner") {
			t.Errorf("after another sign-in the page shows %s", text)
		}
	})
	t.Run("in a frame of another page", func(t *testing.T) {
		p := c.openSignedIn(t, ada, c.requestURL())
		mistake := c.requestURL("client_id", "nobody")                                                        // leads to an error page, for which the issuer needs no session
		for host, framed := range map[string]string{"127.0.0.1": c.requestURL(), "evil.localhost": mistake} { // another origin of the same site, and another site
			p := p.Tab()
			p.Visit(c.servePage(t, host, `<!doctype html><title>x</title><iframe src="`+html.EscapeString(framed)+`"></iframe>`))
			if frames := p.Frames(); len(frames) != 1 || !frames[0].Refused || frames[0].URL != framed {
				t.Errorf("in a page of %s: %+v", host, frames)
			}
		}
	})
	t.Run("a form on another page", func(t *testing.T) {
		p := c.openSignedIn(t, ada, c.requestURL())
		before := c.grants(t)
		var user string
		p.Eval(`document.querySelector("[name=user]").value`, &user)
		var workspace string
		p.Eval(`document.querySelector("[name=workspace]").value`, &workspace)
		form := `<!doctype html><title>x</title><form method="post" action="` + html.EscapeString(c.requestURL()) + `">
			<input name="proof" value="guessed"><input name="user" value="` + user + `"><input name="workspace" value="` + workspace + `">
			<button name="decision" value="approve">Win</button></form>`
		// From another origin of the same site, the browser sends every cookie. From another site, the browser sends no cookie that
		// grants access.
		for host, want := range map[string]string{"127.0.0.1": "403 /oauth/consent", "evil.localhost": "200 /login"} {
			p := p.Tab()
			p.Visit(c.servePage(t, host, form))
			status := p.ClickAndLoad("button")
			at, err := url.Parse(p.URL())
			if err != nil || fmt.Sprint(status, " ", at.Path) != want {
				t.Errorf("from %s: %d at %s", host, status, p.URL())
			}
		}
		if c.grants(t) != before {
			t.Error("a grant was created")
		}
	})
	t.Run("accessible on every screen", func(t *testing.T) {
		grace := harness.Keywicket[registry.User](t, c.Stack, "user", "create", "--email", strings.Repeat("grace", 12)+"@"+strings.Repeat("a-long-name.", 10)+"example")
		c.SignIn.AddUser(grace.ID, grace.Email)
		for n := range 12 {
			w := harness.Keywicket[registry.Workspace](t, c.Stack, "workspace", "create", "--slug", fmt.Sprint(strings.Repeat("long-", 11), n), "--name", strings.Repeat("Workspace", 1+n))
			harness.Keywicket[registry.Member](t, c.Stack, "member", "set", "--workspace", w.ID, "--user", grace.ID, "--role", "guest")
		}
		c.app = harness.Keywicket[harness.App](t, c.Stack, "oauth-app", "create", "--name", strings.Repeat("Unbreakable", 9), "--redirect-uri", "http://127.0.0.1/callback")
		all := "issues:read issues:write projects:read projects:write documents:read documents:write workspace:read user:read user:write workspaces:list"
		for who, p := range map[string]*browser.Page{
			"ada": c.openSignedIn(t, ada, c.requestURL()), "grace": c.openSignedIn(t, grace.Email, c.requestURL("scope", all)),
		} {
			requireAccessible(t, p, "asked-"+who)
			if status := p.ClickAndLoad(allow); status != http.StatusUnprocessableEntity {
				t.Errorf("%s: %d", who, status)
			}
			requireAccessible(t, p, "missing-"+who)
		}
	})
}

// servePage serves an HTML page at a host name of this machine, and returns its address.
func (c *consentStack) servePage(t *testing.T, host, text string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", host, 1) + "/"
}

// requireAccessible requires that axe-core reports no problem and that the page fits the width of a small telephone. If the
// environment variable SCREENSHOTS contains a folder, requireAccessible writes pictures to this folder.
func requireAccessible(t *testing.T, p *browser.Page, name string) {
	t.Helper()
	for _, width := range []int{360, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			p.Size(width, 740).Scheme(scheme)
			for _, violation := range p.Axe() {
				t.Errorf("%s, %d pixels, %s: %s", name, width, scheme, violation)
			}
			if p.Overflows() {
				t.Errorf("%s, %d pixels: the page needs horizontal scrolling", name, width)
			}
			if dir := os.Getenv("SCREENSHOTS"); dir != "" {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)), p.Screenshot(), 0o600); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
