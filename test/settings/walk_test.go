package settings

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
)

// walk is a user who uses a page of the console.
type walk struct {
	*deployment
	t    *testing.T
	page *browser.Page
	hand hand
	look look
	name string // title of the page
	done done
}

// step begins a step. If the test fails, its output has the step and the sentences that the step tests.
func (w *walk) step(name string) {
	w.t.Helper()
	name = w.name + ": " + name
	w.done[name] = true
	w.t.Log(name)
	for _, d := range documented {
		if d.step == name {
			w.t.Logf("%s: %s", d.source, d.sentence)
		}
	}
}

// good requires that the page is accessible.
func (w *walk) good(name string) {
	w.t.Helper()
	requireGood(w.t, w.page, w.look, w.name+" "+name)
}

// follow activates the link or the button with this visible text, and requires that the next page has the status 200.
func (w *walk) follow(name string) {
	w.t.Helper()
	w.followIn("", name)
}

// followIn is like follow, in the first row of a list that contains a text.
func (w *walk) followIn(row, name string) {
	w.t.Helper()
	requireStatus(w.t, w.page, w.hand.follow(w.page, find(w.t, w.page, name, row, "")), http.StatusOK)
}

// navigate follows an entry of the navigation, such as Developer > API Tokens.
func (w *walk) navigate(title string) {
	w.t.Helper()
	group, entry, ok := strings.Cut(title, " > ")
	if !ok {
		group, entry = "", title
	}
	link := find(w.t, w.page, entry, "", group)
	var below bool
	w.page.Eval(fmt.Sprintf(`[...document.querySelectorAll("nav h2")].some(h => h.compareDocumentPosition(document.querySelector(%q)) & Node.DOCUMENT_POSITION_FOLLOWING)`, link), &below)
	if below != ok {
		w.t.Errorf("the entry %s is below a heading of the navigation: %t", title, below)
	}
	requireStatus(w.t, w.page, w.hand.follow(w.page, link), http.StatusOK)
	if got := w.page.Text("main h1"); got != entry {
		w.t.Fatalf("the page of %s has the heading %s", title, got)
	}
}

// signIn opens the pages, signs Ada in and chooses her own workspace.
func (w *walk) signIn(base string) {
	w.t.Helper()
	requireStatus(w.t, w.page, w.page.Visit(base+"/settings"), http.StatusOK)
	if !strings.Contains(w.page.URL(), "/login?") {
		w.t.Fatalf("without a sign-in, the browser is at %s", w.page.URL())
	}
	w.follow("Sign in as " + example.User)
	requireText(w.t, w.page, "header", "Settings", example.User)
	// The browser shows the list of a select element outside of the page, so each user chooses by a key here.
	w.page.Type("#workspace", "Your")
	w.follow("Switch")
	requireText(w.t, w.page, "main", "Your workspace")
}

// tokenPage is a page of tokens or keys.
type tokenPage struct {
	api, nav, noun string
	prefix         string
	visible        int // length of the visible prefix
	length         int // length of the whole token
	scope          string
	allowed        string // a request that the scope allows
	denied         string // a request that needs another scope
	workspace      string // value of the workspace header
	activity       string // title of the page with the activity
	presets        map[string][]string
	scopes         int // number of scopes that the form shows
}

// secret returns the secret that the page shows, after the user has copied it.
func (w *walk) secret(g tokenPage) string {
	w.t.Helper()
	w.step("copy")
	requireText(w.t, w.page, "main", "it will only be shown once")
	var secret string
	w.page.Eval(`document.querySelector("#secret").value`, &secret)
	if !strings.HasPrefix(secret, g.prefix) || len(secret) != g.length {
		w.t.Fatalf("the secret begins with %.6s and has %d characters", secret, len(secret))
	}
	if w.look.noScript {
		return secret // the user copies the text of the field
	}
	w.hand.press(w.page, find(w.t, w.page, "Copy", "", ""))
	w.page.Await(`document.querySelector("#copied").textContent === "Copied"`)
	if got := w.page.Clipboard(); got != secret {
		w.t.Errorf("the clipboard does not contain the secret, but %d characters", len(got))
	}
	return secret
}

// request sends a request through Envoy, and requires the outcome.
func (w *walk) request(g tokenPage, line, secret, outcome string) {
	w.t.Helper()
	got := w.client.Send(w.t, harness.NewRequest(g.api, line, secret, g.workspace))
	if got.Outcome != outcome {
		w.t.Errorf("%s with %.12s: %s, not %s", line, secret, got.Outcome, outcome)
	}
}

// ends requires that the secret ends within the staleness bound: a request that begins later is denied.
func (w *walk) ends(g tokenPage, secret string) {
	w.t.Helper()
	ended := time.Now() // the change is older than the page that reports it
	harness.Await(w.t, "the secret ends", func() bool {
		begun := time.Now()
		got := w.client.Send(w.t, harness.NewRequest(g.api, g.allowed, secret, g.workspace))
		switch {
		case got.Status == http.StatusUnauthorized:
			return true
		case begun.Sub(ended) > harness.Staleness:
			w.t.Fatalf("%v after the end of %.12s, a request gets %s", begun.Sub(ended), secret, got.Outcome)
		}
		return false
	})
}

// tokens uses a page of tokens: create, copy, use, find, rotate, revoke.
func (w *walk) tokens(g tokenPage) {
	w.t.Helper()
	p, base := w.page, w.URLs[g.api]
	name := "Zapier Integration " + rand.Text()[:8]
	w.step("sign in")
	w.signIn(base)

	if g.api == "velaflows" {
		w.step("workspace")
		w.showsWorkspace()
	}

	w.step("navigate")
	w.navigate(g.nav)
	w.good("list")

	w.step("open the form")
	w.follow("Create " + g.noun)
	w.good("form")
	w.step("descriptions of scopes")
	w.describesScopes(g)
	w.step("full access")
	requireText(w.t, p, ".override", "Use it sparingly.")
	if g.api == "velaflows" {
		w.step("environments")
		requireText(w.t, p, `fieldset:has([name="prefix"])`, "Production sk_live_", "Sandbox sk_test_")
	}
	w.step("presets")
	for preset, scopes := range g.presets {
		w.follow(preset)
		var checked []string
		if p.Eval(`[...document.querySelectorAll("[name=scope]:checked")].map(e => e.value).sort()`, &checked); !slices.Equal(checked, slices.Sorted(slices.Values(scopes))) {
			w.t.Errorf("the preset %s has the scopes %v, not %v", preset, checked, scopes)
		}
	}
	w.navigate(g.nav)
	w.follow("Create " + g.noun)
	w.step("name")
	requireText(w.t, p, "#name-hint", "descriptive name")
	w.hand.write(p, "#name", name)
	w.step("scopes")
	w.hand.check(p, `input[value="`+g.scope+`"]`)
	w.step("expiration")
	w.hand.check(p, `input[name="expiry"][value="date"]`)
	expires := time.Now().UTC().AddDate(0, 0, 60)
	w.hand.write(p, "#date", expires.Format("01022006"))
	w.step("create")
	w.follow("Create")
	first := w.secret(g)
	w.good("created")
	requireText(w.t, p, ".facts", g.scope, expires.AddDate(0, 0, 1).Format("2 Jan 2006, 00:00 UTC"))

	w.step("visible prefix")
	requireText(w.t, p, ".facts", first[:g.visible]+"…")

	w.step("use at once")
	w.request(g, g.allowed, first, "allow")
	w.request(g, g.denied, first, "FORBIDDEN missing_scope")

	w.step("shown once")
	w.follow("Back to " + w.name)
	w.hides(first[g.visible:])

	w.step("use and chart")
	both := w.seesUse(first[:g.visible])
	w.good("used")

	w.step("find")
	for _, text := range []string{name, first[:g.visible]} {
		w.navigate(g.nav)
		w.hand.write(p, "#q", text)
		w.follow("Search")
		var rows []string
		p.Eval(`[...document.querySelectorAll("tbody tr")].map(r => r.textContent)`, &rows)
		if len(rows) != 1 || !strings.Contains(rows[0], name) || !strings.Contains(rows[0], first[:g.visible]+"…") {
			w.t.Errorf("the search for %s finds %q", text, rows)
		}
	}
	w.good("found")

	w.step("rotate")
	w.followIn(first[:g.visible], "Rotate")
	requireText(w.t, p, "main", name, first[:g.visible])
	w.good("rotate")
	w.hand.check(p, `input[name="overlap"][value="1h"]`)
	w.follow("Rotate the " + strings.ToLower(g.noun))
	second := w.secret(g)
	requireText(w.t, p, "main", "works until", first[:g.visible])
	w.good("rotated")
	for _, secret := range []string{first, second} {
		w.request(g, g.allowed, secret, "allow")
	}
	w.request(g, g.denied, second, "FORBIDDEN missing_scope")
	w.follow("Back to " + w.name)
	// The sidecar writes the counts of a token at its first use and then every ten minutes. If it has done so between the two requests
	// with the first secret, the chart shows only the first request.
	if !both && !w.seesUse(second[:g.visible]) {
		w.t.Error("no chart shows a denied request")
	}
	w.followIn(second[:g.visible], "Rotate")
	w.hand.check(p, `input[name="overlap"][value="0s"]`)
	w.follow("Rotate the " + strings.ToLower(g.noun))
	w.ends(g, second)
	third := w.secret(g)
	requireText(w.t, p, "main", "no longer works", second[:g.visible])
	for _, secret := range []string{first, third} {
		w.request(g, g.allowed, secret, "allow")
	}

	w.step("revoke")
	w.follow("Back to " + w.name)
	w.followIn(third[:g.visible], "Revoke")
	w.step("confirm")
	requireText(w.t, p, "h1", "Revoke "+name+"?")
	requireText(w.t, p, "main", third[:g.visible], "cannot be undone")
	w.good("revoke")
	w.follow("Cancel")
	w.request(g, g.allowed, third, "allow")
	w.followIn(third[:g.visible], "Revoke")
	w.follow("Revoke the " + strings.ToLower(g.noun))
	w.step("revoked")
	w.ends(g, third)
	requireText(w.t, p, `[role="status"]`, name, third[:g.visible], "is revoked")
	w.good("revoked")

	w.step("activity")
	w.navigate(g.activity)
	thing := strings.ToLower(g.noun) + " " + name
	requireText(w.t, p, "tbody",
		fmt.Sprintf("%s created the %s (%s…)", example.User, thing, first[:g.visible]),
		fmt.Sprintf("%s revoked the %s (%s…)", example.User, thing, third[:g.visible]), fmt.Sprintf("%s set the %s (%s…) to expire at", example.User, thing, second[:g.visible]))
	w.good("activity")
}
