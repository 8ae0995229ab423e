package threats

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/rego"
	"github.com/keywicket/keywicket/test/wire"
)

// Row 28 of docs/security.md: an operator disables the check for one route of Envoy.
func TestRouteWithoutACheck(t *testing.T) {
	t.Parallel()
	disableCheck := func(match string) func([]byte) []byte {
		return func(config []byte) []byte {
			const whole = "- match: {prefix: /}\n"
			unchecked := "- {match: {" + match + ": /public}, route: {cluster: upstream_live}, typed_per_filter_config: {" +
				`envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}}`
			return harness.Replace(t, config, whole, unchecked+"\n"+strings.Repeat(" ", 24)+whole, 2)
		}
	}
	for match, want := range map[string]map[string]string{
		"path_separated_prefix": {
			"/public": "allow", "/public/x": "allow", "/public-admin": wire.Missing, "/publican": wire.Missing,
			"/public/../api/v1/admin": wire.Missing, "/public/%2e%2e/api/v1/admin": wire.Missing, "/public%2f..%2fadmin": wire.Refused,
		},
		// A route that matches by prefix is a mistake: the requests for /public-admin and /publican then pass unchecked.
		"prefix": {"/public": "allow", "/public-admin": "allow", "/publican": "allow", "/public/../api/v1/admin": wire.Missing},
	} {
		s := harness.StartStack(t, demo.Config{EnvoyConfig: disableCheck(match)})
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
			for target, want := range want {
				c := wire.Protocols[protocol](t, s, "velaflows")
				if got := c.Send(t, wire.Request{Target: target}).Outcome; got != want {
					t.Errorf("%s, %s, %s: %s, not %s", match, protocol, target, got, want)
				}
				_ = c.Close()
			}
		}
	}
}

// Rows 25 and 33 of docs/security.md: a policy fails for some paths. For each such path, the client gets the sidecar's own 503.
// Other requests are not affected.
func TestPolicyThatFails(t *testing.T) {
	t.Parallel()
	dir := rego.CopyBuiltin(t)
	file := filepath.Join(dir, "keywicket", "decision.rego")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	module := harness.Replace(t, text, "decision := allowed if {\n", `decision := {"allow": true} if {
	input.request.path == "/incomplete"
} else := to_number("x") if {
	input.request.path == "/error"
} else := count([x | some x in numbers.range(1, 3000); some y in numbers.range(1, 3000); x == y + 3000]) if {
	input.request.path == "/slow"
} else := allowed if {
`, 1)
	module = harness.Replace(t, module, `else := denied("FORBIDDEN", "no_route")`, `else := denied("FORBIDDEN", "no_route") if {
	input.request.path != "/undefined"
}`, 1)
	if err := os.WriteFile(file, append(module, `
decision := denied("FORBIDDEN", "missing_scope") if input.request.path == "/conflict"
`...), 0o600); err != nil {
		t.Fatal(err)
	}
	s := harness.StartStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir, "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}})
	home := harness.CreateWorkspace(t, s)
	key := harness.IssueToken(t, s, "sk_live_", home.ID, "admin:all")
	header := [][2]string{{"Authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}
	for name, open := range wire.Protocols {
		c := open(t, s, "velaflows")
		for _, target := range []string{"/undefined", "/incomplete", "/error", "/slow", "/conflict"} {
			before := s.Live.Count()
			got := c.Send(t, wire.Request{Target: target, Header: header})
			if got.Outcome != "503 UNAVAILABLE unavailable" || s.Live.Count() != before {
				t.Errorf("%s, %s: %s, and %d requests reached the upstream", name, target, got.Outcome, s.Live.Count()-before)
			}
			if name != "direct" && target != "/slow" && !bytes.Contains(got.Body, []byte(`"decision_id"`)) { // Envoy's own 503 has no decision_id. For /slow, Envoy may answer before the sidecar does
				t.Errorf("%s, %s: the response is not the sidecar's: %s", name, target, got.Body)
			}
			harness.Await(t, "another request is allowed", func() bool {
				return c.Send(t, wire.Request{Target: "/api/v1/tags", Header: header}).Outcome == "allow"
			})
		}
		_ = c.Close()
	}
}
