// Package console tests the console's pages through Envoy, in a browser.
package console

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
)

// deployment is the demo, with a browser in which the demo's user Ada is signed in.
type deployment struct {
	*demo.Demo
	browser *browser.Browser
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
	return &deployment{harness.StartDemo(t, demo.Config{Environ: []string{harness.ShortStaleness}}), chromium}
}

// open opens a page of the console in Ada's workspace. The user signs in first.
func (d *deployment) open(t *testing.T, address string) *browser.Page {
	t.Helper()
	p := d.browser.Page(t)
	if status := p.Visit(address + "?workspace=" + example.YourSlug); status != http.StatusOK || !strings.Contains(p.URL(), "/login?") {
		t.Fatalf("without a sign-in the browser is at %s, %d", p.URL(), status)
	}
	if status := p.ClickAndLoad("button"); status != http.StatusOK || !strings.HasPrefix(p.URL(), address) {
		t.Fatalf("after the sign-in the browser is at %s, %d: %s", p.URL(), status, p.Text("body"))
	}
	return p
}

// status returns the status of a request with a token.
func status(t *testing.T, address, token, workspace string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if workspace != "" {
		request.Header.Set("X-Workspace-Id", workspace)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}
