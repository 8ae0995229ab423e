package sessions

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/supabase"
)

// TestSessionsThroughEnvoy tests valid tokens of the three algorithms, and tokens that are almost valid.
func TestSessionsThroughEnvoy(t *testing.T) {
	user, workspace := deployment.CreateOwner(t)
	client := harness.NewClient(t, deployment.Stack, 1)
	issuer := deployment.Sessions
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&issuer.EC.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	good, secret, now := supabase.Claims(user, nil), []byte(issuer.Secret), time.Now().Unix()
	genuine := strings.Split(issuer.Token(user, nil), ".")
	tokenWith := func(change supabase.Fields) string { return issuer.Token(user, change) }
	text, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	duplicateSub := supabase.Sign(jose.ES256, issuer.EC, "ec", []byte(`{"sub":"eve",`+string(text[1:])))
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + genuine[1] + "."

	for _, c := range []struct{ name, token, outcome string }{
		{"HS256", supabase.Sign(jose.HS256, secret, "", good), "allow"},
		{"ES256", supabase.Sign(jose.ES256, issuer.EC, "ec", good), "allow"},
		{"RS256", supabase.Sign(jose.RS256, issuer.RSA, "rsa", good), "allow"},
		{"nearly expired", tokenWith(supabase.Fields{"exp": now + 30}), "allow"},
		{"just short enough", tokenWith(supabase.Fields{"x": strings.Repeat("x", 5000)}), "allow"},

		{"no aal claim", tokenWith(supabase.Fields{"aal": nil}), "allow"},

		{"a token of an app", tokenWith(supabase.Fields{"client_id": "9a8b7c6d-5e4f-3a2b-1c0d-9e8f7a6b5c4d", "scope": "openid"}), "UNAUTHORIZED app_token"},
		{"the algorithm none", unsigned, "UNAUTHORIZED unsupported_algorithm"},
		{"HS256 with the public key", supabase.Sign(jose.HS256, public, "ec", good), "UNAUTHORIZED unknown"},
		{"wrong kid", supabase.Sign(jose.ES256, issuer.EC, "rsa", good), "UNAUTHORIZED unknown"},
		{"unknown kid", supabase.Sign(jose.ES256, issuer.EC, "nobody's", good), "UNAUTHORIZED unknown"},
		{"wrong curve", supabase.Sign(jose.ES384, p384, "ec", good), "UNAUTHORIZED unsupported_algorithm"},
		{"PS256", supabase.Sign(jose.PS256, issuer.RSA, "rsa", good), "UNAUTHORIZED unsupported_algorithm"},
		{"HS512", supabase.Sign(jose.HS512, append(secret, secret...), "", good), "UNAUTHORIZED unsupported_algorithm"},
		{"signed by another issuer", supabase.Sign(jose.ES256, supabase.NewEC(), "ec", good), "UNAUTHORIZED unknown"},
		{"expired", tokenWith(supabase.Fields{"exp": now - 60}), "UNAUTHORIZED expired"},
		{"not yet valid", tokenWith(supabase.Fields{"nbf": now + 60}), "UNAUTHORIZED unknown"},
		{"wrong issuer", tokenWith(supabase.Fields{"iss": "https://evil.example/auth/v1"}), "UNAUTHORIZED unknown"},
		{"wrong audience", tokenWith(supabase.Fields{"aud": "anon"}), "UNAUTHORIZED unknown"},
		{"two audiences", tokenWith(supabase.Fields{"aud": []string{"authenticated", "other"}}), "UNAUTHORIZED unknown"},
		{"missing exp", tokenWith(supabase.Fields{"exp": nil}), "UNAUTHORIZED malformed"},
		{"anonymous", tokenWith(supabase.Fields{"is_anonymous": true}), "UNAUTHORIZED unknown"},
		{"service_role", tokenWith(supabase.Fields{"role": "service_role"}), "UNAUTHORIZED unknown"},
		{"two sub claims", duplicateSub, "UNAUTHORIZED malformed"},
		{"too long", tokenWith(supabase.Fields{"x": strings.Repeat("x", 6200)}), "UNAUTHORIZED malformed"},
		{"a user who does not exist", issuer.Token("nobody", nil), "UNAUTHORIZED unknown"},
	} {
		before := deployment.UpstreamRequests()
		q := harness.NewRequest("velocity", "POST /api/issues", c.token, workspace)
		if got := inProcess.Check(t, q).Outcome; got != c.outcome {
			t.Errorf("%s, in process: %s, not %s", c.name, got, c.outcome)
		}
		got, _ := client.SendWithRetry(t, q)
		if got.Outcome != c.outcome {
			t.Errorf("%s: %s, not %s", c.name, got.Outcome, c.outcome)
		}
		if reached := deployment.UpstreamRequests() - before; (reached == 1) != (c.outcome == "allow") {
			t.Errorf("%s: %d requests reached the upstream", c.name, reached)
		}
	}
	if got, _ := client.SendWithRetry(t, harness.NewRequest("velaflows", harness.Conversations, issuer.Token(user, nil), "")); got.Outcome != "UNAUTHORIZED unknown" {
		t.Errorf("the other API: %s", got.Outcome)
	}
}

// After `session revoke --user`, a user signs in again. If the issuer and the database share a clock, the new session is valid from
// the next second on. Otherwise, a session that begins within the leeway is revoked, and the command's output says until when.
func TestSignInAfterRevocation(t *testing.T) {
	t.Parallel()
	issuer := supabase.Start()
	defer issuer.Close()
	shared := harness.StartStack(t, demo.Config{Environ: append(issuer.Environ(), "KEYWICKET_APIS_VELOCITY_SESSION_SHARED_CLOCK=true")})
	for name, c := range map[string]struct {
		stack  *demo.Stack
		issuer *supabase.Issuer
		want   string // the outcome for a session that begins 4 s after the revocation
	}{
		"one clock":  {shared, issuer, "allow"},
		"two clocks": {deployment.Stack, deployment.Sessions, "UNAUTHORIZED revoked"},
	} {
		user := harness.Keywicket[registry.User](t, c.stack, "user", "create", "--email", strings.ReplaceAll(name, " ", ".")+"@example.com")
		client := harness.NewClient(t, c.stack, 1)
		profile := func(session string, began int64) harness.Request {
			return harness.NewRequest("velocity", "GET /api/user", c.issuer.Token(user.ID, supabase.Fields{
				"session_id": session, "iat": began, "amr": []supabase.Fields{{"method": "password", "timestamp": began}}}), "")
		}
		before := profile("before", time.Now().Unix()-1)
		client.Expect(t, before, "allow")
		revoked := harness.Keywicket[struct {
			RevokedAt   time.Time `json:"revoked_at"`
			BegunBefore time.Time `json:"begun_before"`
		}](t, c.stack, "session", "revoke", "--user", user.ID)
		harness.Await(t, "the earlier session is revoked", func() bool { return client.Send(t, before).Outcome == "UNAUTHORIZED revoked" })
		client.Expect(t, profile("after", revoked.RevokedAt.Unix()+4), c.want)
		if leeway := revoked.BegunBefore.Sub(revoked.RevokedAt); leeway <= 10*time.Second || leeway > 11*time.Second { // this command has no configuration
			t.Errorf("%s: %+v", name, revoked)
		}
	}
}

// If the sidecar cannot reach an issuer, /readyz and the metrics report this failure. Sessions whose key is known are still
// allowed, until the keys are too old.
func TestIssuerThatCannotBeReached(t *testing.T) {
	t.Parallel()
	issuer := supabase.Start()
	defer issuer.Close()
	s := harness.StartStack(t, demo.Config{Environ: append(issuer.Environ(), "KEYWICKET_APIS_VELOCITY_SESSION_JWKS_MAX_AGE=8s")})
	user := harness.Keywicket[registry.User](t, s, "user", "create", "--email", "ada@example.com")
	client := harness.NewClient(t, s, 1)
	profile := func() harness.Request {
		return harness.NewRequest("velocity", "GET /api/user", issuer.Token(user.ID, nil), "")
	}
	client.Expect(t, profile(), "allow")
	issuer.SetHandler(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	harness.Await(t, "/readyz reports the failed fetch", func() bool {
		code, body := harness.Probe(t, s, "/readyz")
		return code == http.StatusOK && strings.Contains(body, "apis.velocity.session: the issuer's public keys are") &&
			strings.Contains(body, "could not be fetched again: the response has the status 500")
	})
	client.Expect(t, profile(), "allow")
	harness.Await(t, "the keys are too old", func() bool { return client.Send(t, profile()).Outcome == harness.Unavailable })
	_, metrics := harness.Probe(t, s, "/metrics")
	for _, line := range []string{
		`keywicket_session_key_fetches_total{api="velocity",result="failed"} `, `keywicket_session_keys{api="velocity"} 2`,
		`keywicket_session_keys_age_seconds{api="velocity"} `, `keywicket_sessions_total{api="velocity",result="failed"} `,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no metric %s", line)
		}
	}
	if code, body := harness.Probe(t, s, "/readyz"); code != http.StatusOK || !strings.Contains(body, "too old") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	issuer.SetHandler(nil)
	harness.Await(t, "sessions are accepted again", func() bool { return client.Send(t, profile()).Outcome == "allow" })
}

// The API requires a second factor from users who have enrolled one. A session without the second factor then gets the
// challenge of RFC 9470. The upstream receives the session's assurance level. The log contains the reason for the denial, but
// no token.
func TestSecondFactorThroughEnvoy(t *testing.T) {
	t.Parallel()
	issuer := supabase.Start()
	defer issuer.Close()
	log := &syncbuffer.Buffer{}
	s := harness.StartStack(t, demo.Config{Environ: append(issuer.Environ(), "KEYWICKET_APIS_VELOCITY_SESSION_REQUIRE_AAL2=enrolled", harness.ShortStaleness), Log: log})
	user := harness.Keywicket[registry.User](t, s, "user", "create", "--email", "ada@example.com")
	client := harness.NewClient(t, s, 1)
	db := harness.OpenDatabase(t, s)
	profile := func(change supabase.Fields) harness.Request {
		return harness.NewRequest("velocity", "GET /api/user", issuer.Token(user.ID, change), "")
	}
	one, two, none := supabase.Fields{"aal": "aal1"}, supabase.Fields{"aal": "aal2"}, supabase.Fields{"aal": nil}
	for wantLevel, claims := range map[string]supabase.Fields{"aal1": one, "aal2": two, "": none} {
		a := client.Send(t, profile(claims))
		if got := strings.Join(a.Echo.Headers["x-keywicket-aal"], "|"); a.Outcome != "allow" || got != wantLevel {
			t.Errorf("%q: %s, and the upstream sees %q", wantLevel, a.Outcome, got)
		}
	}
	db.MustExec(`UPDATE keywicket.users SET mfa_enrolled = true`)
	for _, change := range []supabase.Fields{one, none} {
		harness.Await(t, "a second factor is needed", func() bool { return client.Send(t, profile(change)).Outcome == "UNAUTHORIZED second_factor_required" })
		challenge := client.Send(t, profile(change)).Header.Get("WWW-Authenticate")
		if !strings.Contains(challenge, `error="insufficient_user_authentication"`) || !strings.Contains(challenge, `acr_values="aal2"`) {
			t.Errorf("the challenge is %s", challenge)
		}
	}
	client.Expect(t, profile(two), "allow")
	db.MustExec(`UPDATE keywicket.users SET banned_until = 'infinity'`)
	harness.Await(t, "the user is banned", func() bool { return client.Send(t, profile(two)).Outcome == "UNAUTHORIZED revoked" })

	tokens := []string{
		supabase.Sign(jose.HS512, []byte(issuer.Secret+issuer.Secret), "", supabase.Claims(user.ID, nil)),
		issuer.Token(user.ID, supabase.Fields{"client_id": "planner"}), issuer.Token(user.ID, supabase.Fields{"iss": nil}),
	}
	for _, token := range tokens {
		client.Send(t, harness.NewRequest("velocity", "GET /api/user", token, ""))
	}
	for _, want := range []string{"algorithm is HS512; the API accepts HS256, ES256, RS256", "session.client_ids", "set GOTRUE_JWT_ISSUER"} {
		harness.Await(t, "the log has "+want, func() bool { return strings.Contains(log.String(), want) })
	}
	for _, token := range tokens {
		if strings.Contains(log.String(), token) || strings.Contains(log.String(), strings.Split(token, ".")[1]) {
			t.Error("the log has a token")
		}
	}
}

// A check from Envoy without an API means that Envoy's configuration is wrong. The log says which setting corrects this error.
func TestLogShowsHowToSelectAnAPI(t *testing.T) {
	t.Parallel()
	log := &syncbuffer.Buffer{}
	s := harness.StartStack(t, demo.Config{Log: log, EnvoyConfig: func(config []byte) []byte {
		return harness.Replace(t, config, "context_extensions: {api: velaflows}", "context_extensions: {}", 1)
	}})
	client := harness.NewClient(t, s, 1)
	if a := client.Send(t, harness.NewRequest("velaflows", harness.Conversations, "", "")); a.Status != http.StatusServiceUnavailable || a.Outcome != harness.Unavailable {
		t.Errorf("%d %s", a.Status, a.Outcome)
	}
	harness.Await(t, "the log contains the setting", func() bool { return strings.Contains(log.String(), "set default_api to one of velaflows, velocity") })
}
