package pages_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/browser"
)

// A user uses the pages in Chromium. Each page is accessible, in light and dark, and fits a small telephone.
func TestPagesInChromium(t *testing.T) {
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
