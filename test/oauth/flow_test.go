// Package oauth tests the OAuth issuer behind Envoy, with the clients that apps use and in a browser.
package oauth

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/test/harness"
)

// The test follows the OAuth flow of Velocity's API documentation, step by step, through Envoy. The comment of each step cites
// the lines of the documentation.
func TestVelocityOAuthFlow(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	a := harness.RegisterApp(t, d.Stack)
	ada := demo.NewUser("ada@example.com")
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

	// Lines 59 to 66. The scopes are separated by spaces.
	ask := "/oauth/consent?client_id=" + a.ID + "&redirect_uri=" + harness.AppAddress + "&response_type=code&scope=issues:read%20issues:write" +
		"&state=random_state&code_challenge=" + challenge + "&code_challenge_method=S256"
	back, err := ada.Approve(t.Context(), d.Velocity+ask, "Your workspace")
	if err != nil {
		t.Fatal(err)
	}
	code := back.Query().Get("code")
	if !strings.HasPrefix(back.String(), harness.AppAddress+"?") || code == "" || back.Query().Get("state") != "random_state" || back.Query().Get("iss") != d.Velocity {
		t.Fatalf("Ada is sent to %v", back)
	}
	// Lines 71 to 80.
	token := d.Velocity + "/api/oauth/token"
	exchange := fmt.Sprintf(`{"grant_type": "authorization_code", "code": %q, "redirect_uri": %q, "client_id": %q, "code_verifier": %q}`,
		code, harness.AppAddress, a.ID, verifier)
	first := harness.Fetch(t, http.DefaultClient, "POST", token, exchange, "Content-Type", "application/json")
	if first.Status != http.StatusOK || first.Text("token_type") != "Bearer" || first.Text("scope") != "issues:read issues:write" ||
		first.Text("refresh_token") == "" || first.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%+v", first)
	}
	// Lines 83 to 85.
	issues := func(access string) string {
		t.Helper()
		r := harness.Get(t, http.DefaultClient, d.Velocity+"/api/issues", "Authorization", "Bearer "+access)
		if r.Status == http.StatusOK {
			return "allow"
		}
		e, _ := r.JSON["error"].(map[string]any)
		return fmt.Sprint(e["code"], " ", e["reason"])
	}
	if got := issues(first.Text("access_token")); got != "allow" {
		t.Errorf("the access token: %s", got)
	}
	// Line 89.
	if first.JSON["expires_in"] != 3600.0 {
		t.Errorf("expires_in is %v s", first.JSON["expires_in"])
	}
	db := harness.OpenDatabase(t, d.Stack)
	if _, err := db.Exec(`UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp()`); err != nil {
		t.Fatal(err)
	}
	harness.Await(t, "the access token has expired", func() bool { return issues(first.Text("access_token")) == "UNAUTHORIZED expired" })
	// Lines 91 to 98.
	refresh := fmt.Sprintf(`{"grant_type": "refresh_token", "refresh_token": %q, "client_id": %q}`, first.Text("refresh_token"), a.ID)
	second := harness.Fetch(t, http.DefaultClient, "POST", token, refresh, "Content-Type", "application/json")
	if second.Status != http.StatusOK || second.Text("refresh_token") == first.Text("refresh_token") {
		t.Fatalf("%+v", second)
	}
	if got := issues(second.Text("access_token")); got != "allow" {
		t.Errorf("the new access token: %s", got)
	}
	// A second tab of the app sends the same refresh token a moment later, and also gets tokens.
	tab := harness.Fetch(t, http.DefaultClient, "POST", token, refresh, "Content-Type", "application/json")
	if tab.Status != http.StatusOK || tab.Text("refresh_token") == second.Text("refresh_token") || issues(tab.Text("access_token")) != "allow" {
		t.Errorf("%+v", tab)
	}
	// The test sends the old refresh token again after issuer.reuse_window (10s), as an attacker may do. All tokens of the grant must
	// then stop working.
	if _, err := db.Exec(`UPDATE keywicket.oauth_refresh_tokens SET used_at = used_at - interval '10 seconds'`); err != nil {
		t.Fatal(err)
	}
	if again := harness.Fetch(t, http.DefaultClient, "POST", token, refresh, "Content-Type", "application/json"); again.Status != http.StatusBadRequest || again.Text("error") != "invalid_grant" {
		t.Errorf("%+v", again)
	}
	for _, r := range []harness.Reply{second, tab} {
		harness.Await(t, "the access token is revoked", func() bool { return issues(r.Text("access_token")) == "UNAUTHORIZED revoked" })
	}
}

// A terminal that closes sends SIGHUP to the processes that were started in it. The servers must ignore this signal.
func TestServersSurviveTheirTerminal(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
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
	if r := harness.Get(t, http.DefaultClient, "http://"+d.Issuer.Addr+"/metrics"); r.Status != http.StatusOK {
		t.Errorf("the issuer answers %d", r.Status)
	}
	if r := harness.Get(t, http.DefaultClient, d.Velocity+"/api/issues"); r.Status != http.StatusUnauthorized {
		t.Errorf("a request without a token is answered with %d", r.Status)
	}
}

// The test checks which requests Envoy routes to the issuer. It also checks that the issuer counts requests by the real address
// of the client.
func TestIssuerBehindEnvoy(t *testing.T) {
	t.Parallel()
	const limit = 8
	d := startDemo(t, fmt.Sprint("KEYWICKET_ISSUER_ADDRESS_LIMIT=", limit))
	a := harness.RegisterApp(t, d.Stack, "--confidential")
	// Clients cannot reach the issuer's probes and metrics.
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/oauth/consent/", "/oauth/Consent", "/api/oauth/token/", "/oauth", "/api/oauth/token%20"} {
		for _, method := range []string{"GET", "POST"} {
			if r := harness.Fetch(t, http.DefaultClient, method, d.Velocity+path, ""); r.Status != http.StatusUnauthorized {
				t.Errorf("%s %s: %+v", method, path, r)
			}
		}
	}
	if r := harness.Get(t, http.DefaultClient, d.Velocity+"/.well-known/oauth-authorization-server"); r.Text("issuer") != d.Velocity || r.Text("token_endpoint") != d.Velocity+"/api/oauth/token" {
		t.Errorf("%+v", r)
	}
	if r := harness.Get(t, http.DefaultClient, "http://"+d.Issuer.Addr+"/metrics"); r.Status != http.StatusOK {
		t.Errorf("%+v", r)
	}
	// The issuer receives an app's Authorization header. A client cannot choose its own address.
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(a.ID+":"+a.Secret))
	introspect := func(n int) harness.Reply {
		claimed := fmt.Sprint("192.0.2.", n)
		return harness.Fetch(t, http.DefaultClient, "POST", d.Velocity+"/api/oauth/introspect", "token=x", "Content-Type", "application/x-www-form-urlencoded", "Authorization", basic, "X-Envoy-External-Address", claimed, "X-Forwarded-For", claimed)
	}
	for n := range limit {
		if r := introspect(n); r.Status != http.StatusOK || r.JSON["active"] != false {
			t.Fatalf("%+v", r)
		}
	}
	limited := false
	for n := range limit { // in the meantime the limit permits some further requests, but fewer than this loop sends
		limited = limited || introspect(n).Status == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("a client that forges another address each time is not limited")
	}
	metrics := harness.Get(t, http.DefaultClient, "http://"+d.Issuer.Addr+"/metrics").Body
	for _, line := range []string{`keywicket_issuer_requests_total{endpoint="introspect",outcome="ok"} `, `keywicket_issuer_requests_total{endpoint="introspect",outcome="limited"} `} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no metric %s", line)
		}
	}
	// Without the issuer, existing tokens still work.
	if err := d.Issuer.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/api/oauth/token", "/oauth/consent"} {
		if r := harness.Fetch(t, http.DefaultClient, "POST", d.Velocity+path, "", "Content-Type", "application/x-www-form-urlencoded"); r.Status != http.StatusServiceUnavailable ||
			r.Header.Get("Retry-After") != "1" || r.Body != `{"error":{"code":"UNAVAILABLE","message":"The service is unavailable. Try again.","reason":"unavailable"}}`+"\n" {
			t.Errorf("%s without an issuer: %+v", path, r)
		}
	}
	if r := harness.Get(t, http.DefaultClient, d.Velocity+"/api/user", "Authorization", "Bearer velu_your_personal_key_here"); r.Status != http.StatusOK {
		t.Errorf("without an issuer: %+v", r)
	}
}
