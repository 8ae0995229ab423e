// Package paths tests that Envoy, the sidecar and upstreams see one path, however a client spells it.
package paths

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/envoyproxy"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/rego"
	"github.com/keywicket/keywicket/test/wire"
)

// The other files of this test are table_test.go (the table of routes), judge_test.go (the correct outcomes) and
// spelling_test.go (the spellings).

// decodedStack is a stack with two upstreams. Each upstream decodes paths as its language does. Live tokens are routed to
// Go's net/http, sandbox tokens to Python's http.server.
type decodedStack struct {
	*demo.Stack
	envoyConfig    []byte
	golang         *goUpstream
	python         *pythonUpstream
	headers        map[string][2][][2]string // API and scope → the headers of a request to Go and of a request to Python
	directOutcomes map[string]string         // API, scope and target → outcome of a check that the test sends to the sidecar's gRPC port, without Envoy
}

// startDecodedStack starts a stack with a configuration from newTestPolicy. The caller may have changed the policy folder
// before.
func startDecodedStack(t *testing.T, config string) *decodedStack {
	t.Helper()
	s := &decodedStack{
		golang: startGoUpstream(t), python: startPythonUpstream(t, ""),
		headers: make(map[string][2][][2]string), directOutcomes: make(map[string]string),
	}
	s.Stack = harness.StartStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config, "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}, // for slow machines
		EnvoyConfig: func(envoy []byte) []byte {
			// This edit shortens a wait, as in newUncheckedStack. Without it, Envoy waits for a second before it closes an
			// HTTP/2 connection with a refused request. The replaced setting has no effect in this test.
			s.envoyConfig = harness.Replace(t, envoy, "stream_idle_timeout: 60s", "delayed_close_timeout: 0.001s", 2)
			return s.envoyConfig
		},
	})
	home := harness.CreateWorkspace(t, s.Stack)
	for name, api := range testAPIs {
		for _, scope := range testScopes {
			var headers [2][][2]string
			for i, environment := range []string{"live_", "sandbox_"} {
				key := harness.IssueToken(t, s.Stack, api.prefix+environment, home.Slug, scope, "--config", config)
				headers[i] = [][2]string{{"authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}
			}
			s.headers[name+" "+scope] = headers
		}
	}
	return s
}

// newTestPolicy creates a policy folder for testAPIs, and a configuration file that uses this folder.
func newTestPolicy(t *testing.T) (dir, config string) {
	t.Helper()
	dir, config = rego.CopyBuiltin(t), filepath.Join(t.TempDir(), "keywicket.yaml")
	var table, configuration strings.Builder
	table.WriteString("scopes: {workspace: {inbox:read: Read, admin:all: Everything}}\n")
	table.WriteString("overrides: {workspace: [admin:all]}\nroutes:\n")
	for _, r := range testRows {
		needs := "scopes: [" + r.scope + "]"
		if r.scope == "" {
			needs = "public: true"
		}
		fmt.Fprintf(&table, "  - {method: GET, path: %q, %s}\n", r.path, needs)
	}
	fmt.Fprintf(&configuration, "policies: {dir: %q}\napis:\n", dir)
	for _, name := range slices.Sorted(maps.Keys(testAPIs)) {
		api := testAPIs[name]
		harness.AppendFile(t, filepath.Join(dir, "apis", name, "data.yaml"), api.parameters+table.String())
		fmt.Fprintf(&configuration, "  %s:\n    workspace: {header: x-workspace-id, by: id}\n    credentials:\n", name)
		for _, environment := range []string{"live", "sandbox"} {
			fmt.Fprintf(&configuration, "      - {kind: workspace_token, prefix: %s%s_, environment: %[2]s}\n", api.prefix, environment)
		}
	}
	harness.AppendFile(t, config, configuration.String())
	return dir, config
}

// serve restarts Envoy with a listener for one API, the Go upstream, and this Python upstream. The edits are pairs of texts in
// the listener's configuration: the old text, then its replacement.
func (s *decodedStack) serve(t *testing.T, api string, python *pythonUpstream, edits ...string) {
	t.Helper()
	addresses, err := bootstrap.Read(s.envoyConfig)
	if err != nil {
		t.Fatal(err)
	}
	addresses.Clusters["upstream_live"], addresses.Clusters["upstream_sandbox"] = s.golang.address, python.address
	config, err := bootstrap.Render(addresses)
	if err != nil {
		t.Fatal(err)
	}
	config = harness.Replace(t, config, "stream_idle_timeout: 60s", "delayed_close_timeout: 0.001s", 2)
	at := bytes.Index(config, []byte("- name: velocity\n"))
	listener := harness.Replace(t, config[:at], "{api: velaflows}", "{api: "+api+"}", 1)
	for edit := range slices.Chunk(edits, 2) {
		listener = harness.Replace(t, listener, edit[0], edit[1], 1)
	}
	if err := s.Envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Envoy, err = envoyproxy.Start(t.Context(), envoyproxy.Config{Config: slices.Concat(listener, config[at:])})
	if err != nil {
		t.Fatal(err)
	}
}

// sendSpellings sends each spelling over both protocols, with tokens of each scope, to both upstreams.
func (s *decodedStack) sendSpellings(t *testing.T, api string, python *pythonUpstream, spellings []spelling) (trials []trial) {
	t.Helper()
	open := func(protocol string) *wire.Reconnecting {
		dial := func() wire.Conn { return wire.Protocols[protocol](t, s.Stack, "velaflows") }
		return wire.NewReconnecting(dial)
	}
	direct := open("direct")
	defer func() { _ = direct.Close() }()
	golang, pythons := s.golang.reached.Load(), python.reached(t)
	for batch := range slices.Chunk(spellings, 30) { // each batch has its own connections, because the deadline of a connection (20 s) is too short for all paths
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
			c := open(protocol)
			for _, sent := range batch {
				if protocol == "HTTP/1.1" && (sent.target == "" || strings.ContainsAny(sent.target, " \r\n")) {
					continue // a blank or a line end in the target would change the request line
				}
				for _, scope := range testScopes {
					headers := s.headers[api+" "+scope]
					key := api + " " + scope + " " + sent.target
					if s.directOutcomes[key] == "" {
						s.directOutcomes[key] = direct.Send(t, wire.Request{API: api, Target: sent.target, Header: headers[0]}).Outcome
					}
					one := trial{spelling: sent, protocol: protocol, scope: scope, direct: s.directOutcomes[key]}
					for i, header := range headers {
						seen := c.Send(t, wire.Request{Target: sent.target, Header: header})
						one.throughEnvoy[i].outcome = seen.Outcome
						if seen.Outcome != "allow" {
							continue
						}
						if err := json.Unmarshal(seen.Body, &one.throughEnvoy[i].reading); err != nil {
							t.Fatalf("%v in %s", err, seen.Body)
						}
					}
					nowGolang, nowPythons := s.golang.reached.Load(), python.reached(t)
					one.reached = map[string]int64{"go": nowGolang - golang, "python": nowPythons - pythons}
					golang, pythons = nowGolang, nowPythons
					trials = append(trials, one)
				}
			}
			_ = c.Close()
		}
	}
	return trials
}

// A path may be written with different escapes. Each form of the path gets the outcome that its decoded segments have in the
// table. For an allowed request, upstreams in two languages read the same segments, and these segments belong to a route that
// the token may use.
func TestEverySpellingOfAPathHasOneOutcome(t *testing.T) {
	harness.SkipIfShort(t)
	_, config := newTestPolicy(t)
	s := startDecodedStack(t, config)
	for seed, api := range []string{"plain", "special"} {
		s.serve(t, api, s.python)
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		trials := s.sendSpellings(t, api, s.python, append(spellings(r, 120), hostileTargets(r, 60)...))
		correct := judge{special: testAPIs[api].special}
		found := correct.faults(trials)
		for _, fault := range slices.Sorted(maps.Keys(found)) {
			withFault := found[fault]
			for _, one := range withFault[:min(len(withFault), 20)] {
				t.Errorf("%s: %s: %v", api, fault, one)
			}
			t.Errorf("%s: %s: %d of %d trials", api, fault, len(withFault), len(trials))
		}
		kinds := make(map[string]int)
		for _, one := range trials {
			one.count(kinds)
		}
		t.Logf("%s: %d trials: %v", api, len(trials), kinds)
		for _, kind := range trialKinds {
			if kinds[kind] < 50 && (kind != hasSpecial || correct.special != "") {
				t.Errorf("%s: too few requests are %s", api, kind)
			}
		}

		// Each careless judge makes one mistake on purpose. The trials must contradict each of these judges. Otherwise the
		// trials are too weak.
		for name, careless := range map[string]func(*judge){
			"does not decode rows":             func(j *judge) { j.rawRows = true },
			"compares segments from the right": func(j *judge) { j.fromTheRight = true },
			"takes the first row":              func(j *judge) { j.firstRow = true },
			"takes the last row":               func(j *judge) { j.lastRow = true },
			"permits other special characters": func(j *judge) { j.special = map[string]string{"plain": "#%?;"}[api] },
		} {
			j := correct
			careless(&j)
			if found := j.faults(trials); len(found[otherOutcome]) == 0 || len(found[otherDirect]) == 0 {
				t.Errorf("%s: the trials do not detect a judge that %s", api, name)
			}
		}
	}

	// Each row of this table adds a fault to the Python upstream (see testdata/upstream.py) or to Envoy's configuration. The
	// trials must detect the listed faults.
	const live, sandbox = "{cluster: upstream_live}", "{cluster: upstream_sandbox}"
	const forSandbox, forEscapes = "name: x-keywicket-environment, string_match: {exact: sandbox}", `name: ":path", string_match: {contains: "%"}`
	for _, c := range []struct {
		python string
		edits  []string
		faults []string
	}{
		{"plus", nil, []string{twoReadings, otherRoute}},
		{"denies", nil, []string{leaked}},
		{"retried", []string{sandbox, "{cluster: upstream_sandbox, retry_policy: {retry_on: 5xx}}"}, []string{notOnce}},
		{"", []string{live, "{cluster: upstream_live, prefix_rewrite: /v1/caf%C3%A9/}"}, []string{otherSegments}},
		{"", []string{"check_settings: {context_extensions: {api: plain}}", "disabled: true"}, []string{otherRoute}},
		{"", []string{forSandbox, forEscapes, "route: " + sandbox, "direct_response: {status: 403}"}, []string{otherSpelling}},
		{"", []string{forSandbox, forEscapes, "route: " + sandbox, "direct_response: {status: 400}"}, []string{unsendable}},
	} {
		python := s.python
		if c.python != "" {
			python = startPythonUpstream(t, c.python)
		}
		s.serve(t, "plain", python, c.edits...)
		for _, fault := range s.notFound(t, python, c.faults...) {
			t.Errorf("with the upstream %q and the edits %q of Envoy's configuration, no trial has the fault: %s", c.python, c.edits, fault)
		}
	}
}

// The trials of TestEverySpellingOfAPathHasOneOutcome detect a policy that compares the rows of its table without decoding
// them.
func TestPolicyThatDoesNotDecodeRowsIsDetected(t *testing.T) {
	t.Parallel()
	dir, config := newTestPolicy(t)
	file := filepath.Join(dir, "keywicket", "route.rego")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = harness.Replace(t, text, `shape_of(path) := urlquery.decode(replace(parameters, "+", "%2B")) if {`, "shape_of(path) := parameters if {", 1)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "keywicket", "route_test.rego")); err != nil { // route_test.rego would fail, and the policy would be refused
		t.Fatal(err)
	}
	s := startDecodedStack(t, config)
	s.serve(t, "plain", s.python)
	for _, fault := range s.notFound(t, s.python, otherRoute, otherOutcome, otherDirect) {
		t.Errorf("no trial has the fault: %s", fault)
	}
}

// notFound sends random spellings until their trials have all given faults. It returns the faults that no trial has.
func (s *decodedStack) notFound(t *testing.T, python *pythonUpstream, faults ...string) []string {
	t.Helper()
	var trials []trial
	for batch := range slices.Chunk(spellings(rand.New(rand.NewPCG(2, 0)), 40), 6) {
		trials = append(trials, s.sendSpellings(t, "plain", python, batch)...)
		found := judge{}.faults(trials)
		faults = slices.DeleteFunc(faults, func(fault string) bool { return len(found[fault]) > 0 })
		if len(faults) == 0 {
			return nil
		}
	}
	return faults
}
