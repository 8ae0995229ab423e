package escalation

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
)

// visitors is a world and a browser.
type visitors struct {
	*world
	chromium *browser.Browser
}

func startBrowser(t *testing.T) visitors {
	t.Helper()
	chromium, err := browser.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chromium.Close(); err != nil {
			t.Error(err)
		}
	})
	return visitors{start(t), chromium}
}

// The page on which users create a key of Velocity.
const newKey = "/settings/api-keys/new?workspace="

// open opens a page of Velocity in a new tab, and signs in.
func (v visitors) open(t *testing.T, user, path string) *browser.Page {
	t.Helper()
	p := v.chromium.Page(t)
	p.Visit(v.Velocity + path)
	v.signInAs(t, p, user)
	if status := p.Visit(v.Velocity + path); status != http.StatusOK {
		t.Fatalf("%s opens %s: %d %s", user, path, status, p.Text("body"))
	}
	return p
}

// signInAs chooses an account at the sign-in page.
func (v visitors) signInAs(t *testing.T, p *browser.Page, user string) {
	t.Helper()
	if !strings.Contains(p.URL(), "/login") {
		t.Fatalf("the browser is at %s, not at the sign-in page", p.URL())
	}
	p.ClickAndLoad(`button[value="` + v.users[user].ID + `"]`)
}

// fill fills in the form of a new key.
func fill(p *browser.Page, name string) {
	p.Type("#name", name)
	p.Check(`input[value="issues:read"]`)
}

// count returns the number of rows.
func (v visitors) count(t *testing.T, rows string) int {
	t.Helper()
	return storetest.Value[int](t, v.db, `SELECT count(*) FROM keywicket.`+rows)
}

func (v visitors) requireCount(t *testing.T, want int, rows string) {
	t.Helper()
	if got := v.count(t, rows); got != want {
		t.Errorf("%s: %d, not %d", rows, got, want)
	}
}

const submit = "main .primary"

// If the session ends while a user fills in the form, nothing is created. The user signs in and comes back to the form. A user who signs in
// in another tab sends the same form again.
func TestSessionEndsInMidForm(t *testing.T) {
	v := startBrowser(t)
	p := v.open(t, "olga", newKey+"acme")
	fill(p, "Interrupted")
	p.SetCookie("sb-demo-auth-token", v.session("olga", -time.Hour), v.Velocity)
	if status, text := p.ClickAndLoad(submit), p.Text("main"); status != http.StatusForbidden || !strings.Contains(text, "nothing was changed") {
		t.Errorf("after the session: %d %s", status, text)
	}
	v.requireCount(t, 0, `tokens WHERE name = 'Interrupted'`)

	other := p.Tab()
	other.Visit(v.Velocity + newKey + "acme")
	v.signInAs(t, other, "olga")
	if status := p.Reload(); status != http.StatusOK || !strings.HasPrefix(v.secretOn(p), "vel_") {
		t.Errorf("the form after the user has signed in in another tab: %d %s", status, p.Text("main"))
	}
	v.requireCount(t, 1, `tokens WHERE name = 'Interrupted' AND scopes = '{issues:read}'`)

	other.SetCookie("sb-demo-auth-token", "over", v.Velocity)
	fill(other, "Interrupted too")
	other.ClickAndLoad(submit)
	other.ClickAndLoad(submit) // the link to the sign-in page
	v.signInAs(t, other, "olga")
	if url := other.URL(); !strings.HasPrefix(url, v.Velocity+newKey+"acme") && !strings.HasPrefix(url, v.Velocity+"/settings/api-keys/new?returned=1&workspace=acme") {
		t.Errorf("after the user has signed in, they are at %s", url)
	}
	fill(other, "At last")
	other.ClickAndLoad(submit)
	v.requireCount(t, 1, `tokens WHERE name = 'At last'`)
	v.requireCount(t, 0, `tokens WHERE name = 'Interrupted too'`)
}

// secretOn returns the secret on the page; empty if there is none.
func (v visitors) secretOn(p *browser.Page) (secret string) {
	p.Eval(`document.getElementById("secret")?.value ?? ""`, &secret)
	return secret
}

// A double click creates one key and shows its secret. A double click revokes once.
func TestDoubleClick(t *testing.T) {
	v := startBrowser(t)
	p := v.open(t, "olga", newKey+"acme")
	fill(p, "Twice")
	p.DoubleClick(submit)
	p.Await(`document.getElementById("secret")`)
	if secret := v.secretOn(p); !strings.HasPrefix(secret, "vel_") {
		t.Errorf("the secret is %q: %s", secret, p.Text("main"))
	}
	v.requireCount(t, 1, `tokens WHERE name = 'Twice'`)

	p.ClickAndLoad(".crumbs a")
	p.ClickAndLoad(`tbody tr:first-child .actions a:last-child`)
	p.DoubleClick("main .solid")
	p.Await(`location.search.includes("revoked=")`)
	if text := p.Text("main"); !strings.Contains(text, "revoked") {
		t.Errorf("after the revocation: %s", text)
	}
	v.requireCount(t, 1, `tokens WHERE name = 'Twice' AND revoked_at IS NOT NULL`)
	v.requireCount(t, 2, `audit_log WHERE object_id = (SELECT id FROM keywicket.tokens WHERE name = 'Twice')`)

	app := v.open(t, "olga", "/settings/oauth-apps/new")
	app.Type("#name", "Twice")
	app.Type("#redirect-uris", "https://twice.example/cb")
	app.DoubleClick(submit)
	app.Await(`!location.pathname.endsWith("/new") || document.getElementById("secret")`)
	v.requireCount(t, 1, `oauth_apps WHERE name = 'Twice'`)
}

// Each tab acts in its own workspace, in whatever order their forms are opened and sent.
func TestTwoTabs(t *testing.T) {
	v := startBrowser(t)
	storetest.Must(v.Registry.SetMember(t.Context(), "globex", v.users["olga"].ID, "admin"))
	acme := v.open(t, "olga", newKey+"acme")
	globex := acme.Tab()
	globex.Visit(v.Velocity + newKey + "globex")
	fill(acme, "Of acme")
	fill(globex, "Of globex")
	acme.ClickAndLoad(submit)
	globex.ClickAndLoad(submit)
	for name, p := range map[string]*browser.Page{"acme": acme, "globex": globex} {
		if !strings.HasPrefix(v.secretOn(p), "vel_") {
			t.Errorf("%s: %s", name, p.Text("main"))
		}
		v.requireCount(t, 1, `tokens WHERE name = 'Of `+name+`' AND workspace_id = '`+v.workspaces[name].ID+`'`)
	}
	// The rights are those of the time when the form is sent.
	globex.Visit(v.Velocity + newKey + "globex")
	fill(globex, "Too late")
	storetest.Must(v.Registry.SetMember(t.Context(), "globex", v.users["olga"].ID, "guest"))
	if status := globex.ClickAndLoad(submit); status != http.StatusForbidden {
		t.Errorf("as a guest: %d %s", status, globex.Text("main"))
	}
	acme.Visit(v.Velocity + newKey + "globex")
	if err := v.Registry.RemoveMember(t.Context(), "globex", v.users["olga"].ID); err != nil {
		t.Fatal(err)
	}
	if status := acme.Reload(); status != http.StatusNotFound {
		t.Errorf("after the user has left: %d %s", status, acme.Text("main"))
	}
	v.requireCount(t, 2, `tokens`)
}

// After a creation, the user reloads, goes back and goes forward. Nothing is created twice, and no page shows the secret again.
func TestHistoryAfterCreation(t *testing.T) {
	v := startBrowser(t)
	for path, prepare := range map[string]func(*browser.Page){
		newKey + "acme": func(p *browser.Page) { fill(p, "Once") },
		"/settings/account/personal-api-keys/new": func(p *browser.Page) {
			p.Type("#name", "Once, personal")
			p.Check(`input[value="user:read"]`)
		},
	} {
		p := v.open(t, "olga", path)
		prepare(p)
		p.ClickAndLoad(submit)
		secret := v.secretOn(p)
		if secret == "" {
			t.Fatalf("%s: there is no secret: %s", path, p.Text("main"))
		}
		requireGone := func(what string) {
			t.Helper()
			var html string
			p.Eval(`document.documentElement.outerHTML + location.href + document.referrer + JSON.stringify(history.state) +
				(location.protocol === "http:" ? JSON.stringify({...localStorage, ...sessionStorage}) : "") +
				[...document.querySelectorAll("input")].map(i => i.value).join()`, &html) // the browser's error page has no storage
			if strings.Contains(html, secret) {
				t.Errorf("%s: %s, the page at %s shows the secret", path, what, p.URL())
			}
		}
		before := v.count(t, `tokens`)
		if status := p.Reload(); status != http.StatusOK || !strings.Contains(p.Text("main"), "already created") {
			t.Errorf("%s: after the reload: %d %s", path, status, p.Text("main"))
		}
		requireGone("after a reload")
		p.Back()
		requireGone("after going back")
		travel(p, "forward")
		requireGone("after going back and forward")
		v.requireCount(t, before, `tokens`)

		// Without a reload, the browser keeps no copy of the page with the secret.
		prepare(open(t, v, p, path))
		p.ClickAndLoad(submit)
		secret = v.secretOn(p)
		before = v.count(t, `tokens`)
		p.ClickAndLoad(".crumbs a")
		requireGone("after a link")
		travel(p, "back")
		requireGone("after a link and going back")
		v.requireCount(t, before, `tokens`)
	}
}

// travel goes through the history of the tab. The next page may be an error of the browser, which sends no form by itself.
func travel(p *browser.Page, direction string) {
	p.Eval(`(window.here = true, setTimeout(() => history.`+direction+`()), true)`, new(bool))
	p.Await(`!window.here && document.readyState === "complete"`)
}

func open(t *testing.T, v visitors, p *browser.Page, path string) *browser.Page {
	t.Helper()
	if status := p.Visit(v.Velocity + path); status != http.StatusOK {
		t.Fatalf("%s: %d", path, status)
	}
	return p
}

// Another user signs in in a second tab. The form of the first user creates nothing, and shows nothing of what the first user has written.
func TestAnotherUserSignsIn(t *testing.T) {
	v := startBrowser(t)
	p := v.open(t, "olga", newKey+"acme")
	fill(p, "Of olga")
	other := p.Tab()
	other.SetCookie("sb-demo-auth-token", "over", v.Velocity)
	other.Visit(v.Velocity + newKey + "acme")
	v.signInAs(t, other, "adam")
	if status, text := p.ClickAndLoad(submit), p.Text("body"); status != http.StatusConflict || !strings.Contains(text, "adam@example.com") {
		t.Errorf("%d %s", status, text)
	}
	var name string
	if p.Eval(`document.getElementById("name").value`, &name); name != "" {
		t.Errorf("adam sees the name %q", name)
	}
	v.requireCount(t, 0, `tokens`)
	fill(p, "Of adam")
	if status := p.ClickAndLoad(submit); status != http.StatusOK || v.secretOn(p) == "" {
		t.Errorf("adam creates a key: %d %s", status, p.Text("main"))
	}
	v.requireCount(t, 1, `tokens WHERE created_by = '`+v.users["adam"].ID+`'`)
	harness.Await(t, "the key works", func() bool {
		return send(t, "GET", v.Velocity+"/api/issues", "", v.credentials(caller{secret: v.secretOn(p)}, "velocity", "acme")...).status == http.StatusOK
	})
}
