package policies

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/clientcert"
	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/internal/sample"
	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/source"
)

// withRules returns the built-in policy with additional rules.
func withRules(t *testing.T, rules string) source.Source {
	t.Helper()
	s, err := readSource(Config{})
	if err == nil {
		s.Rules["keywicket/extra.rego"], err = ast.ParseModule("keywicket/extra.rego", "package keywicket\n\nimport future.keywords.not\n\n"+rules)
	}
	if err != nil {
		t.Fatalf("%s: %v", rules, err)
	}
	return s
}

// A row caches the value of a rule only if the value depends on the row alone.
func TestRowCachesValuesThatDependOnTheRowAlone(t *testing.T) {
	for rule, want := range map[string]bool{
		`x := 1`:                                 true,
		`x := route.name`:                        true,
		`x := count(route.scopes)`:               true,
		`x := data.apis.velaflows.overrides`:     true,
		`x := f(route) + 1` + "\n" + `f(r) := 1`: true,
		`default x := 2` + "\n" + `x := 1 if y` + "\n" + `y if route.level == "user"`: true,
		`x := {"a": route.name, "b": allowed}`:                                        true,
		`x if not public`:                                                             true,
		`x := input.api`:                                                              false,
		`x := count(input)`:                                                           false,
		`x := input[route.name]`:                                                      false,
		`x := 1 if input.principal.kind == "a"`:                                       false,
		`x if not input.workspace.granted`:                                            false,
		`x := [1 | input.denial == "missing"]`:                                        false,
		`x := 1 if { every y in [1] { y < count(input.request.segments) } }`:          false,
		`x := 1 if { route.level == "user" } else := 2 if { input.denial == null }`:   false,
		`x := 1 if { route.level == "user" } else := y` + "\n" + `y := 1 if { 1 == 2 } else := input.api`: false,
		`x := y.z` + "\n" + `y := {"z": input.api}`:                                                       false,
		`x := f(1)` + "\n" + `f(_) := input.api`:                                                          false,
		`x := f(input.api)` + "\n" + `f(a) := a`:                                                          false,
		`default x := 2` + "\n" + `x := 1 if input.denial == null`:                                        false,
		`x := permitted`: false,
		`x := {k | some k, _ in data.keywicket.deny}` + "\n" + `deny contains {"code": "A", "reason": input.api} if input.denial == "no"`: false,
		`x := time.now_ns()`:                                      false,
		`x := rand.intn("a", 5)`:                                  false,
		`x := uuid.rfc4122("a")`:                                  false,
		`x := crypto.x509.parse_and_verify_certificates("a")`:     false,
		`x := y if y := route with input.api as "velocity"`:       false,
		`x := y if y := route.name with data.facts as {}`:         false,
		`x := $"{input.api}"`:                                     false,
		`x := 1 if walk(input, [_, "missing"])`:                   false,
		`x := data[["keywicket"][0]].z` + "\n" + `z := input.api`: false,
	} {
		s := withRules(t, rule)
		_, e := bothEngines(t, s)
		position, ok := e.index.rules.positions["x"]
		if !ok || (e.index.rules.standalone[position] != nil) != want {
			t.Errorf("%s: it is a row rule: %t, and its value is cached: %t", rule, ok, !want)
		}
	}
	for _, rule := range []string{`x contains 1`, `x[a] := 1 if some a in ["b"]`, `x.y := 1`, `x(a) := a`, "x.y := 1\n\nx.z := 2"} {
		_, e := bothEngines(t, withRules(t, rule))
		if _, ok := e.index.rules.positions["x"]; ok {
			t.Errorf("%s: it is a row rule", rule)
		}
	}
}

// Some rules depend on the row alone, and other rules depend on more. In both cases, the cached values of a row do not change
// the decisions.
func TestCachedValuesChangeNoDecision(t *testing.T) {
	s := withRules(t, `
headers["x-row"] := json.marshal([row_alone, role_value, other_path])

row_alone := [route.name, public_or_not, count(input_free)]

public_or_not := "public" if public

public_or_not := "not public" if not public

input_free contains scope if some scope in route.scopes

role_value := [input.principal.kind, row_alone] if input.workspace.role == null

role_value := "a role" if input.workspace.role != null

other_path := x if {
	x := path_value with input.request.path as "/healthz" with input.request.segments as ["healthz"]
} else := "no row"

path_value := [route.name, row_alone, public_or_closed]

public_or_closed := "public" if public

public_or_closed := "closed" if not public

deny contains {"code": "FORBIDDEN", "reason": "no"} if {
	input.workspace.role == "bad"
	row_alone[2] == 1
}
`)
	plain, indexed := bothEngines(t, s)
	for range 3 {
		for _, path := range []string{"/api/v1/contacts", "/api/v1/inbox/conversations", "/healthz", "/nothing", ""} {
			for _, role := range []string{"", "good", "bad"} {
				for _, kind := range []authz.Kind{authz.KindWorkspaceToken, authz.KindPersonalKey, "robot", ""} {
					in := authz.Input{API: "velaflows", Method: "GET", Path: path, Denial: authz.ReasonMissing}
					in.Workspace = authz.Workspace{Requested: true, Granted: kind != "", Role: role}
					if kind != "" {
						in.Denial, in.Principal = "", &authz.Principal{Kind: kind, Scopes: []string{"admin:all"}}
					}
					want, err1 := plain.Decide(t.Context(), in)
					got, err2 := indexed.Decide(t.Context(), in)
					if err1 != nil || err2 != nil || !reflect.DeepEqual(want, got) {
						t.Fatalf("%+v:\nplain   %+v, %v\nindexed %+v, %v", in, want, err1, got, err2)
					}
				}
			}
		}
	}
}

// A row caches no value of an evaluation that fails, so the next evaluation fails too.
func TestErrorsAreNotCached(t *testing.T) {
	in := authz.Input{API: "velaflows", Method: "GET", Path: "/healthz", Denial: authz.ReasonMissing}
	for name, rules := range map[string]string{
		"two values":                      "headers[\"x\"] := y\n\ny := \"a\" if route.level == \"workspace\"\n\ny := \"b\" if route.public",
		"an error of a built-in function": "headers[\"x\"] := y\n\ny := \"a\" if 1 / count(route.any_of) > 0",
		"an error in another rule":        "headers[\"x\"] := y\n\nheaders[\"z\"] := sprintf(\"%d\", [1 / (count(input.denial) - 7)]) if input.api != \"\"\n\ny := \"a\" if route.public",
		"an error after a true condition": "headers[\"x\"] := y\n\ny := \"a\" if { route.public; to_number(route.name) > 0 }",
	} {
		_, indexed := bothEngines(t, withRules(t, rules))
		for range 3 {
			if d, err := indexed.Decide(t.Context(), in); err == nil || d.Allow {
				t.Errorf("%s: %+v, %v", name, d, err)
			}
		}
		for name, position := range indexed.index.rules.positions {
			if v := (*indexed.index.rowOf(&in).values.Load())[position]; position > 0 && v != nil {
				t.Errorf("%s: %s is cached as %v", rules, name, v)
			}
		}
	}
}

// OPA may stop at the first solution of a rule, although another solution contradicts the first one. If a later evaluation on the
// same row does not stop there, it must still report the contradiction.
func TestContradictionsAreFoundLater(t *testing.T) {
	const rest = `
headers["x"] := "1" if { input.workspace.role == "r1"; e }
headers["x"] := y if input.workspace.role == "r2"
e if y == "a"
`
	for name, rules := range map[string]string{
		"walk":          `y := x if { walk(["a", "b"], [_, x]); is_string(x) }` + rest,
		"tree of rules": "p.q := \"a\"\np.r := \"b\"\ny := x if { x := p[_] }" + rest,
		"function":      "f(v) := x if { walk([v, \"b\"], [_, x]); is_string(x) }\ny := f(\"a\") if route" + rest,
		"else":          `y := "a" if { 1 == 2 } else := x if { walk(["a", "b"], [_, x]); is_string(x) }` + rest,
		"a function that a condition calls first": `
f(v) := x if { walk([v, "b"], [_, x]); is_string(x) }
e if f("a") == "a"
headers["x"] := z if { input.workspace.role != "none"; e; z := f("a") }`,
		"needs": `
y := x if { walk([[{"a"}], [{"b"}]], [_, x]); is_array(x); count(x) == 1 }
headers["x"] := "1" if { input.workspace.role == "r1"; some scope_set in y; "a" in scope_set }
headers["x"] := "1" if {
	input.workspace.role == "r2"
	every scope_set in y {
		some scope in input.principal.scopes
		scope in scope_set
	}
}`,
	} {
		for _, roles := range [][]string{{"r1", "r2"}, {"r2", "r1"}, {"r1", "r1", "r2", "r1"}} {
			plain, engine := withMemory(t, withRules(t, rules))
			for i, role := range roles {
				in := authz.Input{
					API: "velaflows", Method: "GET", Path: "/api/v1/contacts",
					Principal: &authz.Principal{Kind: authz.KindWorkspaceToken, Scopes: []string{"admin:all"}},
					Workspace: authz.Workspace{Requested: true, Granted: true, Role: role},
				}
				got, err := engine.Decide(t.Context(), in)
				want, wantErr := plain.Decide(t.Context(), in)
				if (err == nil) != (wantErr == nil) || !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %v, %d: %t %v %v; OPA alone: %t %v", name, roles, i, got.Allow, got.Headers, err, want.Allow, wantErr)
				}
			}
		}
	}
}

// For each row, the engine evaluates a slow rule separately only once, not for every check. This is true even if no decision
// needs the rule.
func TestSlowRulesAreEvaluatedOnce(t *testing.T) {
	const rules = `
many := numbers.range(1, 1000)

slow := [{"a"} | some a in many; some b in many; some c in many; a + b + c < 0]

headers["x"] := "1" if {
	input.workspace.role == "slow"
	every scope_set in slow {
		some scope in input.principal.scopes
		scope in scope_set
	}
}

quick_at_first if { some a in many; some b in many; some c in many; a + b + c > 0 }

headers["y"] := "1" if quick_at_first`
	_, engine := withMemory(t, withRules(t, rules))
	in := authz.Input{
		API: "velaflows", Method: "GET", Path: "/api/v1/contacts",
		Principal: &authz.Principal{Kind: authz.KindWorkspaceToken, Scopes: []string{"admin:all"}},
		Workspace: authz.Workspace{Requested: true, Granted: true},
	}
	for range 2 {
		if d, err := engine.Decide(t.Context(), in); err != nil || d.Headers["y"] != "1" {
			t.Fatalf("%+v, %v", d, err)
		}
		r := engine.row(&in)
		if n := r.needs.Load(); n == nil || !n.unknown || !r.uncached.Load() {
			t.Errorf("the needs of the row are %+v, uncached is %t", n, r.uncached.Load())
		}
		in.Principal = &authz.Principal{Kind: authz.KindWorkspaceToken, Scopes: []string{"admin:all", "another"}}
	}
}

// Concurrent evaluations on one row make the right decisions.
func TestRowCacheConcurrently(t *testing.T) {
	s, err := readSource(Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, indexed := bothEngines(t, s)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 50 {
				in := authz.Input{
					API: "velaflows", Method: "GET", Path: "/api/v1/inbox/conversations",
					Principal: &authz.Principal{Kind: authz.KindWorkspaceToken, Scopes: []string{[]string{"inbox:read", "crm:read"}[i%2]}},
					Workspace: authz.Workspace{Requested: true, Granted: true},
				}
				if d, err := indexed.Decide(t.Context(), in); err != nil || d.Allow != (i%2 == 0) || d.RequiredScopes[0] != "inbox:read" {
					t.Errorf("%+v, %v", d, err)
				}
			}
		})
	}
	all.Wait()
}

// The input contains a part if and only if a rule reads the part. The cases cover each way in which a rule can read a part.
func TestPartsOfTheInput(t *testing.T) {
	t.Parallel()
	race.Skip(t)
	in := authz.Input{
		API: "velaflows", Method: "GET", Path: "/healthz", RawQuery: "q=1", Query: map[string][]string{"q": {"1"}},
		Header: map[string][]string{"x-a": {"b"}}, Host: "api.example", Context: authz.Fields{{Name: "c", Value: "d"}}, Time: time.Unix(1750000000, 1),
		Principal: &authz.Principal{
			ID: "t1", Kind: "session", API: "velaflows", Environment: "live", UserID: "ada", Scopes: []string{"s"}, AAL: "aal2",
			Attributes: `{"a":1}`, UserAttributes: `{"b":2}`,
		},
		Workspace: authz.Workspace{Requested: true, Granted: true, ID: "w1", Slug: "acme", Role: "owner", Attributes: `{"c":3}`},
		Source:    authz.Source{Address: "10.0.0.1", Principal: "spiffe://a", Certificate: &clientcert.Certificate{Subject: "CN=a"}},
	}
	var allParts document.Reading
	for p := range allParts {
		allParts[p] = true
	}
	whole, err := document.Input(&in, &allParts)
	if err != nil {
		t.Fatal(err)
	}
	_, shipped := bothEngines(t, withRules(t, "unused := 1"))
	for p := range document.NumberOfParts {
		ref := p.Ref()
		if p == document.InputRow || p == document.PrincipalNeeds || p == document.InputPrincipal {
			continue // not in the document, or covered by its fields
		}
		value, err := whole.Find(ref[1:])
		if err != nil {
			t.Fatal(ref, err)
		}
		want := ast.MustJSON(value)
		name := ruleName(ref)
		parent := ref[:len(ref)-1].String()
		keys := make([]string, 0, len(ref))
		for _, key := range ref[1:] {
			keys = append(keys, key.String())
		}
		path := "[" + strings.Join(keys, ", ") + "]"
		for i, c := range []struct{ form, rules string }{
			{"by name", fmt.Sprintf("v := %s", ref)},
			{"by a string key", fmt.Sprintf("v := %s[%q]", parent, name)},
			{"by an assignment", fmt.Sprintf("v := y if {\n\tx := %s\n\ty := x.%s\n}", parent, name)},
			{"by a variable", fmt.Sprintf("v := y if {\n\tsome k in [%q]\n\ty := %s[k]\n}", name, parent)},
			{"by an enumeration", fmt.Sprintf("v := y if {\n\tsome k, y in %s\n\tk == %q\n}", parent, name)},
			{"by a function", fmt.Sprintf("v := f(%s)\n\nf(x) := x.%s", parent, name)},
			{"in a function", fmt.Sprintf("v := f(1)\n\nf(x) := %s if x == 1", ref)},
			{"by object.get", fmt.Sprintf("v := object.get(input, %s, null)", path)},
			{"by walk", fmt.Sprintf("v := x if walk(input, [%s, x])", path)},
			{"in a comprehension", fmt.Sprintf("v := [x | x := %s][0]", ref)},
			{"in an every expression", fmt.Sprintf("v := w if {\n\tevery x in [1] {\n\t\tx != %s\n\t}\n}\n\nw := %s", ref, ref)},
			{"in an else branch", fmt.Sprintf("v := 1 if {\n\tpublic != true\n} else := %s", ref)},
			{"in a rule that an else branch reads", fmt.Sprintf("v := 1 if {\n\tpublic != true\n} else := w\n\nw := 1 if {\n\tpublic != true\n} else := %s", ref)},
			{"in a head", fmt.Sprintf("v := w.a\n\nw[\"a\"] := %s", ref)},
			{"in an object", fmt.Sprintf("v := {\"a\": %s}.a", ref)},
			{"in a set", fmt.Sprintf("v := x if some x in w\n\nw contains %s", ref)},
			{"by unification", fmt.Sprintf("v := x if [x, 1] = [%s, 1]", ref)},
			{"in a rule that reads a replaced input", fmt.Sprintf("v := x if x := w with input.none as 1\n\nw := %s", ref)},
			{"in a template", fmt.Sprintf("v := w if $\"{%s}\" != \"<undefined>\"\n\nw := %s", ref, ref)},
			{"in another package", fmt.Sprintf("v := data[[\"keywicket\"][0]].w\n\nw := %s", ref)},
			{"in a rule with a default", fmt.Sprintf("default v := 0\n\nv := %s", ref)},
		} {
			if (i+int(p))%sample.Interval() != 0 {
				continue
			}
			_, indexed := bothEngines(t, withRules(t, "headers[\"x\"] := json.marshal(v)\n\n"+c.rules))
			d, err := indexed.Decide(t.Context(), in)
			var got any
			if err == nil {
				err = json.Unmarshal([]byte(d.Headers["x"]), &got)
			}
			if text, _ := json.Marshal(want); err != nil || string(text) != d.Headers["x"] {
				t.Errorf("%s %s: %q, %v, not %s", ref, c.form, d.Headers["x"], err, text)
			}
		}
		needed := map[document.Part]bool{
			document.InputDenial: true, document.PrincipalKind: true, document.PrincipalScopes: true, document.WorkspaceRequested: true, document.WorkspaceGranted: true, document.WorkspaceRole: true,
		}
		if got := shipped.readingWithRow[p]; got != needed[p] {
			t.Errorf("%s: it is read: %t", ref, got)
		}
	}
}
