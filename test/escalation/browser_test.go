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

// startBrowser starts Chromium, unless an earlier test has started it.
func startBrowser(t *testing.T) *world {
	t.Helper()
	if shared.chromium == nil {
		chromium, err := browser.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		shared.chromium = chromium
	}
	return shared
}

// The page on which users create a key of Velocity.
const newKey = "/settings/api-keys/new?workspace="

// open opens a page of Velocity in a new tab, and signs in as the owner.
func (w *world) open(t *testing.T, path string) *browser.Page {
	t.Helper()
	p := w.chromium.Page(t)
	p.Visit(w.Velocity + path)
	w.signInAs(t, p, "olga")
	if status := p.Visit(w.Velocity + path); status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, status, p.Text("body"))
	}
	return p
}

// signInAs chooses an account at the sign-in page.
func (w *world) signInAs(t *testing.T, p *browser.Page, user string) {
	t.Helper()
	if !strings.Contains(p.URL(), "/login") {
		t.Fatalf("the browser is at %s, not at the sign-in page", p.URL())
	}
	p.ClickAndLoad(`button[value="` + w.users[user].ID + `"]`)
}

// fill fills in the form of a new key.
func fill(p *browser.Page, name string) {
	p.Type("#name", name)
	p.Check(`input[value="issues:read"]`)
}

// count returns the number of rows.
func (w *world) count(t *testing.T, rows string) int {
	t.Helper()
	return storetest.Value[int](t, w.db, `SELECT count(*) FROM keywicket.`+rows)
}

func (w *world) requireCount(t *testing.T, want int, rows string) {
	t.Helper()
	if got := w.count(t, rows); got != want {
		t.Errorf("%s: %d, not %d", rows, got, want)
	}
}

const submit = "main .primary"

// If the session ends while a user fills in the form, nothing is created. The user signs in and comes back to the form. A user who signs in
// in another tab sends the same form again.
func TestSessionEndsInMidForm(t *testing.T) {
	w := startBrowser(t)
	p := w.open(t, newKey+"acme")
	fill(p, "Interrupted")
	p.SetCookie("sb-demo-auth-token", w.session("olga", -time.Hour), w.Velocity)
	if status, text := p.ClickAndLoad(submit), p.Text("main"); status != http.StatusForbidden || !strings.Contains(text, "nothing was changed") {
		t.Errorf("after the session: %d %s", status, text)
	}
	w.requireCount(t, 0, `tokens WHERE name = 'Interrupted'`)

	other := p.Tab()
	other.Visit(w.Velocity + newKey + "acme")
	w.signInAs(t, other, "olga")
	if status := p.Reload(); status != http.StatusOK || !strings.HasPrefix(w.secretOn(p), "vel_") {
		t.Errorf("the form after the user has signed in in another tab: %d %s", status, p.Text("main"))
	}
	w.requireCount(t, 1, `tokens WHERE name = 'Interrupted' AND scopes = '{issues:read}'`)

	other.SetCookie("sb-demo-auth-token", "over", w.Velocity)
	fill(other, "Interrupted too")
	other.ClickAndLoad(submit)
	other.ClickAndLoad(submit) // the link to the sign-in page
	w.signInAs(t, other, "olga")
	if url := other.URL(); !strings.HasPrefix(url, w.Velocity+newKey+"acme") && !strings.HasPrefix(url, w.Velocity+"/settings/api-keys/new?returned=1&workspace=acme") {
		t.Errorf("after the user has signed in, they are at %s", url)
	}
	fill(other, "At last")
	other.ClickAndLoad(submit)
	w.requireCount(t, 1, `tokens WHERE name = 'At last'`)
	w.requireCount(t, 0, `tokens WHERE name = 'Interrupted too'`)
}

// secretOn returns the secret on the page; empty if there is none.
func (w *world) secretOn(p *browser.Page) (secret string) {
	p.Eval(`document.getElementById("secret")?.value ?? ""`, &secret)
	return secret
}

// A double click creates one key and shows its secret. A double click revokes once.
func TestDoubleClick(t *testing.T) {
	w := startBrowser(t)
	p := w.open(t, newKey+"acme")
	fill(p, "Twice")
	p.DoubleClick(submit)
	p.Await(`document.getElementById("secret")`)
	if secret := w.secretOn(p); !strings.HasPrefix(secret, "vel_") {
		t.Errorf("the secret is %q: %s", secret, p.Text("main"))
	}
	w.requireCount(t, 1, `tokens WHERE name = 'Twice'`)

	p.ClickAndLoad(".crumbs a")
	p.ClickAndLoad(`tbody tr:first-child .actions a:last-child`)
	p.DoubleClick("main .solid")
	p.Await(`location.search.includes("revoked=")`)
	if text := p.Text("main"); !strings.Contains(text, "revoked") {
		t.Errorf("after the revocation: %s", text)
	}
	w.requireCount(t, 1, `tokens WHERE name = 'Twice' AND revoked_at IS NOT NULL`)
	w.requireCount(t, 2, `audit_log WHERE object_id = (SELECT id FROM keywicket.tokens WHERE name = 'Twice')`)

	app := w.open(t, "/settings/oauth-apps/new")
	app.Type("#name", "Twice")
	app.Type("#redirect-uris", "https://twice.example/cb")
	app.DoubleClick(submit)
	app.Await(`!location.pathname.endsWith("/new") || document.getElementById("secret")`)
	w.requireCount(t, 1, `oauth_apps WHERE name = 'Twice'`)
}

// Each tab acts in its own workspace, in whatever order their forms are opened and sent.
func TestTwoTabs(t *testing.T) {
	w := startBrowser(t)
	storetest.Must(w.Registry.SetMember(t.Context(), "globex", w.users["olga"].ID, "admin"))
	acme := w.open(t, newKey+"acme")
	globex := acme.Tab()
	globex.Visit(w.Velocity + newKey + "globex")
	fill(acme, "Of acme")
	fill(globex, "Of globex")
	acme.ClickAndLoad(submit)
	globex.ClickAndLoad(submit)
	for name, p := range map[string]*browser.Page{"acme": acme, "globex": globex} {
		if !strings.HasPrefix(w.secretOn(p), "vel_") {
			t.Errorf("%s: %s", name, p.Text("main"))
		}
		w.requireCount(t, 1, `tokens WHERE name = 'Of `+name+`' AND workspace_id = '`+w.workspaces[name].ID+`'`)
	}
	// The rights are those of the time when the form is sent.
	globex.Visit(w.Velocity + newKey + "globex")
	fill(globex, "Too late")
	storetest.Must(w.Registry.SetMember(t.Context(), "globex", w.users["olga"].ID, "guest"))
	if status := globex.ClickAndLoad(submit); status != http.StatusForbidden {
		t.Errorf("as a guest: %d %s", status, globex.Text("main"))
	}
	acme.Visit(w.Velocity + newKey + "globex")
	if err := w.Registry.RemoveMember(t.Context(), "globex", w.users["olga"].ID); err != nil {
		t.Fatal(err)
	}
	if status := acme.Reload(); status != http.StatusNotFound {
		t.Errorf("after the user has left: %d %s", status, acme.Text("main"))
	}
	w.requireCount(t, 0, `tokens WHERE name = 'Too late'`)
}

// After a creation, the user reloads, goes back and goes forward. Nothing is created twice, and no page shows the secret again.
func TestHistoryAfterCreation(t *testing.T) {
	w := startBrowser(t)
	for path, prepare := range map[string]func(*browser.Page){
		newKey + "acme": func(p *browser.Page) { fill(p, "Once") },
		"/settings/account/personal-api-keys/new": func(p *browser.Page) {
			p.Type("#name", "Once, personal")
			p.Check(`input[value="user:read"]`)
		},
	} {
		p := w.open(t, path)
		prepare(p)
		p.ClickAndLoad(submit)
		secret := w.secretOn(p)
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
		before := w.count(t, `tokens`)
		if status := p.Reload(); status != http.StatusOK || !strings.Contains(p.Text("main"), "already created") {
			t.Errorf("%s: after the reload: %d %s", path, status, p.Text("main"))
		}
		requireGone("after a reload")
		p.Back()
		requireGone("after going back")
		travel(p, "forward")
		requireGone("after going back and forward")
		w.requireCount(t, before, `tokens`)

		// Without a reload, the browser keeps no copy of the page with the secret.
		prepare(open(t, w, p, path))
		p.ClickAndLoad(submit)
		secret = w.secretOn(p)
		before = w.count(t, `tokens`)
		p.ClickAndLoad(".crumbs a")
		requireGone("after a link")
		travel(p, "back")
		requireGone("after a link and going back")
		w.requireCount(t, before, `tokens`)
	}
}

// travel goes through the history of the tab. The next page may be an error of the browser, which sends no form by itself.
func travel(p *browser.Page, direction string) {
	p.Eval(`(window.here = true, setTimeout(() => history.`+direction+`()), true)`, new(bool))
	p.Await(`!window.here && document.readyState === "complete"`)
}

func open(t *testing.T, w *world, p *browser.Page, path string) *browser.Page {
	t.Helper()
	if status := p.Visit(w.Velocity + path); status != http.StatusOK {
		t.Fatalf("%s: %d", path, status)
	}
	return p
}

// Another user signs in in a second tab. The form of the first user creates nothing, and shows nothing of what the first user has written.
func TestAnotherUserSignsIn(t *testing.T) {
	w := startBrowser(t)
	p := w.open(t, newKey+"acme")
	fill(p, "Of olga")
	other := p.Tab()
	other.SetCookie("sb-demo-auth-token", "over", w.Velocity)
	other.Visit(w.Velocity + newKey + "acme")
	w.signInAs(t, other, "adam")
	if status, text := p.ClickAndLoad(submit), p.Text("body"); status != http.StatusConflict || !strings.Contains(text, "adam@example.com") {
		t.Errorf("%d %s", status, text)
	}
	var name string
	if p.Eval(`document.getElementById("name").value`, &name); name != "" {
		t.Errorf("adam sees the name %q", name)
	}
	w.requireCount(t, 0, `tokens WHERE name = 'Of olga'`)
	fill(p, "Of adam")
	if status := p.ClickAndLoad(submit); status != http.StatusOK || w.secretOn(p) == "" {
		t.Errorf("adam creates a key: %d %s", status, p.Text("main"))
	}
	w.requireCount(t, 1, `tokens WHERE name = 'Of adam' AND created_by = '`+w.users["adam"].ID+`'`)
	harness.Await(t, "the key works", func() bool {
		return send(t, "GET", w.Velocity+"/api/issues", "", w.credentials(caller{secret: w.secretOn(p)}, "velocity", "acme")...).status == http.StatusOK
	})
}
