package oauth

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/js"
)

// The unmodified library golang.org/x/oauth2 works for default apps and for confidential apps. The test asks for consent,
// exchanges the code, calls the API, refreshes the token, and revokes it.
func TestGoClient(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	for name, c := range map[string]struct {
		app   harness.App
		style oauth2.AuthStyle
	}{
		"default":               {harness.App{ID: harness.RegisterApp(t, d.Stack).ID}, oauth2.AuthStyleInParams},
		"default, Basic":        {harness.App{ID: harness.RegisterApp(t, d.Stack).ID}, oauth2.AuthStyleInHeader}, // with an empty secret
		"default, with secret":  {harness.RegisterApp(t, d.Stack), oauth2.AuthStyleInParams},
		"confidential, Basic":   {harness.RegisterApp(t, d.Stack, "--confidential"), oauth2.AuthStyleInHeader},
		"confidential, in form": {harness.RegisterApp(t, d.Stack, "--confidential"), oauth2.AuthStyleInParams},
	} {
		t.Run(name, func(t *testing.T) {
			config := oauth2.Config{
				ClientID: c.app.ID, ClientSecret: c.app.Secret, RedirectURL: harness.AppAddress, Scopes: []string{"issues:read", "user:read"},
				Endpoint: oauth2.Endpoint{AuthURL: d.Velocity + "/oauth/consent", TokenURL: d.Velocity + "/api/oauth/token", AuthStyle: c.style},
			}
			verifier := oauth2.GenerateVerifier()
			back, err := demo.NewUser("ada@example.com").Approve(t.Context(), config.AuthCodeURL("a state", oauth2.S256ChallengeOption(verifier)), "Target workspace")
			if err != nil || back.Query().Get("state") != "a state" {
				t.Fatalf("%v, %v", back, err)
			}
			token, err := config.Exchange(t.Context(), back.Query().Get("code"), oauth2.VerifierOption(verifier))
			if err != nil {
				t.Fatal(err)
			}
			call := func(token *oauth2.Token, path string) int {
				response, err := oauth2.NewClient(t.Context(), oauth2.StaticTokenSource(token)).Get(d.Velocity + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = response.Body.Close()
				return response.StatusCode
			}
			for path, want := range map[string]int{"/api/issues": 200, "/api/user": 200, "/api/projects": 403} {
				if got := call(token, path); got != want {
					t.Errorf("%s: %d, not %d", path, got, want)
				}
			}
			token.Expiry = time.Now().Add(-time.Minute)
			again, err := config.TokenSource(t.Context(), token).Token()
			if err != nil || again.AccessToken == token.AccessToken || again.RefreshToken == token.RefreshToken || call(again, "/api/issues") != 200 {
				t.Fatalf("%+v, %v", again, err)
			}
			form := url.Values{"token": {again.RefreshToken}, "client_id": {c.app.ID}}
			if c.app.Secret != "" {
				form.Set("client_secret", c.app.Secret)
			}
			if r := harness.Fetch(t, http.DefaultClient, "POST", d.Velocity+"/api/oauth/revoke", form.Encode(), "Content-Type", "application/x-www-form-urlencoded"); r.Status != 200 {
				t.Errorf("%+v", r)
			}
			harness.Await(t, "the token is revoked", func() bool { return call(again, "/api/issues") == 401 })
		})
	}
}

// The unmodified npm package oauth4webapi checks every response strictly: see test/js/client.js.
func TestJavaScriptClient(t *testing.T) {
	t.Parallel()
	node, err := js.Node()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.File("oauth4webapi/build/index.js"); err != nil {
		t.Fatal(err)
	}
	d := startDemo(t)
	for name, c := range map[string]struct {
		app            harness.App
		authentication string
	}{
		"default":               {harness.App{ID: harness.RegisterApp(t, d.Stack).ID}, "none"},
		"default, with secret":  {harness.RegisterApp(t, d.Stack), "client_secret_post"},
		"confidential, Basic":   {harness.RegisterApp(t, d.Stack, "--confidential"), "client_secret_basic"},
		"confidential, in form": {harness.RegisterApp(t, d.Stack, "--confidential"), "client_secret_post"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			client := exec.CommandContext(ctx, node, "../js/client.js")
			client.Env = append(os.Environ(), "ISSUER="+d.Velocity, "CLIENT_ID="+c.app.ID, "CLIENT_SECRET="+c.app.Secret,
				"AUTHENTICATION="+c.authentication, "REDIRECT_URI="+harness.AppAddress)
			var stderr bytes.Buffer
			client.Stderr = &stderr
			stdin, err := client.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := client.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Start(); err != nil {
				t.Fatal(err)
			}
			authorize, err := bufio.NewReader(stdout).ReadString('\n')
			var back *url.URL
			if err == nil {
				back, err = demo.NewUser("ada@example.com").Approve(ctx, strings.TrimSpace(authorize), "Your workspace")
			}
			if err == nil {
				_, err = fmt.Fprintln(stdin, back)
			}
			if err := errors.Join(err, client.Wait()); err != nil {
				t.Errorf("%v: %s", err, &stderr)
			}
		})
	}
}
