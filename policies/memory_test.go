package policies

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/clientcert"
	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/internal/sample"
	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/source"
)

// extraConditions are conditions for rules of a policy author. They read different parts of the input.
var extraConditions = []string{
	`input.request.headers["x-region"][_] == "eu"`,
	`count(input.request.headers) > 1`,
	`input.request.query.q[_] == "1"`,
	`contains(input.request.raw_query, "2")`,
	`input.request.segments[1] == "b"`,
	`endswith(input.request.path, "/7")`,
	`startswith(input.request.host, "x")`,
	`input.request.method == "HEAD"`,
	`input.context.tier == "free"`,
	`some name, _ in input.context; name == "canary"`,
	`input.workspace.role == "guest"`,
	`input.workspace.slug == "globex"`,
	`input.workspace.id == "2"`,
	`input.workspace.attributes.plan == "free"`,
	`not input.workspace.requested`,
	`input.principal.id == "t2"`,
	`input.principal.user_id == "ada"`,
	`input.principal.aal == "aal1"`,
	`input.principal.environment == "sandbox"`,
	`input.principal.attributes.tags[_] == "x"`,
	`input.principal.user_attributes.level > 1`,
	`"a:write" in input.principal.scopes`,
	`p := input.principal; p[k] == "ada"; k != "id"`,
	`input.source.address == "10.0.0.1"`,
	`input.source.principal == "spiffe://b"`,
	`input.source.certificate.subject == "CN=b"`,
	`some part in ["host"]; input.request[part] == "y.example"`,
	`object.get(input.request, ["headers", "x-region"], []) == ["us"]`,
}

// policyWithExtraRules returns the shipped policy with additional rules, which use some of extraConditions. Most of the rules
// set a header, so a decision shows which conditions are true.
func policyWithExtraRules(t testing.TB, r *rand.Rand, table map[string]any) source.Source {
	t.Helper()
	s, err := readSource(Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.Data = map[string]any{"apis": map[string]any{"zoo": table}}
	text := "package keywicket\n"
	for i := range 12 {
		head := fmt.Sprintf("headers[\"x-own-%d\"] := \"1\"", i)
		switch {
		case i == 0:
			head = `deny contains {"code": "FORBIDDEN", "reason": "own"}`
		case i == 1 && r.IntN(2) == 0: // this rule decides requests without a credential too
			head = "public"
		}
		text += fmt.Sprintf("%s if {\n\t%s\n}\n", head, strings.ReplaceAll(pick(r, extraConditions), "; ", "\n\t"))
	}
	addRules(t, s, "keywicket/own.rego", text)
	return s
}

// addRules adds a file with rules to a policy.
func addRules(t testing.TB, s source.Source, file, text string) {
	t.Helper()
	module, err := ast.ParseModule(file, text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	s.Rules[file] = module
}

// withMemory returns two engines of a policy: one without a memory, and one with a memory.
func withMemory(t testing.TB, s source.Source) (plain, engine *Engine) {
	t.Helper()
	plain, engine = bothEngines(t, s)
	compiler, err := s.Compiled()
	if err != nil {
		t.Fatal(err)
	}
	if engine.memory, err = newMemory(analysis.ReferencesOf(compiler, true), engine.index); err != nil {
		t.Fatal(err)
	}
	return plain, engine
}

// randomFullInput returns an input with values for all parts. Each part has few possible values, so that inputs often differ in
// only one part.
func randomFullInput(r *rand.Rand, rows []map[string]any) authz.Input {
	in := randomInput(r, rows)
	in.Host = pick(r, []string{"x.example", "y.example"})
	in.RawQuery = pick(r, []string{"", "q=1", "q=2"})
	if in.RawQuery != "" {
		in.Query = map[string][]string{"q": {in.RawQuery[2:]}}
	}
	in.Header = map[string][]string{"x-region": {pick(r, []string{"eu", "us"})}}
	if r.IntN(3) == 0 {
		in.Header["x-other"] = []string{"1"}
	}
	in.Context = authz.Fields{{Name: "api", Value: "zoo"}}
	if r.IntN(2) == 0 {
		in.Context = append(in.Context, authz.HeaderValue{Name: pick(r, []string{"tier", "canary"}), Value: pick(r, []string{"free", "pro"})})
	}
	in.Source = authz.Source{Address: pick(r, []string{"", "10.0.0.1"}), Principal: pick(r, []string{"", "spiffe://b"})}
	if r.IntN(2) == 0 {
		in.Source.Certificate = &clientcert.Certificate{Subject: pick(r, []string{"CN=a", "CN=b"})}
	}
	if r.IntN(5) == 0 {
		in.Principal, in.Workspace = nil, authz.Workspace{Requested: r.IntN(4) == 0}
		in.Denial = pick(r, []authz.Reason{authz.ReasonMissing, authz.ReasonMissing, authz.ReasonUnknown})
		return in
	}
	p := in.Principal
	p.ID, p.UserID = pick(r, []string{"t1", "t2"}), pick(r, []string{"", "ada", "bob"})
	p.Kind = pick(r, []authz.Kind{authz.KindWorkspaceToken, authz.KindWorkspaceKey, authz.KindPersonalKey})
	if r.IntN(3) > 0 { // the scope root allows most requests, so that the extra rules decide
		p.Scopes = append(p.Scopes, "root")
	}
	p.AAL, p.Environment = pick(r, []string{"", "aal1"}), pick(r, []authz.Environment{authz.Live, authz.Sandbox})
	p.Attributes = pick(r, []authz.Attributes{"", `{"tags":["x"]}`})
	p.UserAttributes = pick(r, []authz.Attributes{"", `{"level":1}`, `{"level":2}`})
	in.Workspace = authz.Workspace{Requested: r.IntN(4) > 0, Granted: r.IntN(8) > 0}
	if in.Workspace.Granted {
		in.Workspace.ID, in.Workspace.Slug = pick(r, []string{"1", "2"}), pick(r, []string{"acme", "globex"})
		in.Workspace.Role = pick(r, []string{"", "guest"})
		in.Workspace.Attributes = pick(r, []authz.Attributes{"", `{"plan":"free"}`})
	}
	return in
}

// mutate returns the input `in`, either unchanged or with one part from the input `other`. This simulates a change of a token,
// a member or a request.
func mutate(r *rand.Rand, in, other authz.Input) authz.Input {
	parts := []func(){
		func() {},
		func() { in.Principal, in.Denial, in.Workspace = other.Principal, other.Denial, other.Workspace },
		func() { in.RawQuery, in.Query = other.RawQuery, other.Query },
		func() { in.Header = other.Header },
		func() { in.Host = other.Host },
		func() { in.Method = other.Method },
		func() { in.Path = other.Path },
		func() { in.Context = other.Context },
		func() { in.Source.Address = other.Source.Address },
		func() { in.Source.Principal = other.Source.Principal },
		func() { in.Source.Certificate = other.Source.Certificate },
	}
	if in.Principal != nil && other.Principal != nil {
		p, o := *in.Principal, other.Principal
		in.Principal = &p
		parts = append(parts,
			func() { p.Scopes = o.Scopes }, func() { p.Kind = o.Kind }, func() { p.ID = o.ID }, func() { p.UserID = o.UserID },
			func() { p.AAL = o.AAL }, func() { p.Environment = o.Environment },
			func() { p.Attributes = o.Attributes }, func() { p.UserAttributes = o.UserAttributes },
			func() { in.Workspace.Requested = other.Workspace.Requested }, func() { in.Workspace.Granted = other.Workspace.Granted })
		if in.Workspace.Granted && other.Workspace.Granted {
			w, o := &in.Workspace, other.Workspace
			parts = append(parts, func() { w.Role = o.Role }, func() { w.ID = o.ID }, func() { w.Slug = o.Slug },
				func() { w.Attributes = o.Attributes })
		}
	}
	pick(r, parts)()
	return in
}

// firstDifference decides random inputs with both engines: `engine` uses its memory, and `plain` always evaluates. The result
// is the number of the first decision that differs, counted from 1, or 0 if no decision differs.
func firstDifference(t testing.TB, r *rand.Rand, plain, engine *Engine, rows []map[string]any, cases int) int {
	t.Helper()
	var before []authz.Input
	for i := range cases {
		in := randomFullInput(r, rows)
		if len(before) > 0 && r.IntN(8) > 0 {
			in = mutate(r, pick(r, before), in)
		}
		before = append(before, in)
		got, err := engine.Decide(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		want, err := plain.Decide(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			return i + 1
		}
	}
	return 0
}

// A remembered decision equals the decision of an evaluation. This is true for every part that a policy reads, and after every
// change between checks.
func TestRememberedDecisions(t *testing.T) {
	t.Parallel()
	race.Skip(t)
	hits := uint64(0)
	seeds := 40 / sample.Interval()
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 7))
		table, rows := randomTable(r, 8)
		s := policyWithExtraRules(t, r, table)
		plain, engine := withMemory(t, s)
		if n := firstDifference(t, r, plain, engine, rows, 150); n > 0 {
			t.Fatalf("seed %d: decision %d differs with memory; %v", seed, n, s.Rules["keywicket/own.rego"])
		}
		hits += engine.MemoryHits()
	}
	if hits < uint64(seeds*150/4) {
		t.Errorf("only %d of %d decisions were remembered: the comparison covers too little", hits, seeds*150)
	}
}

// Check of the test itself: if the keys of the memory are incomplete, firstDifference reports a difference within a limited
// number of cases.
func TestFirstDifferenceDetectsWrongMemory(t *testing.T) {
	t.Parallel()
	race.Skip(t)
	if testing.Short() {
		t.Skip("slow: run make test-long")
	}
	const maxCases = 4000
	wantDetected := func(name string, compare func(r *rand.Rand) int) {
		t.Helper()
		cases := 0
		for seed := uint64(0); cases < maxCases; seed++ {
			n := compare(rand.New(rand.NewPCG(seed, 8)))
			if n > 0 {
				t.Logf("%s: detected after %d cases", name, cases+n)
				return
			}
			cases += 100
		}
		t.Errorf("%s: not detected in %d cases", name, maxCases)
	}
	compareWithout := func(missing ...document.Part) func(r *rand.Rand) int {
		return func(r *rand.Rand) int {
			table, rows := randomTable(r, 8)
			plain, engine := withMemory(t, policyWithExtraRules(t, r, table))
			engine.memory.parts = slices.DeleteFunc(engine.memory.parts, func(p document.Part) bool { return slices.Contains(missing, p) })
			return firstDifference(t, r, plain, engine, rows, 100)
		}
	}
	for name, missing := range map[string][]document.Part{
		"the row": {document.InputRow, document.RequestPath, document.RequestSegments}, "scopes": {document.PrincipalScopes}, "the role": {document.WorkspaceRole},
		"the grant of the workspace": {document.WorkspaceGranted}, "headers": {document.RequestHeaders}, "the query": {document.RequestQuery, document.RequestRawQuery},
		"the context": {document.InputContext}, "the denial": {document.InputDenial}, "attributes": {document.PrincipalAttributes, document.WorkspaceAttributes, document.PrincipalUserAttributes},
		"the source": {document.SourceAddress, document.SourcePrincipal, document.SourceCertificate}, "the kind": {document.PrincipalKind},
	} {
		wantDetected("without "+name, compareWithout(missing...))
	}
	wantDetected("with the principal's id instead of its values", func(r *rand.Rand) int {
		table, rows := randomTable(r, 8)
		plain, engine := withMemory(t, policyWithExtraRules(t, r, table))
		m := engine.memory
		m.parts = append(slices.DeleteFunc(m.parts, func(p document.Part) bool { return p > document.InputPrincipal }), document.PrincipalID)
		return firstDifference(t, r, plain, engine, rows, 100)
	})
	wantDetected("with a decision that is stored for the row but depends on more than the row", func(r *rand.Rand) int {
		table, rows := randomTable(r, 8)
		plain, engine := withMemory(t, policyWithExtraRules(t, r, table))
		engine.memory.anonymousByRow = true
		return firstDifference(t, r, plain, engine, rows, 100)
	})
	wantDetected("with the memory of another policy", func(r *rand.Rand) int {
		table, rows := randomTable(r, 8)
		plain, engine := withMemory(t, policyWithExtraRules(t, r, table))
		if n := firstDifference(t, r, plain, engine, rows, 50); n > 0 {
			return n
		}
		plain, next := withMemory(t, policyWithExtraRules(t, r, table))
		next.memory = engine.memory
		return firstDifference(t, r, plain, next, rows, 50)
	})
}

// A policy with decisions that can differ between evaluations has no memory, and reports why.
func TestDecisionsThatAreNotRemembered(t *testing.T) {
	for rule, want := range map[string]string{
		`input.time > 0`:                                    "input.time",
		`count(input) > 99`:                                 "input",
		`time.now_ns() < 0`:                                 "time.now_ns",
		`rand.intn("x", 10) > 10`:                           "rand.intn",
		`uuid.rfc4122("x") == ""`:                           "uuid.rfc4122",
		`x := input; x.time > 0`:                            "input",
		`crypto.x509.parse_and_verify_certificates("x")[0]`: "crypto.x509.parse_and_verify_certificates",
		`io.jwt.decode_verify("x", {"secret": "y"})[0]`:     "io.jwt.decode_verify",
		`data.helper.late`:                                  "time.now_ns",
		`input.request.method == "NONE"`:                    "",
	} {
		s, err := readSource(Config{})
		if err != nil {
			t.Fatal(err)
		}
		own := "package keywicket\ndeny contains {\"code\": \"FORBIDDEN\", \"reason\": \"own\"} if {\n\t" + strings.ReplaceAll(rule, "; ", "\n\t") + "\n}\n"
		helper := "package helper\nlate if late_at(time.now_ns())\nlate_at(t) if t < 0\nunused if rand.intn(\"x\", 2) == 1\n"
		for file, text := range map[string]string{"keywicket/own.rego": own, "helper/helper.rego": helper} {
			addRules(t, s, file, text)
		}
		compiler, err := s.Compiled()
		if err != nil {
			t.Fatal(err)
		}
		m, memoryErr := newMemory(analysis.ReferencesOf(compiler, true), nil)
		if (memoryErr == nil) != (m != nil) || (memoryErr == nil) != (want == "") || memoryErr != nil &&
			(!strings.Contains(memoryErr.Error(), want+" differs between evaluations") || !strings.Contains(memoryErr.Error(), ".rego:")) {
			t.Errorf("%s: %v", rule, memoryErr)
		}
		warnings := (&policy{index: &index{}, memoryErr: memoryErr}).Warnings()
		if warned := strings.Contains(strings.Join(warnings, "\n"), "decisions are not remembered"); warned != (want != "") {
			t.Errorf("%s: the warnings are %q", rule, warnings)
		}
	}
}

// A full memory keeps the latest decision, and never returns the decision of another key.
func TestFullMemory(t *testing.T) {
	m := &memory{parts: []document.Part{document.RequestPath}}
	key := func(i int) memoryKey { return m.key(&authz.Input{Path: fmt.Sprint("/", i)}, noRow) }
	const n = 3 * memorySlots
	for i := range n {
		m.add(key(i), authz.Decision{Route: fmt.Sprint(i)})
	}
	remembered := 0
	for i := range n {
		switch d := m.find(key(i)); {
		case d == nil:
		case d.Route != fmt.Sprint(i):
			t.Fatalf("decision %d is %+v", i, d)
		default:
			remembered++
		}
	}
	if remembered < memorySlots*9/10 {
		t.Errorf("%d of %d decisions are remembered", remembered, n)
	}
	last := key(n)
	m.add(last, authz.Decision{Route: "last"})
	if d := m.find(last); d == nil || d.Route != "last" {
		t.Errorf("the latest decision is %+v", d)
	}
}

// Different inputs have different keys, even if their concatenated texts are equal.
func TestKeysAreUnambiguous(t *testing.T) {
	var all []document.Part
	for p := range document.NumberOfParts {
		if p != document.InputTime { // a policy that reads the time has no memory
			all = append(all, p)
		}
	}
	m := &memory{parts: all}
	seen := make(map[memoryKey]string)
	for name, in := range map[string]authz.Input{
		"a|b": {API: "a", Denial: "b"}, "ab|": {API: "ab"}, "|ab": {Denial: "ab"},
		"no principal": {}, "an empty principal": {Principal: &authz.Principal{}},
		"scopes a b": {Principal: &authz.Principal{Scopes: []string{"a", "b"}}}, "scope ab": {Principal: &authz.Principal{Scopes: []string{"ab"}}},
		"scope ab and an empty scope": {Principal: &authz.Principal{Scopes: []string{"ab", ""}}},
		"header":                      {Header: map[string][]string{"a": {"b"}}}, "a header with two values": {Header: map[string][]string{"a": {"b", ""}}},
		"two headers": {Header: map[string][]string{"a": {"b"}, "c": nil}}, "context": {Context: authz.Fields{{Name: "a", Value: "b"}}},
		"certificate": {Source: authz.Source{Certificate: &clientcert.Certificate{}}}, "a certificate with a URI": {Source: authz.Source{Certificate: &clientcert.Certificate{URIs: []string{"a"}}}},
		"a certificate with a DNS name": {Source: authz.Source{Certificate: &clientcert.Certificate{DNSNames: []string{"a"}}}},
	} {
		key := m.key(&in, noRow)
		if other, ok := seen[key]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[key] = name
	}
}

// A remembered decision with a text from the request does not keep the rest of the request in memory.
func TestRememberedDecisionIsDetached(t *testing.T) {
	const n, padding = 2000, 50_000 // 100 MB in total
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	m := &memory{parts: []document.Part{document.RequestHost}}
	part := func(i int) string { return (fmt.Sprintf("%08d", i) + strings.Repeat("p", padding))[:8] }
	before := heap()
	for i := range n {
		d := authz.Decision{
			Allow: true, Code: authz.Code(part(i)), Reason: authz.Reason(part(i)), Route: part(i), RequiredScopes: []string{part(i)}, AnyOf: []string{part(i)},
			Headers: map[string]string{"x-host": part(i)},
		}
		m.add(m.key(&authz.Input{Host: part(i)}, noRow), d)
	}
	if grown := heap() - before; grown > n*padding/5 {
		t.Errorf("%d MB of %d MB stay in memory", grown>>20, n*padding>>20)
	}
	key := m.key(&authz.Input{Host: "long"}, noRow)
	m.add(key, authz.Decision{Allow: true, Headers: map[string]string{"x-host": strings.Repeat("x", 1<<10)}})
	if m.find(key) != nil {
		t.Error("a decision with long headers is remembered")
	}
	if d := m.find(m.key(&authz.Input{Host: part(n - 1)}, noRow)); d == nil || d.Headers["x-host"] != part(n-1) {
		t.Errorf("the latest decision is %+v", d)
	}
	runtime.KeepAlive(m)
}

// Concurrent callers each get the decision for their own values.
func TestMemoryConcurrently(t *testing.T) {
	s, err := readSource(Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, engine := withMemory(t, s)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 200 {
				in := authz.Input{
					API: "velaflows", Method: "GET", Path: "/api/v1/inbox/conversations",
					Principal: &authz.Principal{Kind: authz.KindWorkspaceToken, Scopes: []string{[]string{"inbox:read", "crm:read"}[i%2], fmt.Sprint(n % 20)}},
					Workspace: authz.Workspace{Requested: true, Granted: true},
				}
				if d, err := engine.Decide(t.Context(), in); err != nil || d.Allow != (i%2 == 0) || d.RequiredScopes[0] != "inbox:read" {
					t.Errorf("%+v, %v", d, err)
				}
			}
		})
	}
	all.Wait()
	if engine.MemoryHits() < 1000 {
		t.Errorf("%d of 1600 decisions were remembered", engine.MemoryHits())
	}
}
