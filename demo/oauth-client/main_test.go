package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/program"
)

// TestApp runs the app against a demo. The user signs in and consents.
func TestApp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	keywicket, err := program.RaceKeywicket()
	if err != nil {
		t.Fatal(err)
	}
	d, err := demo.New(ctx, demo.Config{Keywicket: keywicket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	// runApp runs the app, and calls the function browser with the address that the app prints. Then runApp opens the URL that the
	// function returns.
	runApp := func(change func(*app), browser func(address string) *url.URL) (string, error) {
		t.Helper()
		a := &app{Config: oauth2.Config{ClientID: "your_client_id", Scopes: []string{"issues:read", "issues:write"}},
			issuer: d.Velocity, call: "/api/issues", browser: "no-such-browser", patience: 30 * time.Second}
		if change != nil {
			change(a)
		}
		t.Setenv("PATH", "") // so no browser window opens during the test
		r, w := io.Pipe()
		var out bytes.Buffer
		ended := make(chan error, 1)
		go func() {
			err := a.run(ctx, w)
			_ = w.Close()
			ended <- err
		}()
		lines := bufio.NewScanner(io.TeeReader(r, &out))
		for lines.Scan() {
			if address := strings.TrimSpace(lines.Text()); strings.HasPrefix(address, d.Velocity+"/oauth/consent?") {
				if redirect := browser(address); redirect != nil {
					response, err := http.Get(redirect.String())
					if err != nil {
						t.Fatal(err)
					}
					_ = response.Body.Close()
				}
			}
		}
		return out.String(), <-ended
	}
	approve := func(workspaces ...string) func(string) *url.URL {
		return func(address string) *url.URL {
			redirect, err := demo.NewUser("ada@example.com").Approve(ctx, address, workspaces...)
			if err != nil {
				t.Fatal(err)
			}
			return redirect
		}
	}

	out, err := runApp(nil, approve("Your workspace"))
	want := regexp.MustCompile(`(?s)The user allowed: issues:read issues:write
  access token   velo_\w{4}…, for 1h0m0s
  refresh token  \w{9}…
  GET /api/issues → 200 OK
    x-keywicket-kind: oauth_token
    x-keywicket-user-id: [0-9a-f-]+
    x-keywicket-workspace-slug: your-workspace
    x-keywicket-scopes: issues:read issues:write

Refreshed:
  access token   velo_\w{4}…
  GET /api/issues → 200 OK
.*
Revoked, a second later:
  GET /api/issues → 401 Unauthorized
    UNAUTHORIZED revoked
$`)
	if err != nil || !want.MatchString(out) {
		t.Errorf("%v in\n%s", err, out)
	}
	out, err = runApp(func(a *app) { a.workspace = "target-workspace" }, approve())
	if err != nil || !strings.Contains(out, "200 OK\n    x-keywicket-kind: oauth_token") || !strings.Contains(out, "slug: target-workspace") {
		t.Errorf("in one of several workspaces: %v in\n%s", err, out)
	}

	changed := func(parameter, value string) func(string) *url.URL {
		return func(address string) *url.URL {
			redirect := approve()(address)
			q := redirect.Query()
			q.Set(parameter, value)
			redirect.RawQuery = q.Encode()
			return redirect
		}
	}
	shortPatience := func(a *app) { a.patience = 5 * time.Second }
	// The app reports each failure.
	for name, c := range map[string]struct {
		change  func(*app)
		browser func(string) *url.URL
		want    string
	}{
		"an unknown scope":        {func(a *app) { a.Scopes = []string{"all"} }, approve(), "the answer is invalid_scope"},
		"a guessed state":         {shortPatience, changed("state", "guessed"), "the user did not answer in time"},
		"another issuer's answer": {shortPatience, changed("iss", "https://evil.example"), "the user did not answer in time"},
		"no answer":               {func(a *app) { a.patience = time.Millisecond }, func(string) *url.URL { return nil }, "the user did not answer in time"},
		"a wrong secret":          {func(a *app) { a.ClientSecret = "guessed" }, approve(), "invalid_client"},
		"no issuer":               {func(a *app) { a.issuer = d.VelaFlows }, nil, "not with the metadata of an issuer"},
		"no server":               {func(a *app) { a.issuer = "http://127.0.0.1:1" }, nil, "run make demo"},
	} {
		if out, err := runApp(c.change, c.browser); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v in\n%s", name, err, out)
		}
	}
}

// The function open starts the browser with the address.
func TestBrowserIsOpened(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "browser")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\necho \"$1\" > %s/opened\n", dir), 0o700); err != nil {
		t.Fatal(err)
	}
	open(t.Context(), script, "http://127.0.0.1/x?y=1&z")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if text, _ := os.ReadFile(filepath.Join(dir, "opened")); string(text) == "http://127.0.0.1/x?y=1&z\n" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the browser did not get the address")
		}
	}
}
