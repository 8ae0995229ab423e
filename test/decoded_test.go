package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/envoyproxy"
	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/demo/upstream"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

// spelling_test.go has the table, the judge of outcomes and the spellings of this test.

// decodedStack is a stack with two upstreams, and each decodes paths as its language does. Live tokens are routed to Go's
// net/http, sandbox tokens to Python's http.server.
type decodedStack struct {
	*demo.Stack
	envoyConfig []byte
	golang      *goUpstream
	python      *pythonUpstream
	headers     map[string][2][][2]string // API and scope → the headers of a request to Go and of a request to Python
	asked       map[string]string         // API, scope and target → outcome of a direct check
}

// startDecodedStack runs a policy folder that newSpelledPolicy created, possibly with changes.
func startDecodedStack(t *testing.T, config string) *decodedStack {
	t.Helper()
	s := &decodedStack{
		golang: startGoUpstream(t), python: startPythonUpstream(t, ""),
		headers: make(map[string][2][][2]string), asked: make(map[string]string),
	}
	s.Stack = separateStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config, "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}, // for slow machines
		EnvoyConfig: func(envoy []byte) []byte {
			// As in newUncheckedStack: Envoy waits for a second on each HTTP/2 connection that it refuses.
			s.envoyConfig = edited(t, envoy, "stream_idle_timeout: 60s", "delayed_close_timeout: 0.001s", 2)
			return s.envoyConfig
		},
	})
	home := tenant(t, s.Stack)
	for name, api := range spelledAPIs {
		for _, scope := range spelledScopes {
			var headers [2][][2]string
			for i, environment := range []string{"live_", "sandbox_"} {
				key := issue(t, s.Stack, api.prefix+environment, home.Slug, scope, "--config", config)
				headers[i] = [][2]string{{"authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}
			}
			s.headers[name+" "+scope] = headers
		}
	}
	return s
}

// newSpelledPolicy creates a policy folder with spelledAPIs, and a configuration that serves them.
func newSpelledPolicy(t *testing.T) (dir, config string) {
	t.Helper()
	dir, config = policyFolder(t), filepath.Join(t.TempDir(), "keywicket.yaml")
	var table, configuration strings.Builder
	table.WriteString("scopes: {workspace: {inbox:read: Read, admin:all: Everything}}\n")
	table.WriteString("overrides: {workspace: [admin:all]}\nroutes:\n")
	for _, r := range spelledRows {
		needs := "scopes: [" + r.scope + "]"
		if r.scope == "" {
			needs = "public: true"
		}
		fmt.Fprintf(&table, "  - {method: GET, path: %q, %s}\n", r.path, needs)
	}
	fmt.Fprintf(&configuration, "policies: {dir: %q}\napis:\n", dir)
	for _, name := range slices.Sorted(maps.Keys(spelledAPIs)) {
		api := spelledAPIs[name]
		appendTo(t, filepath.Join(dir, "apis", name, "data.yaml"), api.parameters+table.String())
		fmt.Fprintf(&configuration, "  %s:\n    workspace: {header: x-workspace-id, by: id}\n    credentials:\n", name)
		for _, environment := range []string{"live", "sandbox"} {
			fmt.Fprintf(&configuration, "      - {kind: workspace_token, prefix: %s%s_, environment: %[2]s}\n", api.prefix, environment)
		}
	}
	appendTo(t, config, configuration.String())
	return dir, config
}

// serve restarts Envoy for one API with this Python upstream. The edits are pairs of texts in the listener's configuration:
// the old text, then its replacement.
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
	config = edited(t, config, "stream_idle_timeout: 60s", "delayed_close_timeout: 0.001s", 2)
	at := bytes.Index(config, []byte("- name: velocity\n"))
	listener := edited(t, config[:at], "{api: velaflows}", "{api: "+api+"}", 1)
	for edit := range slices.Chunk(edits, 2) {
		listener = edited(t, listener, edit[0], edit[1], 1)
	}
	if err := s.Envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Envoy, err = envoyproxy.Start(t.Context(), envoyproxy.Config{Config: slices.Concat(listener, config[at:])})
	if err != nil {
		t.Fatal(err)
	}
}

// reading is how an upstream reads a path. The three lists are the segments that three kinds of server see. One splits and
// then decodes, one decodes and then splits, and one decodes twice.
type reading struct {
	upstream.Echo
	Segments []string `json:"segments"`
	Whole    []string `json:"whole"`
	Twice    []string `json:"twice"`
}

type goUpstream struct {
	address string
	reached atomic.Int64
}

func startGoUpstream(t *testing.T) *goUpstream {
	t.Helper()
	u := &goUpstream{}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	u.address = server.Listener.Addr().String()
	return u
}

func (u *goUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.reached.Add(1)
	h := reading{Echo: upstream.Echo{Upstream: "go", Method: r.Method, Path: r.RequestURI}}
	for _, raw := range strings.Split(r.URL.EscapedPath(), "/")[1:] {
		once, err := url.PathUnescape(raw)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		twice, err := url.PathUnescape(once)
		if err != nil {
			twice = once // a % that starts no escape
		}
		h.Segments, h.Twice = append(h.Segments, once), append(h.Twice, twice)
	}
	h.Whole = strings.Split(r.URL.Path, "/")[1:]
	_ = json.NewEncoder(w).Encode(h) // no value in it can fail to encode
}

type pythonUpstream struct {
	address string
	client  *http.Client
}

// startPythonUpstream runs testdata/upstream.py, which describes the modes. The test fails if Python is missing.
func startPythonUpstream(t *testing.T, mode string) *pythonUpstream {
	t.Helper()
	r, w := io.Pipe()
	p, err := process.Start(process.Config{
		Path: "python3", Args: []string{"-I", filepath.Join("testdata", "upstream.py"), mode}, Output: w,
	})
	if err != nil {
		t.Fatalf("this test needs Python 3: %v", err)
	}
	go func() {
		<-p.Done()
		_ = w.Close() // it always returns nil
	}()
	output, printed := bufio.NewReader(r), make(chan []byte, 1)
	port, err := output.ReadString('\n')
	go func() {
		rest, _ := io.ReadAll(output) // until the pipe is closed
		printed <- rest
	}()
	t.Cleanup(func() {
		if err := errors.Join(p.Err(), p.Stop(10*time.Second)); err != nil {
			t.Error(err)
		}
		if rest := <-printed; len(rest) > 0 {
			t.Logf("upstream.py %s: %s", mode, rest)
		}
	})
	if err != nil {
		t.Fatalf("upstream.py ends with %q", port)
	}
	u := &pythonUpstream{net.JoinHostPort("127.0.0.1", strings.TrimSpace(port)), &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(u.client.CloseIdleConnections)
	return u
}

// reached returns the number of requests that have arrived.
func (u *pythonUpstream) reached(t *testing.T) (n int64) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), "COUNT", "http://"+u.address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := u.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	err = json.NewDecoder(response.Body).Decode(&n)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

// try sends each spelling over both wires, with tokens of each scope, to both upstreams.
func (s *decodedStack) try(t *testing.T, api string, python *pythonUpstream, spellings []spelling) (trials []trial) {
	t.Helper()
	open := func(wire string) *reconnecting {
		dial := func() connection { return wires[wire](t, s.Stack, "velaflows") }
		return &reconnecting{dial, dial()}
	}
	direct := open("direct")
	defer func() { _ = direct.Close() }()
	golang, pythons := s.golang.reached.Load(), python.reached(t)
	for batch := range slices.Chunk(spellings, 30) { // no connection lasts for all of them
		for _, wire := range []string{"HTTP/1.1", "HTTP/2"} {
			c := open(wire)
			for _, sent := range batch {
				if wire == "HTTP/1.1" && (sent.target == "" || strings.ContainsAny(sent.target, " \r\n")) {
					continue // that would be another request
				}
				for _, scope := range spelledScopes {
					headers := s.headers[api+" "+scope]
					key := api + " " + scope + " " + sent.target
					if s.asked[key] == "" {
						s.asked[key] = direct.put(t, message{api: api, target: sent.target, header: headers[0]}).outcome
					}
					one := trial{spelling: sent, wire: wire, scope: scope, direct: s.asked[key]}
					for i, header := range headers {
						seen := c.put(t, message{target: sent.target, header: header})
						one.passages[i].outcome = seen.outcome
						if seen.outcome != "allow" {
							continue
						}
						if err := json.Unmarshal(seen.body, &one.passages[i].reading); err != nil {
							t.Fatalf("%v in %s", err, seen.body)
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

// Every spelling of a path gets the outcome that its decoded segments have in the table. For an allowed request, upstreams
// in two languages read the same segments, and these address a route that the token may use.
func TestEverySpellingOfAPathHasOneOutcome(t *testing.T) {
	long(t)
	_, config := newSpelledPolicy(t)
	s := startDecodedStack(t, config)
	for seed, api := range []string{"plain", "special"} {
		s.serve(t, api, s.python)
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		trials := s.try(t, api, s.python, append(spellings(r, 120), hostileTargets(r, 60)...))
		right := judge{special: spelledAPIs[api].special}
		found := right.faults(trials)
		for _, fault := range slices.Sorted(maps.Keys(found)) {
			of := found[fault]
			for _, one := range of[:min(len(of), 20)] {
				t.Errorf("%s: %s: %v", api, fault, one)
			}
			t.Errorf("%s: %s: %d of %d trials", api, fault, len(of), len(trials))
		}
		kinds := make(map[string]int)
		for _, one := range trials {
			one.count(kinds)
		}
		t.Logf("%s: %d trials: %v", api, len(trials), kinds)
		for _, kind := range trialKinds {
			if kinds[kind] < 50 && (kind != holdsSpecial || right.special != "") {
				t.Errorf("%s: too few requests are %s", api, kind)
			}
		}

		// These trials distinguish the correct judge from a careless one.
		for name, careless := range map[string]func(*judge){
			"compares raw rows":                func(j *judge) { j.rawRows = true },
			"lets literals go from the right":  func(j *judge) { j.fromTheRight = true },
			"takes the first row":              func(j *judge) { j.firstRow = true },
			"takes the last row":               func(j *judge) { j.lastRow = true },
			"permits other special characters": func(j *judge) { j.special = map[string]string{"plain": "#%?;"}[api] },
		} {
			j := right
			careless(&j)
			if found := j.faults(trials); len(found[otherOutcome]) == 0 || len(found[otherDirect]) == 0 {
				t.Errorf("%s: the trials do not detect a judge that %s", api, name)
			}
		}
	}

	// The test detects a careless upstream and a careless Envoy.
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
			t.Errorf("with the upstream %q and Envoy's edits %q no trial has the fault: %s", c.python, c.edits, fault)
		}
	}
}

// The test detects a policy that compares the rows of its table without decoding them.
func TestRawRowsInAPolicyAreFound(t *testing.T) {
	dir, config := newSpelledPolicy(t)
	file := filepath.Join(dir, "keywicket", "route.rego")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = edited(t, text, `shape_of(path) := urlquery.decode(replace(parameters, "+", "%2B")) if {`, "shape_of(path) := parameters if {", 1)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "keywicket", "route_test.rego")); err != nil { // it refuses such a policy
		t.Fatal(err)
	}
	s := startDecodedStack(t, config)
	s.serve(t, "plain", s.python)
	for _, fault := range s.notFound(t, s.python, otherRoute, otherOutcome, otherDirect) {
		t.Errorf("no trial has the fault: %s", fault)
	}
}

// notFound returns the faults that no spelling shows.
func (s *decodedStack) notFound(t *testing.T, python *pythonUpstream, faults ...string) []string {
	t.Helper()
	var trials []trial
	for batch := range slices.Chunk(spellings(rand.New(rand.NewPCG(2, 0)), 40), 6) {
		trials = append(trials, s.try(t, "plain", python, batch)...)
		found := judge{}.faults(trials)
		faults = slices.DeleteFunc(faults, func(fault string) bool { return len(found[fault]) > 0 })
		if len(faults) == 0 {
			return nil
		}
	}
	return faults
}
