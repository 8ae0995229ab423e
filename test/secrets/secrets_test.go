// Package secrets searches for secrets in everything that a deployment shows: row 36 of docs/security.md.
package secrets

import (
	"crypto/rand"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/supabase"
)

// Row 36 of docs/security.md: no output of a deployment contains a secret.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	issuer, urlPassword := supabase.Start(), rand.Text() // urlPassword is the password and the API key in the JWKS URL
	defer issuer.Close()
	s := newLeakStack(t, demo.Config{
		Environ: append(issuer.Environ(), "KEYWICKET_LOG_LEVEL=debug", "KEYWICKET_LOG_ALLOW_SAMPLE=1",
			"KEYWICKET_APIS_VELOCITY_SESSION_JWKS_URL="+strings.Replace(issuer.URL, "//", "//keywicket:"+urlPassword+"@", 1)+"?apikey="+urlPassword),
		// These settings log every statement without its parameters. The parameters of keywicket's statements can contain
		// secrets, but the SQL itself never contains a secret.
		PostgresSettings: map[string]string{
			"log_min_duration_statement": "0", "log_parameter_max_length": "0", "log_parameter_max_length_on_error": "0",
		},
	})
	// One statement is an exception: the demo creates a login with a password in the SQL. So the search begins after this
	// statement.
	login := regexp.MustCompile(`PASSWORD '(\w+)'.*\n`).FindStringSubmatch(s.log.String())
	admin := regexp.MustCompile(`:(\w+)@([^/]+)/`).FindStringSubmatch(s.DatabaseURL())
	if login == nil || admin == nil {
		t.Fatal("the passwords of the database are not in the log or the URL")
	}
	s.secrets.add("a password", admin[1], login[1], urlPassword)
	s.secrets.add("an issuer's secret", append(encodings([]byte(issuer.Secret)), issuer.Secret)...)

	home, other := harness.CreateWorkspace(t, s.Stack), harness.CreateWorkspace(t, s.Stack)
	s.run(t, true, "", "user", "create", "--id", "ada", "--email", "ada@example.com")
	s.run(t, true, "", "member", "set", "--workspace", home.Slug, "--user", "ada@example.com", "--role", "member")
	live := s.create(t, "sk_live_", "--workspace", home.Slug, "--scope", "inbox:read")
	sandbox := s.create(t, "sk_test_", "--workspace", home.Slug, "--scope", "inbox:read")
	expired := s.create(t, "sk_live_", "--workspace", home.ID, "--scope", "inbox:read", "--expires-in", "1ms")
	gone := s.create(t, "sk_live_", "--workspace", home.ID, "--scope", "inbox:read")
	vel := s.create(t, "vel_", "--workspace", home.ID, "--access", "read")
	velu := s.create(t, "velu_", "--user", "ada@example.com", "--scope", "user:read,issues:read")
	replacements := []string{"SECRET", live.Token, "LIVE", live.ID, "GONE_TOKEN", gone.Token, "GONE", gone.ID, "HOME", home.Slug, "PASSWORD", urlPassword, "ADDRESS", admin[2]}
	existing := map[string]string{} // keys that a product issued before it used keywicket
	_, format := product.FormatOf("sk_live_")
	for _, name := range []string{"FIRST", "SECOND", "THIRD", "FOURTH", "FIFTH", "RACED", "BAD", "UNKNOWN"} {
		key := authz.Secret("sk_live_" + rand.Text())
		existing[name] = key.Reveal()
		s.secrets.addToken(key.Reveal(), format.Visible(key))
		replacements = append(replacements, name, key.Reveal(), "VISIBLE_"+name, format.Visible(key), "DIGEST_"+name, fmt.Sprintf("%x", key.Digest()))
	}
	session := func(change supabase.Fields) string {
		token := issuer.Token("ada", change)
		s.secrets.addToken(token, "")
		return token
	}
	web, signedOut := session(nil), session(supabase.Fields{"session_id": "over"})
	forged := web[:len(web)-12] + strings.Repeat("A", 12)
	stranger := supabase.Sign(jose.ES256, issuer.EC, "nobody's", supabase.Claims("ada", nil))
	s.secrets.addToken(stranger, "")
	s.run(t, true, "", "session", "revoke", "over")
	s.placeholders = strings.NewReplacer(append(replacements, "JWT", web)...)
	s.runOperatorCommands(t)
	s.verifySessions(t, issuer, map[string]bool{web: true, signedOut: false, forged: false, stranger: false, session(supabase.Fields{"exp": 1}): false})
	s.importDuringInsert(t, existing["RACED"])

	conversations := func(token string, more ...[2]string) harness.Request {
		return harness.NewRequest("velaflows", harness.Conversations, token, home.ID, more...)
	}
	withAuthorization := func(authorization string) harness.Request {
		return conversations("", [2]string{"Authorization", authorization})
	}
	var misplaced [][2]string
	for _, name := range []string{
		"Cookie", "X-Api-Key", "Proxy-Authorization", "User-Agent", "Referer", "X-Request-Id", "X-Forwarded-For", "Traceparent",
	} {
		misplaced = append(misplaced, [2]string{name, live.Token})
	}
	const token = "?access_token="
	for outcome, requests := range map[string][]harness.Request{
		"allow": {
			conversations(live.Token), conversations(sandbox.Token), conversations(existing["FIRST"]), conversations(existing["SECOND"]), conversations(existing["FOURTH"]), conversations(existing["FIFTH"]),
			harness.NewRequest("velocity", "GET /api/issues", vel.Token, ""), harness.NewRequest("velocity", "GET /api/issues", velu.Token, home.Slug),
			harness.NewRequest("velocity", "GET /api/user", velu.Token, ""), harness.NewRequest("velaflows", "GET /healthz", live.Token, home.ID),
			harness.NewRequest("velocity", "GET /api/user", web, ""), harness.NewRequest("velocity", "GET /api/issues", web, home.Slug),
			conversations(live.Token, misplaced...), harness.NewRequest("velaflows", harness.Conversations+token+live.Token, live.Token, home.ID),
		},
		"UNAUTHORIZED missing": {
			conversations(""), withAuthorization(live.Token), withAuthorization("Basic " + live.Token), withAuthorization("Token " + live.Token), conversations("", misplaced...),
			harness.NewRequest("velaflows", harness.Conversations+token+live.Token, "", home.ID),
		},
		"UNAUTHORIZED malformed": {
			conversations(live.Token[:20]), conversations(live.Token + "," + vel.Token), conversations(strings.Repeat(live.Token, 20)),
			conversations(live.Token, [2]string{"Authorization", "Bearer " + vel.Token}),
		},
		"UNAUTHORIZED unknown": {
			harness.NewRequest("velocity", "GET /api/user", forged, ""), harness.NewRequest("velocity", "GET /api/user", stranger, ""), conversations(web), conversations(existing["UNKNOWN"]), conversations(live.Token[:40]), conversations(live.Token + "x"), conversations(vel.Token),
		},
		"UNAUTHORIZED expired":                       {conversations(expired.Token), harness.NewRequest("velocity", "GET /api/user", session(supabase.Fields{"exp": 1}), "")},
		"UNAUTHORIZED revoked":                       {conversations(gone.Token), conversations(existing["THIRD"]), harness.NewRequest("velocity", "GET /api/user", signedOut, "")},
		"WORKSPACE_ACCESS_DENIED workspace_required": {harness.NewRequest("velaflows", harness.Conversations, live.Token, "")},
		"WORKSPACE_ACCESS_DENIED workspace_mismatch": {
			harness.NewRequest("velaflows", harness.Conversations, live.Token, other.ID), harness.NewRequest("velaflows", harness.Conversations, live.Token, live.Token),
			harness.NewRequest("velocity", "GET /api/issues", vel.Token, vel.Token),
		},
		"FORBIDDEN missing_scope":     {harness.NewRequest("velaflows", "DELETE /api/v1/crm/leads/7", live.Token, home.ID)},
		"FORBIDDEN no_route":          {harness.NewRequest("velaflows", "GET /api/v1/"+live.Token, live.Token, home.ID)},
		"BAD_REQUEST bad_request":     {harness.NewRequest("velaflows", "GET /a%2f"+live.Token+token+live.Token, live.Token, home.ID)},
		"HEADERS_TOO_LARGE too_large": {conversations(strings.Repeat(live.Token, 1600))},
	} {
		for _, r := range requests {
			s.send(t, r, outcome)
		}
	}
	s.checkDirectly(t, live.Token, home.ID)
	issuer.CloseClientConnections()
	issuer.Close()
	cold := product.NewKey("sk_live_") // not cached, so its look-up needs the database
	s.secrets.addToken(cold, cold[:len("sk_live_")])
	s.causeFailures(t, conversations(cold))
	if err := s.Close(); err != nil { // completes the logs
		t.Fatal(err)
	}

	// The search ignores the path in each log line, because a path is the client's own text. It does not ignore the query.
	_, log, _ := strings.Cut(regexp.MustCompile(`"path":"[^"?]*`).ReplaceAllString(s.log.String(), ""), login[0])
	s.record("the logs", log)
	for _, what := range slices.Sorted(maps.Keys(s.outputs)) {
		for _, found := range s.secrets.find(strings.Join(s.outputs[what], "\n")) {
			t.Errorf("%s contain %s", what, found)
		}
	}

	// Check the test itself. The recorded texts must contain these lines. The search must find the new token in the output of
	// each command that shows a token.
	decision := regexp.MustCompile(`"msg":"decision","decision_id":"(\w+)".*"route":"GET /api/user","allow":true`).FindStringSubmatch(log)
	if decision == nil {
		t.Fatal("the logs have no line of the sidecar")
	}
	evidence := log + strings.Join(slices.Concat(s.outputs["/metrics"], s.outputs["/stats"]), "")
	for whose, line := range map[string]string{
		"Envoy":                 `"decision_id":"` + decision[1] + `","details":"via_upstream"`,
		"Postgres":              `duration: .* execute .*\n\s*SELECT .*pg_postmaster_start_time`,
		"a failed look-up":      `"msg":"decision".*"error":"look up the credential: `,
		"a forged key id":       `"msg":"decision".*"route":"GET /api/user".*"reason":"unknown"`,
		"the sidecar's end":     `the usage of \d+ tokens is lost`,
		"the sidecar's metrics": `keywicket_checks_total\{.*reason="revoked"\}`,
		"Envoy's statistics":    `ext_authz\.denied: [1-9]`,
	} {
		if !regexp.MustCompile(line).MatchString(evidence) {
			t.Errorf("no line of %s was recorded", whose)
		}
	}
	for _, out := range s.tokenOutputs {
		if len(s.secrets.find(out)) != 1 {
			t.Errorf("the search does not find the token in %s", out)
		}
	}
	checkThatLeaksAreFound(t)
}

// checkThatLeaksAreFound starts a stack that shows secrets in its outputs. It checks that the search finds these secrets.
func checkThatLeaksAreFound(t *testing.T) {
	t.Helper()
	s := newLeakStack(t, demo.Config{
		Environ:          []string{"KEYWICKET_FORWARD_CREDENTIAL=true"},
		PostgresSettings: map[string]string{"log_min_duration_statement": "0"},
		EnvoyConfig: func(envoy []byte) []byte {
			return harness.Replace(t, envoy, "%REQ(:METHOD)%", "%REQ(AUTHORIZATION)%", 1)
		},
	})
	home := harness.CreateWorkspace(t, s.Stack)
	key := s.create(t, "sk_live_", "--workspace", home.ID, "--scope", "inbox:read")
	s.send(t, harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID), "allow")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	found := strings.Join(s.secrets.find(s.log.String()+strings.Join(s.outputs["headers at the upstream"], "\n")), "")
	for what, leak := range map[string]string{
		"Envoy's log":    `the token sk_live_.*"method":"Bearer`,
		"Postgres's log": `a digest: .*DETAIL: .*arameters: `,
		"the upstream":   `the token sk_live_.*authorization:\[Bearer `,
	} {
		if !regexp.MustCompile(leak).MatchString(found) {
			t.Errorf("the search misses a secret in %s; it finds %s", what, found)
		}
	}
}
