package threats

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/wire"
)

// The test sends every threat over every protocol. A denied request does not reach an upstream. The next valid request reaches
// the upstream, on the same connection, or on a new connection if Envoy has closed the first.
func TestThreats(t *testing.T) {
	home, other := harness.CreateWorkspace(t, deployment.Stack), harness.CreateWorkspace(t, deployment.Stack)
	token := func(scope string) string {
		_, secret := deployment.CreateToken(t, "sk_live_", registry.NewToken{Name: t.Name(), Scopes: []string{scope}, Workspace: home.ID})
		return secret
	}
	h := Inputs{token("inbox:read"), token("contacts:read"), token("admin:all"), home.ID, other.ID}
	good := wire.Request{Target: "/api/v1/inbox/conversations", Header: [][2]string{{"Authorization", "Bearer " + h.Inbox}, {"x-workspace-id", h.Home}}}
	for protocol := range wire.Protocols {
		t.Run(protocol, func(t *testing.T) {
			c := &wire.Client{Stack: deployment.Stack, Protocol: protocol, API: "velaflows"}
			defer c.Close()
			for _, threat := range h.Threats() {
				want := threat.Outcome(protocol)
				if want == "-" {
					continue
				}
				c.Expect(t, threat.String(), threat.Request, want).CheckUpstream(t, threat.String(), threat.Received)
				c.Expect(t, "after "+threat.String(), good, "allow").CheckUpstream(t, threat.String(), nil)
			}
		})
	}
}

// Row 35 of docs/security.md: checks that wait for the database do not delay other checks in Envoy, because the sidecar accepts as
// many concurrent checks as Envoy sends.
func TestSidecarAcceptsWhatEnvoySends(t *testing.T) {
	c := wire.DialHTTP2(t, deployment.Stack.Sidecar.GRPC)
	defer func() { _ = c.Close() }()
	c.Send(t, wire.Request{Method: "POST", Target: "/grpc.health.v1.Health/Check", Header: [][2]string{{"content-type", "application/grpc"}}, Body: "\x00\x00\x00\x00\x00"})
	if c.Limit != 0 && c.Limit < 1024 { // max_requests in deploy/envoy
		t.Errorf("the sidecar accepts only %d concurrent streams", c.Limit)
	}
}

// docs/security.md must list the same results that the tests above require.
func TestThreatsAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	type results struct {
		envoy, direct    string
		needsAllHeaders  bool // the protection needs all headers in the check
		needsDeployEnvoy bool // the protection needs the Envoy configuration of deploy/envoy
	}
	tested := map[string]results{}
	result := regexp.MustCompile(`\b[2345]\d\d\b|\bgrpc-status \d+\b|\b(?:closed|reset)\b`)
	names := strings.NewReplacer("allow", "200", "grpc ", "grpc-status ")
	all := func(text string) string {
		found := result.FindAllString(names.Replace(text), -1)
		slices.Sort(found)
		return strings.Join(slices.Compact(found), " ")
	}
	for _, h := range (Inputs{Home: strings.Repeat("a", 24), Inbox: "sk_live_"}).Threats() {
		row := strconv.Itoa(h.row)
		r := tested[row]
		r.envoy += " " + h.envoy + " " + h.Outcome("HTTP/1.1") + " " + h.Outcome("HTTP/2")
		r.direct += " " + h.Outcome("direct")
		r.needsAllHeaders = r.needsAllHeaders || h.ReceivedWithoutAllHeaders != nil
		// Row 38 needs deploy/envoy too: TestMeshRouteByEnvironment tests it.
		r.needsDeployEnvoy = r.needsDeployEnvoy || h.onlyMeshServes() || h.row == 38
		tested[row] = r
	}
	rows := 0
	for _, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 8 || !regexp.MustCompile(`^ \d+ $`).MatchString(cells[1]) {
			continue
		}
		rows++
		row, condition := strings.TrimSpace(cells[1]), cells[5]
		if !strings.Contains(condition, "any Envoy") && !strings.Contains(condition, "deploy/envoy") {
			t.Errorf("row %s has the condition %q", row, condition)
		}
		if !strings.Contains(cells[6], "TestThreats") {
			continue
		}
		r := tested[row]
		if got, want := all(cells[3]), all(r.envoy); got != want {
			t.Errorf("row %s, through Envoy: docs/security.md lists %s, the tests require %s", row, got, want)
		}
		if got, want := all(cells[4]), all(r.direct); got != want {
			t.Errorf("row %s, direct: docs/security.md lists %s, the tests require %s", row, got, want)
		}
		if !strings.Contains(condition, "any Envoy") || strings.Contains(condition, "deploy/envoy") != (r.needsDeployEnvoy || r.needsAllHeaders) ||
			strings.Contains(condition, "every header") != r.needsAllHeaders {
			t.Errorf("row %s has the condition %q; the tests require %+v", row, condition, r)
		}
		delete(tested, row)
	}
	if rows < 35 {
		t.Errorf("the table has only %d rows", rows)
	}
	for row := range tested {
		t.Errorf("row %s has tests, but is not in docs/security.md", row)
	}
}
