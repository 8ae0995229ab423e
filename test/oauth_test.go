package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/js"
)

// grant lets the user consent to an app, and returns the app's tokens. It bypasses the issuer's pages, which other tests
// cover.
func grant(t *testing.T, user string, scopes []string, workspaces ...string) issuer.Issued {
	t.Helper()
	const callback = "https://planner.example/cb"
	app, _, err := world.registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{callback}})
	if err != nil {
		t.Fatal(err)
	}
	approval := issuer.Approval{Client: app.ID, User: user, Scopes: scopes, RedirectURI: callback, Challenge: strings.Repeat("c", 43)}
	for _, w := range workspaces {
		found, err := world.registry.Workspace(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		approval.Workspaces = append(approval.Workspaces, found.ID)
	}
	_, format := formatOf("velo_")
	approved, err := world.grants.Approve(t.Context(), approval)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := world.grants.Exchange(t.Context(), approved.Code, format, func(issuer.Code) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

// withIssuer returns a complete deployment: a sign-in, an issuer, users.
func withIssuer(t *testing.T, environ ...string) *demo.Demo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := demo.New(ctx, demo.Config{Keywicket: world.binary, Environ: append(environ, shortStaleness)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// app is an app that is registered with the deployment.
type app struct {
	ID     string
	Secret string `json:"client_secret"`
}

const appAddress = "https://yourapp.example/callback"

func register(t *testing.T, d *demo.Demo, more ...string) app {
	t.Helper()
	return operator[app](t, d.Stack, append([]string{"oauth-app", "create", "--name", "Planner", "--redirect-uri", appAddress}, more...)...)
}

// oauthResponse is an HTTP response.
type oauthResponse struct {
	status int
	header http.Header
	raw    string
	body   map[string]any // of a JSON response
}

func (a oauthResponse) text(name string) string { s, _ := a.body[name].(string); return s }

func send(t *testing.T, method, url, contentType, body string, header ...[2]string) oauthResponse {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", contentType)
	for _, h := range header {
		q.Header.Add(h[0], h[1])
	}
	response, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := oauthResponse{status: response.StatusCode, header: response.Header, raw: string(text)}
	if err := json.Unmarshal(text, &a.body); err != nil && response.Header.Get("Content-Type") == "application/json" {
		t.Fatalf("%s %s: %v in %s", method, url, err, text)
	}
	return a
}

// The flow of Velocity's document, step by step, through Envoy. Each step names its lines.
func TestVelocityOAuthFlow(t *testing.T) {
	d := withIssuer(t)
	a := register(t, d)
	ada := demo.NewUser("ada@example.com")
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

	// Lines 59 to 66. The scopes are separated by spaces.
	ask := "/oauth/consent?client_id=" + a.ID + "&redirect_uri=" + appAddress + "&response_type=code&scope=issues:read%20issues:write" +
		"&state=random_state&code_challenge=" + challenge + "&code_challenge_method=S256"
	back, err := ada.Approve(t.Context(), d.Velocity+ask, "Your workspace")
	if err != nil {
		t.Fatal(err)
	}
	code := back.Query().Get("code")
	if !strings.HasPrefix(back.String(), appAddress+"?") || code == "" || back.Query().Get("state") != "random_state" || back.Query().Get("iss") != d.Velocity {
		t.Fatalf("Ada is sent to %v", back)
	}
	// Lines 71 to 80.
	token := d.Velocity + "/api/oauth/token"
	exchange := fmt.Sprintf(`{"grant_type": "authorization_code", "code": %q, "redirect_uri": %q, "client_id": %q, "code_verifier": %q}`,
		code, appAddress, a.ID, verifier)
	first := send(t, "POST", token, "application/json", exchange)
	if first.status != http.StatusOK || first.text("token_type") != "Bearer" || first.text("scope") != "issues:read issues:write" ||
		first.text("refresh_token") == "" || first.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%+v", first)
	}
	// Lines 83 to 85.
	issues := func(access string) string {
		t.Helper()
		r := send(t, "GET", d.Velocity+"/api/issues", "", "", [2]string{"Authorization", "Bearer " + access})
		if r.status == http.StatusOK {
			return "allow"
		}
		e, _ := r.body["error"].(map[string]any)
		return fmt.Sprint(e["code"], " ", e["reason"])
	}
	if got := issues(first.text("access_token")); got != "allow" {
		t.Errorf("the access token: %s", got)
	}
	// Line 89.
	if first.body["expires_in"] != 3600.0 {
		t.Errorf("expires_in is %v s", first.body["expires_in"])
	}
	db := openDatabase(t, d.Stack)
	if _, err := db.Exec(`UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp()`); err != nil {
		t.Fatal(err)
	}
	await(t, "it has expired", func() bool { return issues(first.text("access_token")) == "UNAUTHORIZED expired" })
	// Lines 91 to 98.
	refresh := fmt.Sprintf(`{"grant_type": "refresh_token", "refresh_token": %q, "client_id": %q}`, first.text("refresh_token"), a.ID)
	second := send(t, "POST", token, "application/json", refresh)
	if second.status != http.StatusOK || second.text("refresh_token") == first.text("refresh_token") {
		t.Fatalf("%+v", second)
	}
	if got := issues(second.text("access_token")); got != "allow" {
		t.Errorf("the new one: %s", got)
	}
	// The old refresh token again, as a thief might send it: all tokens of the grant stop working.
	if again := send(t, "POST", token, "application/json", refresh); again.status != http.StatusBadRequest || again.text("error") != "invalid_grant" {
		t.Errorf("%+v", again)
	}
	await(t, "it is revoked", func() bool { return issues(second.text("access_token")) == "UNAUTHORIZED revoked" })
}

// golang.org/x/oauth2, unmodified, for a default and a confidential app: authorize, exchange, call, refresh, revoke.
func TestGoClient(t *testing.T) {
	d := withIssuer(t)
	for name, c := range map[string]struct {
		app   app
		style oauth2.AuthStyle
	}{
		"default":               {app{ID: register(t, d).ID}, oauth2.AuthStyleInParams},
		"default, with secret":  {register(t, d), oauth2.AuthStyleInParams},
		"confidential, Basic":   {register(t, d, "--confidential"), oauth2.AuthStyleInHeader},
		"confidential, in form": {register(t, d, "--confidential"), oauth2.AuthStyleInParams},
	} {
		t.Run(name, func(t *testing.T) {
			config := oauth2.Config{
				ClientID: c.app.ID, ClientSecret: c.app.Secret, RedirectURL: appAddress, Scopes: []string{"issues:read", "user:read"},
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
			if r := send(t, "POST", d.Velocity+"/api/oauth/revoke", "application/x-www-form-urlencoded", form.Encode()); r.status != 200 {
				t.Errorf("%+v", r)
			}
			await(t, "it is revoked", func() bool { return call(again, "/api/issues") == 401 })
		})
	}
}

// A terminal that closes sends SIGHUP to the processes that were started from it.
func TestServersOutliveTheirTerminal(t *testing.T) {
	d := withIssuer(t)
	for name, p := range map[string]*process.Process{"the sidecar": d.Sidecar.Process, "the issuer": d.Issuer.Process} {
		if err := p.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
			t.Errorf("%s has ended: %v", name, p.Err())
		case <-time.After(time.Second):
		}
	}
	if r := send(t, "GET", "http://"+d.Issuer.Addr+"/metrics", "", ""); r.status != http.StatusOK {
		t.Errorf("the issuer answers %d", r.status)
	}
	if r := send(t, "GET", d.Velocity+"/api/issues", "", ""); r.status != http.StatusUnauthorized {
		t.Errorf("a request without a token is answered with %d", r.status)
	}
}

// Which requests Envoy routes to the issuer, and which client address the issuer counts.
func TestIssuerBehindEnvoy(t *testing.T) {
	const limit = 8
	d := withIssuer(t, fmt.Sprint("KEYWICKET_ISSUER_ADDRESS_LIMIT=", limit))
	a := register(t, d, "--confidential")
	// Clients cannot reach the issuer's probes and metrics.
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/oauth/consent/", "/oauth/Consent", "/api/oauth/token/", "/oauth", "/api/oauth/token%20"} {
		for _, method := range []string{"GET", "POST"} {
			if r := send(t, method, d.Velocity+path, "", ""); r.status != http.StatusUnauthorized {
				t.Errorf("%s %s: %+v", method, path, r)
			}
		}
	}
	if r := send(t, "GET", d.Velocity+"/.well-known/oauth-authorization-server", "", ""); r.text("issuer") != d.Velocity || r.text("token_endpoint") != d.Velocity+"/api/oauth/token" {
		t.Errorf("%+v", r)
	}
	if r := send(t, "GET", "http://"+d.Issuer.Addr+"/metrics", "", ""); r.status != http.StatusOK {
		t.Errorf("%+v", r)
	}
	// The issuer receives an app's Authorization header. A client cannot choose its own address.
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(a.ID+":"+a.Secret))
	introspect := func(n int) oauthResponse {
		claimed := fmt.Sprint("192.0.2.", n)
		return send(t, "POST", d.Velocity+"/api/oauth/introspect", "application/x-www-form-urlencoded", "token=x",
			[2]string{"Authorization", basic}, [2]string{"X-Envoy-External-Address", claimed}, [2]string{"X-Forwarded-For", claimed})
	}
	for n := range limit {
		if r := introspect(n); r.status != http.StatusOK || r.body["active"] != false {
			t.Fatalf("%+v", r)
		}
	}
	limited := false
	for n := range limit { // the limit refills meanwhile, but more slowly
		limited = limited || introspect(n).status == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("a client that forges another address each time is not limited")
	}
	metrics := send(t, "GET", "http://"+d.Issuer.Addr+"/metrics", "", "").raw
	for _, line := range []string{`keywicket_issuer_requests_total{endpoint="introspect",outcome="ok"} `, `keywicket_issuer_requests_total{endpoint="introspect",outcome="limited"} `} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no metric %s", line)
		}
	}
	// Without the issuer, existing tokens continue to work.
	if err := d.Issuer.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/api/oauth/token", "/oauth/consent"} {
		if r := send(t, "POST", d.Velocity+path, "application/x-www-form-urlencoded", ""); r.status != http.StatusServiceUnavailable ||
			r.header.Get("Retry-After") != "1" || r.raw != `{"error":{"code":"UNAVAILABLE","message":"The service is unavailable. Try again.","reason":"unavailable"}}`+"\n" {
			t.Errorf("%s without an issuer: %+v", path, r)
		}
	}
	if r := send(t, "GET", d.Velocity+"/api/user", "", "", [2]string{"Authorization", "Bearer velu_your_personal_key_here"}); r.status != http.StatusOK {
		t.Errorf("without an issuer: %+v", r)
	}
}

// npm's oauth4webapi, unmodified, checks every response strictly: see test/js/client.js.
func TestJavaScriptClient(t *testing.T) {
	node, err := js.Node()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.File("oauth4webapi/build/index.js"); err != nil {
		t.Fatal(err)
	}
	d := withIssuer(t)
	for name, c := range map[string]struct {
		app            app
		authentication string
	}{
		"default":               {app{ID: register(t, d).ID}, "none"},
		"default, with secret":  {register(t, d), "client_secret_post"},
		"confidential, Basic":   {register(t, d, "--confidential"), "client_secret_basic"},
		"confidential, in form": {register(t, d, "--confidential"), "client_secret_post"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			client := exec.CommandContext(ctx, node, "js/client.js")
			client.Env = append(os.Environ(), "ISSUER="+d.Velocity, "CLIENT_ID="+c.app.ID, "CLIENT_SECRET="+c.app.Secret,
				"AUTHENTICATION="+c.authentication, "REDIRECT_URI="+appAddress)
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
