package pages_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/browser"
)

func startChromium(t *testing.T) *browser.Browser {
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
	return chromium
}

// A user uses the pages in Chromium. Each page is accessible, in light and dark, and fits a small telephone.
func TestPagesInChromium(t *testing.T) {
	chromium := startChromium(t)
	f := newFixture(t)
	f.showcase(t)
	p := chromium.Page(t)
	p.SetCookie(sessionCookie, f.sessionToken(f.Ada.ID, nil), f.velaflows.URL)
	if status := p.Visit(f.velaflows.URL + "/settings"); status != http.StatusOK || !strings.HasSuffix(p.URL(), tokensPath) {
		t.Fatalf("%d at %s: %s", status, p.URL(), p.Text("body"))
	}
	requireAccessible(t, p, "list")
	p.ClickAndLoad(".heading .button")
	requireAccessible(t, p, "create")
	p.Type("#name", "Dashboard")
	p.ClickAndLoad("main .primary")
	requireAccessible(t, p, "create-mistake")
	p.Check(`input[value="inbox:read"]`)
	p.ClickAndLoad("main .primary")
	requireAccessible(t, p, "created")
	p.Click("[data-copy]")
	p.Await(`document.querySelector("[data-copy]").textContent === "Copied"`)
	p.ClickAndLoad(".crumbs a")
	p.ClickAndLoad(`tbody tr:first-child .actions a:first-child`)
	requireAccessible(t, p, "rotate")
	p.ClickAndLoad("main .primary")
	requireAccessible(t, p, "rotated")
	p.ClickAndLoad(".crumbs a")
	p.ClickAndLoad(`tbody tr:first-child .actions a:last-child`)
	requireAccessible(t, p, "revoke")
	p.ClickAndLoad("main .solid")
	requireAccessible(t, p, "revoked")
	p.Visit(f.velaflows.URL + tokensPath + "?workspace=globex")
	requireAccessible(t, p, "no-rights")
	p.Visit(f.velaflows.URL + tokensPath + "?workspace=other")
	requireAccessible(t, p, "not-found")
	q := chromium.Page(t)
	q.SetCookie(sessionCookie, f.sessionToken(f.Bob.ID, nil), f.velocity.URL)
	q.Visit(f.velocity.URL + keysPath)
	requireAccessible(t, q, "no-workspace")
	q.Visit(f.velocity.URL + personalPath + "/new")
	requireAccessible(t, q, "create-personal")
}

// A double click, a reload and the back button create one token. The secret is visible after a double click, and after nothing else.
func TestSecondRequestsInChromium(t *testing.T) {
	chromium := startChromium(t)
	f := newFixture(t)
	p := chromium.Page(t)
	p.SetCookie(sessionCookie, f.sessionToken(f.Ada.ID, nil), f.velaflows.URL)
	p.Visit(f.velaflows.URL + tokensPath + "/new?preset=CRM+sync")
	p.Type("#name", "Twice")
	// The second click comes while the first request has no response. The server sends the response a second later.
	hold := func() {
		select {
		case <-t.Context().Done():
		case <-time.After(time.Second):
		}
	}
	f.hold.Store(&hold)
	var done bool
	p.Eval(`(b => { b.click(); setTimeout(() => b.click(), 200); return true })(document.querySelector("main .primary"))`, &done)
	p.Await(`document.querySelector("#secret")?.value.startsWith("sk_live_")`)
	f.hold.Store(nil)
	var secret string
	p.Eval(`document.querySelector("#secret").value`, &secret)
	if n := f.tokens(t); n != 1 {
		t.Errorf("the double click created %d tokens", n)
	}
	p.Eval(`(location.reload(), true)`, &done)
	p.Await(`document.querySelector("h1")?.textContent === "This token was already created"`)
	p.Eval(`(history.back(), true)`, &done)
	p.Await(`document.querySelector("h1")?.textContent === "Create a token"`)
	var text string
	p.Eval(`document.documentElement.outerHTML + [...document.querySelectorAll("input")].map(i => i.value).join(" ")`, &text)
	if n := f.tokens(t); n != 1 || strings.Contains(text, secret) {
		t.Errorf("%d tokens; the page after the back button shows %s", n, text)
	}
	p.Eval(`(history.forward(), true)`, &done)
	p.Await(`document.querySelector("#secret") === null`)
	if n := f.tokens(t); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

// Another site can neither show a page in a frame, nor send a form.
func TestOtherSitesInChromium(t *testing.T) {
	chromium := startChromium(t)
	f := newFixture(t)
	token := f.createBy(t, f.Ada, registry.NewToken{Name: "Victim", Scopes: []string{"inbox:read"}})
	target := f.velaflows.URL + tokensPath + "/" + token.ID + "/revoke"
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == "/frame" {
			fmt.Fprintf(w, `<!doctype html><title>x</title><iframe src="%s"></iframe>`, target)
			return
		}
		fmt.Fprintf(w, `<!doctype html><title>x</title><form method="post" action="%s"><input name="proof" value="guessed"><input name="user" value="%s"><button>Win</button></form>`, target, f.Ada.ID)
	}))
	t.Cleanup(site.Close)
	for _, host := range []string{"127.0.0.1", "evil.localhost"} { // another origin of the same site, and another site
		p := chromium.Page(t)
		p.SetCookie(sessionCookie, f.sessionToken(f.Ada.ID, nil), f.velaflows.URL)
		p.Visit(target) // sets the cookie with the proof
		p.Visit(strings.Replace(site.URL, "127.0.0.1", host, 1) + "/frame")
		if frames := p.Frames(); len(frames) != 1 || !frames[0].Refused {
			t.Errorf("in a page of %s: %+v", host, frames)
		}
		p.Visit(strings.Replace(site.URL, "127.0.0.1", host, 1) + "/form")
		if status := p.ClickAndLoad("button"); status != http.StatusForbidden {
			t.Errorf("from %s: %d at %s: %s", host, status, p.URL(), p.Text("body"))
		}
	}
	if token = storetest.Must(f.Token(t.Context(), token.ID)); token.Status != registry.Active {
		t.Errorf("the token is %s", token.Status)
	}
}

// The filter hides scopes that do not match, and keeps the chosen ones.
func TestFilterOfScopesInChromium(t *testing.T) {
	chromium := startChromium(t)
	f := newFixture(t)
	p := chromium.Page(t)
	p.SetCookie(sessionCookie, f.sessionToken(f.Ada.ID, nil), f.velaflows.URL)
	p.Visit(f.velaflows.URL + tokensPath + "/new")
	p.Check(`input[value="tags:read"]`)
	p.Type("#filter", "LEADS\r")
	p.Await(`[...document.querySelectorAll(".group")].filter(g => !g.hidden).map(g => g.getAttribute("aria-label")).join() === "crm,tags"`)
	if !strings.HasSuffix(p.URL(), "/new") || f.tokens(t) != 0 {
		t.Errorf("Enter in the filter sends the form: %s", p.URL())
	}
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
