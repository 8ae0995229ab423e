package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/program"
)

// Row 36 of docs/security.md, for the issuer: no log and no metric contains a secret that users, apps or attackers send or
// receive. The test covers Envoy, Postgres, the sidecar and the issuer.
func TestOAuthSecretsStaySecret(t *testing.T) {
	t.Parallel()
	s := &leakStack{secrets: traces{}, outputs: map[string][]string{}}
	keywicket, err := program.Keywicket()
	if err != nil {
		t.Fatal(err)
	}
	d, err := demo.New(t.Context(), demo.Config{
		Keywicket: keywicket, Log: &s.log, Environ: []string{"KEYWICKET_LOG_LEVEL=debug", "KEYWICKET_LOG_ALLOW_SAMPLE=1"},
		PostgresSettings: map[string]string{
			"log_min_duration_statement": "0", "log_parameter_max_length": "0", "log_parameter_max_length_on_error": "0",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	s.Stack = d.Stack
	logins := regexp.MustCompile(`PASSWORD '(\w+)'.*\n`).FindAllStringSubmatch(s.log.String(), -1)
	if len(logins) != 3 {
		t.Fatal("the passwords of the database are not in the log")
	}
	s.secrets.add("a password", logins[0][1], logins[1][1], logins[2][1])
	secret := func(name, text string) string {
		if len(text) < traceLength {
			t.Fatalf("%s is %q", name, text)
		}
		s.secrets.add(name, append(encodings([]byte(text)), text)...)
		s.secrets.addDigest(text)
		return text
	}

	created := harness.Keywicket[[]struct{ ID string }](t, d.Stack, "user", "list")
	token, err := d.SignIn.Token(created[0].ID, rand.Text(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	secret("a session", token)
	app := harness.RegisterApp(t, d.Stack, "--confidential")
	secret("an app's secret", app.Secret)
	public := harness.RegisterApp(t, d.Stack).ID
	const challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	verifier, state := secret("a verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), secret("a state", rand.Text())

	// visit sends a request as the browser does. It does not record the response.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	visit := func(method, address, form string, cookies ...string) (text string, header http.Header) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("Cookie", strings.Join(cookies, "; "))
		response, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body), response.Header
	}
	session := "sb-demo-auth-token=" + token
	consent := func(clientID string) (code string) {
		t.Helper()
		address := d.Velocity + "/oauth/consent?" + url.Values{
			"client_id": {clientID}, "redirect_uri": {harness.AppAddress}, "response_type": {"code"}, "scope": {"user:read"}, "state": {state},
			"code_challenge": {challenge}, "code_challenge_method": {"S256"},
		}.Encode()
		visit("GET", address, "")                                                                         // signed out
		visit("GET", address, "", session+"x")                                                            // forged
		visit("GET", strings.Replace(address, "client_id="+clientID, "client_id="+token, 1), "", session) // misplaced
		text, pageHeader := visit("GET", address, "", session)
		form := url.Values{"decision": {"approve"}}
		for _, m := range regexp.MustCompile(`type="hidden" name="(\w+)" value="([^"]*)"`).FindAllStringSubmatch(text, -1) {
			form.Set(m[1], html.UnescapeString(m[2]))
		}
		proof := secret("a form's proof", form.Get("proof"))
		visit("POST", address, url.Values{"decision": {"approve"}, "proof": {"guessed"}, "user": {token}}.Encode(), session, "keywicket_consent="+proof)
		_, redirectHeader := visit("POST", address, form.Encode(), session, strings.Split(pageHeader.Get("Set-Cookie"), ";")[0])
		redirect, err := url.Parse(redirectHeader.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		return secret("a code", redirect.Query().Get("code"))
	}
	const formType = "application/x-www-form-urlencoded"
	endpoint := d.Velocity + "/api/oauth/"
	basic := [2]string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(app.ID+":"+app.Secret))}
	secret("an app's credentials", basic[1][len("Basic "):])
	post := func(path string, want int, form url.Values, header ...[2]string) harness.Reply {
		t.Helper()
		all := []string{"Content-Type", formType}
		for _, h := range header {
			all = append(all, h[0], h[1])
		}
		r := harness.Fetch(t, http.DefaultClient, "POST", endpoint+path, form.Encode(), all...)
		if r.Status != want {
			t.Errorf("%s: %d, not %d: %v", path, r.Status, want, r.JSON)
		}
		for _, name := range []string{"access_token", "refresh_token"} {
			if text := r.Text(name); text != "" {
				secret("an "+name, strings.TrimPrefix(text, "velo_"))
				s.secrets.addDigest(text)
			}
		}
		return r
	}
	exchange := url.Values{"grant_type": {"authorization_code"}, "code": {consent(app.ID)}, "redirect_uri": {harness.AppAddress}, "code_verifier": {verifier}}
	first := post("token", 200, exchange, basic)
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.Text("refresh_token")}}
	second := post("token", 200, refresh, basic)
	access := [2]string{"Authorization", "Bearer " + second.Text("access_token")}
	verify := func(text string, good bool) {
		for _, output := range []string{"text", "json"} {
			s.record("standard output of commands", s.run(t, good, text, "token", "verify", "--output", output))
		}
	}
	verify(second.Text("access_token"), true)
	harness.Get(t, http.DefaultClient, d.Velocity+"/api/user", access[0], access[1])
	harness.Get(t, http.DefaultClient, d.Velocity+"/api/projects", access[0], access[1])
	harness.Get(t, http.DefaultClient, d.Velocity+"/api/user?access_token="+second.Text("access_token"))
	post("introspect", 200, url.Values{"token": {second.Text("access_token")}}, basic)
	post("introspect", 400, url.Values{"token": {second.Text("access_token")}}) // no client authentication
	post("token", 200, refresh, basic)                                          // the refresh token a second time, within issuer.reuse_window
	post("token", 400, exchange, basic)                                         // the code a second time
	post("token", 400, refresh, basic)                                          // now the grant is revoked
	post("token", 400, url.Values{"grant_type": {app.Secret}, "client_id": {app.ID}, "client_secret": {app.Secret}})
	post("token", 401, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {app.Secret}, "client_secret": {verifier}})
	post("token?client_secret="+app.Secret, 401, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {app.ID}})
	post("revoke", 200, url.Values{"token": {second.Text("refresh_token")}}, basic)
	post("revoke", 400, url.Values{"token": {post("token", 200, url.Values{ // the token of another client
		"grant_type": {"authorization_code"}, "code": {consent(public)}, "redirect_uri": {harness.AppAddress}, "code_verifier": {verifier}, "client_id": {public},
	}).Text("refresh_token")}}, basic)
	for _, text := range []string{second.Text("access_token"), second.Text("access_token") + "x", second.Text("refresh_token"), app.Secret, token} {
		verify(text, false)
	}
	for _, args := range [][]string{
		{"grant", "list"}, {"grant", "list", "--user", token}, {"grant", "revoke", second.Text("access_token")}, {"oauth-app", "list"},
		{"oauth-app", "revoke", app.Secret}, {"oauth-app", "rotate-secret", second.Text("access_token")},
		{"oauth-app", "create", "--name", "n", "--redirect-uri", token}, {"oauth-app", "create", "--id", token, "--name", "n", "--redirect-uri", harness.AppAddress},
	} {
		s.run(t, !slices.ContainsFunc(args, func(a string) bool { return len(a) > 20 }), "", args...)
	}
	s.record("the issuer's metrics", harness.Get(t, http.DefaultClient, "http://"+d.Issuer.Addr+"/metrics").Body)
	s.record("the sidecar's metrics", harness.Get(t, http.DefaultClient, "http://"+d.Sidecar.Operations+"/metrics").Body)
	s.record("Envoy's statistics", harness.Get(t, http.DefaultClient, "http://"+d.Envoy.Admin()+"/stats").Body)
	// Send two requests without a database.
	if err := syscall.Kill(d.Postgres.PID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	harness.Await(t, "the database cannot be reached", func() bool {
		return harness.Fetch(t, http.DefaultClient, "POST", endpoint+"token", refresh.Encode(), "Content-Type", formType, basic[0], basic[1]).Status == http.StatusServiceUnavailable
	})
	visit("GET", d.Velocity+"/oauth/consent?client_id="+app.ID+"&redirect_uri="+harness.AppAddress+"&state="+state, "", session)
	_ = d.Close() // completes the logs; Close returns an error, because Postgres was stopped before

	_, log, _ := strings.Cut(s.log.String(), logins[2][0])
	s.record("the logs", log)
	for what, texts := range s.outputs {
		for _, found := range s.secrets.find(strings.Join(texts, "\n")) {
			t.Errorf("%s contain %s", what, found)
		}
	}
	// Check the test itself: the logs must contain these lines, and the search must find secrets in a text that contains them.
	for whose, line := range map[string]string{
		"Envoy": `"path":"/oauth/consent".*"status":303`, "Postgres": `INSERT INTO keywicket\.oauth_codes`, "a grant": `"msg":"a user has granted`,
		"tokens": `"msg":"tokens were issued"`, "reuse": `"level":"WARN","msg":"a code or refresh token was used a second time`,
		"a second tab": `"msg":"a refresh token was used again within issuer`,
		"revocation":   `"msg":"a token was revoked`, "the issuer's errors": `"msg":"the issuer could not answer","path":"/api/oauth/token"`,
		"the sidecar": `"kind":"oauth_token"`,
	} {
		if !regexp.MustCompile(line).MatchString(log) {
			t.Errorf("no line of %s was recorded", whose)
		}
	}
	if found := s.secrets.find(fmt.Sprint(exchange, refresh, second.Body)); len(found) == 0 {
		t.Error("the search finds nothing in a text that contains secrets")
	}
}
