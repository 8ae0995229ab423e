package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywicket/keywicket/store/database"
)

// `token verify` gives the same reason as a sidecar with the same configuration, and no reason if the sidecar accepts the token.
func TestTokenVerifyAgreesWithTheSidecar(t *testing.T) {
	url, err := newDatabase(migratedTemplate)
	if err != nil {
		t.Fatal(err)
	}
	runCommand(t, url, "workspace", "create", "--slug", "acme", "--name", "Acme")
	for _, user := range []string{"ada", "eve"} {
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
	if _, err := db.ExecContext(t.Context(), `UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = 'eve'`); err != nil {
		t.Fatal(err)
	}

	s := startSidecar(t, "KEYWICKET_DATABASE_URL="+url)
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
			status := run(t.Context(), []string{"token", "verify", "--output", "json", "--database-url", url}, nil, &stdout, &stderr)
			var got struct {
				Good   bool
				Reason string
			}
			if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
				t.Fatalf("%v: %s%s", err, &stdout, &stderr)
			}
			if got.Reason != want || got.Good != (want == "") || got.Good != (status == 0) {
				t.Errorf("exit status %d, %+v; the sidecar says %q", status, got, want)
			}
			if strings.HasPrefix(name, "good") && want != "" || strings.HasPrefix(name, "revoked") && want != "revoked" || name == "expired" && want != "expired" {
				t.Errorf("the sidecar says %q", want)
			}
			if output := stdout.String() + stderr.String(); strings.Contains(output, token[5:13]) {
				t.Errorf("the output contains a part of the token: %s", output)
			}
		})
	}
}
