// Package settings walks through the console's pages in Chromium, behind Envoy, as a user does. Each sentence of the API documents
// about these pages is a step of a test (see documented).
package settings

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
)

// deployment is the demo, and a browser.
type deployment struct {
	*demo.Demo
	browser   *browser.Browser
	client    *harness.Client
	workspace registry.Workspace // Ada owns it
}

func start(t *testing.T) *deployment {
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
	d := &deployment{Demo: harness.StartDemo(t, demo.Config{Environ: []string{
		harness.ShortStaleness, harness.LongLookupTimeout, "KEYWICKET_CONSOLE_ADDRESS_LIMIT=0",
	}}), browser: chromium}
	d.client = harness.NewClient(t, d.Stack, 2)
	for _, w := range harness.Keywicket[[]registry.Workspace](t, d.Stack, "workspace", "list") {
		if w.Slug == example.YourSlug {
			d.workspace = w
		}
	}
	return d
}

// look is how a page is shown.
type look struct {
	width    int
	scheme   string // light or dark
	noScript bool
}

func (l look) String() string {
	if l.noScript {
		return fmt.Sprintf("%d-%s-noscript", l.width, l.scheme)
	}
	return fmt.Sprintf("%d-%s", l.width, l.scheme)
}

// looks are all looks with scripts.
var looks = []look{{width: 360, scheme: "light"}, {width: 360, scheme: "dark"}, {width: 1280, scheme: "light"}, {width: 1280, scheme: "dark"}}

// open opens a tab in which nobody is signed in.
func (d *deployment) open(t *testing.T, l look) *browser.Page {
	t.Helper()
	p := d.browser.Page(t).Size(l.width, 800).Scheme(l.scheme)
	if l.noScript {
		p.NoScript()
	}
	return p
}

// requireGood requires that axe-core reports no problem and that the page fits its width. If the environment variable SCREENSHOTS
// contains a folder, requireGood writes a picture to this folder.
func requireGood(t *testing.T, p *browser.Page, l look, name string) {
	t.Helper()
	if !l.noScript { // axe-core needs scripts
		for _, violation := range p.Axe() {
			t.Errorf("%s, %s: %s", name, l, violation)
		}
	}
	if p.Overflows() {
		t.Errorf("%s, %s: the page needs horizontal scrolling", name, l)
	}
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		name = strings.ReplaceAll(strings.ToLower(name), " ", "-")
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s.png", name, l)), p.Screenshot(), 0o600); err != nil {
			t.Error(err)
		}
	}
}

// requireGoodEverywhere is like requireGood, in all looks.
func requireGoodEverywhere(t *testing.T, p *browser.Page, name string) {
	t.Helper()
	for _, l := range looks {
		p.Size(l.width, 800).Scheme(l.scheme)
		requireGood(t, p, l, name)
	}
}

// requireStatus requires the status of a page.
func requireStatus(t *testing.T, p *browser.Page, got, want int) {
	t.Helper()
	if got != want {
		t.Fatalf("%d %s, not %d, at %s: %s", got, http.StatusText(got), want, p.URL(), p.Text("body"))
	}
}

// requireText requires that the element contains the texts.
func requireText(t *testing.T, p *browser.Page, selector string, wants ...string) {
	t.Helper()
	text := p.Text(selector)
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("at %s, %q is missing in %s", p.URL(), want, text)
		}
	}
}
