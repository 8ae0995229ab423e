package pages_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/browser"
)

// A user uses the pages of apps, of authorized apps and of activity in Chromium. Each page is accessible, in light and dark, and fits a
// small telephone.
func TestAppPagesInChromium(t *testing.T) {
	chromium, err := browser.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chromium.Close(); err != nil {
			t.Error(err)
		}
	})
	f := newFixture(t)
	_, _, err = f.CreateApp(t.Context(), registry.NewApp{
		ID: "old", API: "velocity", Name: strings.Repeat("Unbreakable", 9), RedirectURIs: []string{"https://" + strings.Repeat("a-long-host.", 9) + "example/cb"}, Owner: f.Ada.ID,
	})
	if err != nil {
		t.Fatal(err)
	}
	storetest.Must(f.RevokeApp(t.Context(), "old"))
	p := chromium.Page(t)
	p.SetCookie(sessionCookie, f.sessionToken(f.Ada.ID, nil), f.velocity.URL)
	visit := func(path string) {
		t.Helper()
		if status := p.Visit(f.velocity.URL + path); status != http.StatusOK {
			t.Fatalf("%s: %d: %s", path, status, p.Text("body"))
		}
	}
	visit(grantsPath)
	requireAccessible(t, p, "grants-empty")
	visit(appsPath)
	requireAccessible(t, p, "apps")
	p.ClickAndLoad(".heading .button")
	requireAccessible(t, p, "app-register")
	p.Type("#name", "Planner")
	p.Type("#redirect-uris", "http://planner.example/cb")
	p.ClickAndLoad("main .primary")
	requireAccessible(t, p, "app-mistake")
	p.Eval(`document.querySelector("#redirect-uris").value = ""`, new(string))
	p.Type("#redirect-uris", "https://planner.example/cb")
	p.Check(`input[value="confidential"]`)
	p.ClickAndLoad("main .primary")
	requireAccessible(t, p, "app-registered")
	p.Click(`[data-copy="secret"]`)
	p.Await(`document.querySelector('[data-copy="secret"]').textContent === "Copied"`)
	p.ClickAndLoad("main .answers a")
	requireAccessible(t, p, "app")
	p.Click(`[data-copy="client-id"]`)
	p.Await(`document.querySelector('[data-copy="client-id"]').textContent === "Copied"`)
	f.approve(t, storetest.Value[string](t, f.DB, `SELECT id FROM keywicket.oauth_apps WHERE name = 'Planner'`))
	p.ClickAndLoad("main .answers a:first-child")
	requireAccessible(t, p, "app-rotate")
	p.ClickAndLoad("main .answers .primary")
	requireAccessible(t, p, "app-rotated")
	visit(grantsPath)
	requireAccessible(t, p, "grants")
	p.ClickAndLoad("tbody .actions a")
	requireAccessible(t, p, "grant-revoke")
	p.ClickAndLoad("main .solid")
	requireAccessible(t, p, "grant-revoked")
	visit(appsPath)
	p.ClickAndLoad("tbody tr:first-child .actions .danger")
	requireAccessible(t, p, "app-delete")
	p.ClickAndLoad("main .solid")
	requireAccessible(t, p, "app-deleted")
	visit(accountPath)
	p.Click("summary")
	requireAccessible(t, p, "activity-account")
	visit(activityPath)
	requireAccessible(t, p, "activity")
	p.Visit(f.velocity.URL + activityPath + "?action=x")
	requireAccessible(t, p, "activity-mistake")
	visit(activityPath + "?workspace=globex")
	requireAccessible(t, p, "activity-no-rights")
	visit(keysPath)
	p.ClickAndLoad(`a[href*="/leavers"]`)
	requireAccessible(t, p, "leavers")
}
