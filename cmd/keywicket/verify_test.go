package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/test/supabase"
)

// verifyFixture contains apps and their access tokens, which only the issuer creates, and changes of users. The digest of a token is
// the digest of velo_ID_0123456789.
const verifyFixture = `
UPDATE keywicket.users SET mfa_enrolled = true WHERE id = 'mel';
UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = 'eve';
INSERT INTO keywicket.oauth_apps (id, api, name, redirect_uris, secret_digest, confidential, revoked_at) VALUES
	('planner', 'velocity', 'Planner', '{https://planner.example/cb}', sha256('1'), false, NULL),
	('gone', 'velocity', 'Gone', '{https://gone.example/cb}', sha256('2'), false, now()),
	('other', 'velaflows', 'Other', '{https://other.example/cb}', sha256('3'), false, NULL);
INSERT INTO keywicket.oauth_grants (id, app_id, user_id, scopes, revoked_at) VALUES
	('planned', 'planner', 'ada', '{issues:read}', NULL), ('withdrawn', 'planner', 'ada', '{issues:read}', now()),
	('ended', 'planner', 'ada', '{issues:read}', 'infinity'), ('gone', 'gone', 'ada', '{issues:read}', NULL),
	('banned', 'planner', 'eve', '{issues:read}', NULL), ('other', 'other', 'ada', '{issues:read}', NULL);
INSERT INTO keywicket.oauth_access_tokens (id, digest, grant_id, scopes, expires_at, revoked_at)
SELECT id, sha256(convert_to('velo_' || id || '_0123456789', 'UTF8')), grant_id, '{issues:read}', expires_at, revoked_at FROM (VALUES
	('active', 'planned', 'infinity', NULL), ('expired', 'planned', now(), NULL), ('revoked', 'planned', 'infinity', now()),
	('withdrawn', 'withdrawn', 'infinity', NULL), ('ended', 'ended', now(), NULL), ('of_gone', 'gone', 'infinity', NULL),
	('of_banned', 'banned', 'infinity', NULL), ('of_other', 'other', 'infinity', NULL)) AS t (id, grant_id, expires_at, revoked_at);
INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
SELECT 'velocity', 'workspace_key', 'live', 'velo_', sha256('velo_another_0123456789'), 'n', '{issues:read}', id FROM keywicket.workspaces;
INSERT INTO keywicket.oauth_access_tokens (digest, grant_id, scopes, expires_at)
VALUES (sha256('vel_access_0123456789'), 'planned', '{issues:read}', 'infinity')`

// `token verify` gives the same reason as a sidecar with the same configuration, and no reason if the sidecar accepts the token.
func TestTokenVerifyAgreesWithTheSidecar(t *testing.T) {
	url, err := newDatabase(migratedTemplate)
	if err != nil {
		t.Fatal(err)
	}
	runCommand(t, url, "workspace", "create", "--slug", "acme", "--name", "Acme")
	for _, user := range []string{"ada", "eve", "mel", "out"} {
		runCommand(t, url, "user", "create", "--id", user, "--email", user+"@example.com")
	}
	create := func(args ...string) string {
		return runCommand(t, url, append([]string{"token", "create", "--name", "n"}, args...)...)["token"].(string)
	}
	tokens := map[string]string{
		"good":                 create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
		"good, of a user":      create("--prefix", "velu_", "--user", "ada", "--scope", "issues:read"),
		"without any scope":    create("--prefix", "vel_", "--workspace", "acme", "--scope", "issues:write"),
		"good, until infinity": create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
		"revoked at infinity":  create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
		"revoked":              create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
		"expired":              create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
		"revoked and expired":  create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
		"of a banned user":     create("--prefix", "velu_", "--user", "eve", "--scope", "issues:read"),
		"unknown":              "vel_0123456789abcdefghijklmnopqrstuvwxyz",
		"of another kind":      create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
		"of a removed API":     create("--prefix", "vel_", "--workspace", "acme", "--access", "read"),
	}
	db, err := database.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for name, statement := range map[string]string{
		"good, until infinity": `UPDATE keywicket.tokens SET expires_at = 'infinity' WHERE digest = sha256($1)`,
		"revoked at infinity":  `UPDATE keywicket.tokens SET revoked_at = 'infinity', expires_at = '12000-01-01Z' WHERE digest = sha256($1)`,
		"revoked":              `UPDATE keywicket.tokens SET revoked_at = now() WHERE digest = sha256($1)`,
		"expired":              `UPDATE keywicket.tokens SET expires_at = now() WHERE digest = sha256($1)`,
		"revoked and expired":  `UPDATE keywicket.tokens SET expires_at = now(), revoked_at = now() WHERE digest = sha256($1)`,
		"of another kind":      `UPDATE keywicket.tokens SET kind = 'workspace_token' WHERE digest = sha256($1)`,
		"of a removed API":     `UPDATE keywicket.tokens SET api = 'removed' WHERE digest = sha256($1)`,
	} {
		if result, err := db.ExecContext(t.Context(), statement, []byte(tokens[name])); err != nil {
			t.Fatal(err)
		} else if n, err := result.RowsAffected(); n != 1 {
			t.Fatalf("%s: %d rows, %v", name, n, err)
		}
	}
	if _, err := db.ExecContext(t.Context(), verifyFixture); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]string{
		"good, of an app": "active", "expired, of an app": "expired", "revoked, of an app": "revoked", "revoked: the grant": "withdrawn",
		"revoked: the grant at infinity": "ended", "revoked: the app": "of_gone", "revoked: the app's user is banned": "of_banned",
		"unknown: an app of another API": "of_other", "unknown, of an app": "no_such",
	} {
		tokens[name] = "velo_" + id + "_0123456789"
	}
	tokens["unknown: a key with the prefix of access tokens"] = "velo_another_0123456789"
	tokens["unknown: an access token with the prefix of keys"] = "vel_access_0123456789"
	issuer := supabase.Start()
	defer issuer.Close()
	runCommand(t, url, "session", "revoke", "signed-out")
	runCommand(t, url, "session", "revoke", "--user", "out")
	fields := func(name string, value any) supabase.Fields { return supabase.Fields{name: value} }
	past := time.Now().Add(-time.Hour).Unix()
	for name, token := range map[string]string{
		"good session":                    issuer.Token("ada", nil),
		"good session without aal":        issuer.Token("ada", fields("aal", nil)),
		"good session with a secret":      supabase.Sign(jose.HS256, []byte(issuer.Secret), "", supabase.Claims("ada", nil)),
		"good session with two factors":   issuer.Token("mel", fields("aal", "aal2")),
		"session without second factor":   issuer.Token("mel", nil),
		"expired session":                 issuer.Token("ada", fields("exp", past)),
		"revoked session":                 issuer.Token("ada", fields("session_id", "signed-out")),
		"revoked: all sessions of a user": issuer.Token("out", nil),
		"revoked: a banned user":          issuer.Token("eve", nil),
		"unknown user":                    issuer.Token("nobody", nil),
		"unknown user, an email":          issuer.Token("ada@example.com", nil),
		"unknown audience":                issuer.Token("ada", fields("aud", "other")),
		"unknown issuer":                  issuer.Token("ada", fields("iss", "https://other.example")),
		"unknown: not valid yet":          issuer.Token("ada", fields("nbf", time.Now().Add(time.Hour).Unix())),
		"unknown: a forged signature":     supabase.Sign(jose.ES256, supabase.NewEC(), "ec", supabase.Claims("ada", nil)),
		"unknown: another key":            supabase.Sign(jose.ES256, supabase.NewEC(), "other", supabase.Claims("ada", nil)),
		"session with another algorithm":  supabase.Sign(jose.RS512, issuer.RSA, "rsa", supabase.Claims("ada", nil)),
		"session of an app":               issuer.Token("ada", fields("client_id", "app")),
		"unknown: an anonymous session":   issuer.Token("ada", fields("is_anonymous", true)),
		"malformed session":               issuer.Token("ada", fields("session_id", nil)),
		"malformed":                       "a.b.c",
	} {
		tokens[name] = token
	}

	environ := append(issuer.Environ(), "KEYWICKET_DATABASE_URL="+url, "KEYWICKET_APIS_VELOCITY_SESSION_REQUIRE_AAL2=enrolled")
	s := startSidecar(t, environ...)
	s.awaitHealth(t, healthv1.HealthCheckResponse_SERVING)
	for name, token := range tokens {
		t.Run(name, func(t *testing.T) {
			answer := s.check(t, "velocity", "/api/issues", map[string]string{"authorization": "Bearer " + token, "x-workspace-slug": "acme"})
			metadata := answer.GetDynamicMetadata().GetFields()
			want := ""
			if metadata["code"].GetStringValue() == "UNAUTHORIZED" {
				want = metadata["reason"].GetStringValue()
			}
			setStdin(t, token+"\n")
			var stdout, stderr bytes.Buffer
			status := run(t.Context(), []string{"token", "verify", "--output", "json"}, environ, &stdout, &stderr)
			var got struct {
				Good                bool
				Reason, Explanation string
			}
			if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
				t.Fatalf("%v: %s%s", err, &stdout, &stderr)
			}
			if got.Reason != want || got.Good != (want == "") || got.Good != (status == 0) {
				t.Errorf("exit status %d, %+v; the sidecar says %q", status, got, want)
			}
			if first := strings.Trim(strings.Fields(name)[0], ",:"); first == "good" && want != "" ||
				slices.Contains([]string{"revoked", "expired", "unknown", "malformed"}, first) && want != first || first == "session" && want == "" {
				t.Errorf("the sidecar says %q", want)
			}
			if got.Good != (got.Explanation == "") {
				t.Errorf("the explanation is %q", got.Explanation)
			}
			output := stdout.String() + stderr.String()
			for i := 5; i+10 <= len(token); i++ {
				if strings.Contains(output, token[i:i+10]) {
					t.Fatalf("the output contains a part of the token: %s", output)
				}
			}
		})
	}
}
