package source_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// opaBinary builds the opa command of the version in tools/opa.mod, and returns the path of the binary.
var opaBinary = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	tool := exec.CommandContext(ctx, "go", "tool", "-modfile=tools/opa.mod", "-n", "opa")
	tool.Dir = "../.."
	out, err := tool.Output()
	return strings.TrimSpace(string(out)), err
})

// opaTest reports whether the tests of a folder pass in `opa test`. With the flag -z, a skipped test is not a failure, as in
// the sidecar.
func opaTest(t *testing.T, dir string, flags ...string) (passes bool, output string) {
	t.Helper()
	opa, err := opaBinary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), opa, append(append([]string{"test", "-z", "--ignore", ".*"}, flags...), dir)...).CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return err == nil, string(out)
}

// policyOf returns a policy folder with the built-in rules, a small table, and the files of a txtar archive. The folder contains
// no tests of the built-in rules. It also lacks the shipped tables, because they would take most of a test's time.
func policyOf(t *testing.T, archive string) string {
	t.Helper()
	dir := policytest.Copy(t)
	policytest.RemoveTests(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, "apis")); err != nil {
		t.Fatal(err)
	}
	policytest.Write(t, dir, "apis/velaflows/data.yaml", "routes: [{method: GET, path: /healthz, public: true}]\n")
	for _, file := range txtar.Parse([]byte(archive)).Files {
		policytest.Write(t, dir, file.Name, string(file.Data))
	}
	return dir
}

const passes = ""

// TestPolicyLoadsIfAndOnlyIfOPATestPasses tests that the sidecar loads a folder if and only if `opa test` passes.
func TestPolicyLoadsIfAndOnlyIfOPATestPasses(t *testing.T) {
	for name, c := range map[string]struct {
		files string
		want  string // a part of the sidecar's error; the constant `passes` if there is no error
	}{
		"no test":                                {"-- x.rego --\npackage x\n", passes},
		"true":                                   {"-- x_test.rego --\npackage x\n\ntest_a if true\n", passes},
		"false":                                  {"-- x_test.rego --\npackage x\n\ntest_a := false\n", "x_test.rego:3: the test test_a fails"},
		"undefined":                              {"-- x_test.rego --\npackage x\n\ntest_a if input.nothing\n", "x_test.rego:3: the test test_a fails"},
		"a number":                               {"-- x_test.rego --\npackage x\n\ntest_a := 1\n", "x_test.rego:3: the test test_a fails"},
		"a text":                                 {"-- x_test.rego --\npackage x\n\ntest_a := \"x\"\n", "x_test.rego:3: the test test_a fails"},
		"null":                                   {"-- x_test.rego --\npackage x\n\ntest_a := null\n", "x_test.rego:3: the test test_a fails"},
		"an object":                              {"-- x_test.rego --\npackage x\n\ntest_a := {\"a\": true}\n", "x_test.rego:3: the test test_a fails"},
		"a set":                                  {"-- x_test.rego --\npackage x\n\ntest_a contains 1\n", "x_test.rego:3: the test test_a fails"},
		"a set without elements":                 {"-- x_test.rego --\npackage x\n\ntest_a contains \"case\" if false\n", "x_test.rego:3: the test test_a fails"},
		"a default":                              {"-- x_test.rego --\npackage x\n\ndefault test_a := true\n", passes},
		"a default of false":                     {"-- x_test.rego --\npackage x\n\ndefault test_a := false\n\ntest_a if 1 == 2\n", "x_test.rego:3: the test test_a fails"},
		"a function":                             {"-- x_test.rego --\npackage x\n\ntest_f(a) if a == 1\n", "x_test.rego:3: the test test_f fails"},
		"names without test_":                    {"-- x_test.rego --\npackage x\n\ntest := false\n\ntests if false\n\ntesting := 1\n", passes},
		"test_ inside a name":                    {"-- x_test.rego --\npackage x\n\nmy_test_a := false\n", passes},
		"test_ in a nested name":                 {"-- x_test.rego --\npackage x\n\na.test_b if false\n", "x_test.rego:3: the test a.test_b fails"},
		"a nested name, false":                   {"-- x_test.rego --\npackage x\n\na.test_b := false\n", passes}, // opa test also passes
		"test_ before a nested name":             {"-- x_test.rego --\npackage x\n\ntest_a.b := false\n", "x_test.rego:3: the test test_a"},
		"todo":                                   {"-- x_test.rego --\npackage x\n\ntodo_test_a := false\n", passes},
		"todo and a test":                        {"-- x_test.rego --\npackage x\n\ntodo_test_a := false\n\ntest_b if false\n", "x_test.rego:5: the test test_b fails"},
		"todo without test":                      {"-- x_test.rego --\npackage x\n\ntodo_a := false\n", passes},
		"two failing tests":                      {"-- x_test.rego --\npackage x\n\ntest_a if false\n\ntest_b if false\n", "x_test.rego:3: the test test_a fails at line 3: false\nx_test.rego:5: the test test_b fails at line 5: false"},
		"one name twice, the first fails":        {"-- x_test.rego --\npackage x\n\ntest_a if false\n\ntest_a if true\n", "x_test.rego:3: the test test_a fails"},
		"one name twice, the second fails":       {"-- x_test.rego --\npackage x\n\ntest_a if true\n\ntest_a if false\n", "x_test.rego:5: the test test_a#01 fails"},
		"one name twice, with and without cases": {"-- x_test.rego --\npackage x\n\ntest_a if true\n\ntest_a[\"c\"] if true\n", "x_test.rego:5: the test test_a#01 fails"},
		"one name in two files":                  {"-- a_test.rego --\npackage x\n\ntest_a if true\n-- b_test.rego --\npackage x\n\ntest_a if true\n", passes},
		"else":                                   {"-- x_test.rego --\npackage x\n\ntest_a := false if {\n\tfalse\n} else := true\n", passes},
		"two packages":                           {"-- x_test.rego --\npackage x\n\ntest_a if true\n-- y_test.rego --\npackage y.z\n\ntest_a if false\n", "y_test.rego:3: the test test_a fails"},
		"package of any name":                    {"-- deep/er/x.rego --\npackage foo.bar[\"a b\"]\n\na := 1\n-- x_test.rego --\npackage foo_test\n\ntest_a if data.foo.bar[\"a b\"].a == 1\n", passes},
		"a failing test in x.rego":               {"-- x.rego --\npackage x\n\ntest_a if false\n", "x.rego:3: the test test_a fails"},
		"passing tests in x.rego":                {"-- x.rego --\npackage x\n\ntest_a if true\n\ntest_a if 1 == 1\n", passes},
		"a helper":                               {"-- h_test.rego --\npackage h\n\nf(x) := x + 1\n-- x_test.rego --\npackage x\n\nimport data.h\n\ntest_a if h.f(1) == 2\n", passes},
		"a helper in h.rego":                     {"-- h.rego --\npackage h\n\nf(x) := x + 1\n-- x_test.rego --\npackage x\n\nimport data.h\n\ntest_a if h.f(1) == 3\n", "x_test.rego:5: the test test_a fails"},
		"`with` replaces data":                   {"-- x_test.rego --\npackage x\n\ntest_a if data.apis.velaflows.n == 1 with data.apis.velaflows as {\"n\": 1}\n", passes},
		"`with` replaces a rule":                 {"-- x.rego --\npackage x\n\na := 1\n-- x_test.rego --\npackage x\n\ntest_a if a == 2 with a as 2\n", passes},
		"`with` replaces a built-in":             {"-- x_test.rego --\npackage x\n\ntest_a if count([1]) == 7 with count as 7\n", passes},
		"reads the tables":                       {"-- x_test.rego --\npackage x\n\ntest_a if count(data.apis.velaflows.routes) > 0\n", passes},
		"print":                                  {"-- x_test.rego --\npackage x\n\ntest_a if {\n\tprint(\"a\", input.nothing, 1 / 0)\n}\n", passes},
		"print of an undeclared variable":        {"-- x_test.rego --\npackage x\n\ntest_a if {\n\tprint(y)\n}\n", "x_test.rego:4: var y is undeclared"},
		"a built-in fails":                       {"-- x_test.rego --\npackage x\n\ntest_a if 1 / 0 == 1\n", "x_test.rego:3: the test test_a fails"},
		"a built-in fails under `not`":           {"-- x_test.rego --\npackage x\n\na if 1 / input.n == 1\n\ntest_a if not a with input as {\"n\": 0}\n", passes},
		"a conflict":                             {"-- x_test.rego --\npackage x\n\na := 1 if input.n\n\na := 2 if input.n\n\ntest_a if a == 1 with input as {\"n\": 1}\n", "x_test.rego:7: the test test_a fails: rule data.x.a produced conflicting values"},
		"a case":                                 {"-- x_test.rego --\npackage x\n\ntest_a[c] if some c in [\"p\", \"q\"]\n", passes},
		"a case fails": {"-- x_test.rego --\npackage x\n\ntest_a[c.name] if {\n\tsome c in [{\"name\": \"p\", \"n\": 1}, {\"name\": \"q\", \"n\": 2}, {\"name\": \"r\", \"n\": 3}]\n\tc.n == 2\n}\n",
			`x_test.rego:3: the test test_a fails for "p", "r"; the first case at line 5: c.n == 2, got 1`},
		"nested cases": {"-- x_test.rego --\npackage x\n\ntest_a[c][d] if {\n\tsome c in [\"p\", \"q\"]\n\tsome d in [1, 2]\n\tc != \"q\"\n}\n",
			`x_test.rego:3: the test test_a fails for "q/1", "q/2"`},
		"cases as an object": {"-- x_test.rego --\npackage x\n\ntest_a[c] := v if some c, v in {\"p\": true, \"q\": false, \"r\": 1}\n",
			`x_test.rego:3: the test test_a fails for "q", "r"`},
		"no case":                 {"-- x_test.rego --\npackage x\n\ntest_a[c] if some c in []\n", passes},
		"metadata":                {"-- x_test.rego --\n# METADATA\n# custom: {n: 1}\npackage x\n\n# METADATA\n# custom: {n: 2}\ntest_a if rego.metadata.rule().custom.n == 2\n", passes},
		"metadata that fails":     {"-- x.rego --\npackage x\n\n# METADATA\n# title: [\na := 1\n", "x.rego:4: "},
		"a schema":                {"-- x.rego --\npackage x\n\n# METADATA\n# schemas:\n# - input: {type: object, properties: {n: {type: number}}}\na if input.n == 1\n\ntest_a if a with input as {\"n\": 1}\n", passes},
		"a key not in the schema": {"-- x.rego --\npackage x\n\n# METADATA\n# schemas:\n# - input: {type: object, properties: {n: {type: number}}}\na if input.m == 1\n", "x.rego:6: undefined ref: input.m"},
		"a schema's URL":          {"-- x.rego --\npackage x\n\n# METADATA\n# schemas:\n# - input: {\"$ref\": \"http://127.0.0.1:1/schema\"}\na if input.m == 1\n", "x.rego:"},
		"a schema by name":        {"-- x.rego --\npackage x\n\n# METADATA\n# schemas:\n# - input: schema.nothing\na if input.m == 1\n", passes},
		"rego.v1":                 {"-- x_test.rego --\npackage x\n\nimport rego.v1\n\ntest_a if 1 in [1]\n", passes},
		"future keywords":         {"-- x_test.rego --\npackage x\n\nimport future.keywords\nimport future.keywords.not\n\ntest_a if 1 in [1]\n", passes},
		"no such keyword":         {"-- x_test.rego --\npackage x\n\nimport future.keywords.nothing\n", "x_test.rego:3: unexpected keyword"},
		"v0":                      {"-- x_test.rego --\npackage x\n\ntest_a { true }\n", "x_test.rego:3: `if` keyword is required before rule body"},
		"empty":                   {"-- x.rego --\n", "x.rego: empty module"},
		"a comment":               {"-- x.rego --\n# nothing\n", "x.rego: empty module"},
		"no package":              {"-- x.rego --\na := 1\n", "x.rego:1: package expected"},
		"recursion":               {"-- x.rego --\npackage x\n\na if b\n\nb if a\n", "x.rego:3: rule data.x.a is recursive: data.x.a -> data.x.b -> data.x.a\nx.rego:5: "},
		"a type error":            {"-- x_test.rego --\npackage x\n\ntest_a if \"a\" == 1\n", "x_test.rego:3: match error"},
		"a rule in place of data": {"-- x.rego --\npackage apis.velaflows\n\nroutes := []\n", "x.rego:3: conflicting rule for data path apis/velaflows/routes"},
		"deprecated":              {"-- x_test.rego --\npackage x\n\ntest_a if any([true])\n", "x_test.rego:3: deprecated built-in function calls in expression: any"},
		"template text":           {"-- x_test.rego --\npackage x\n\ntest_a if $\"a{1}\" == \"a1\"\n", passes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := policyOf(t, c.files)
			passed, output := opaTest(t, dir)
			_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if passed != (err == nil) || passed != (c.want == passes) {
				t.Fatalf("opa test passes: %v; the sidecar returns: %v\n%s", passed, err, output)
			}
			if err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
		})
	}
}

// TestUnavailableBuiltins tests folders with which `opa test` passes. The sidecar refuses each folder, and reports the cause.
func TestUnavailableBuiltins(t *testing.T) {
	const cause = " is not available in the sidecar: a decision cannot access the network or the environment"
	for name, c := range map[string]struct{ files, want string }{
		"a rule": {"-- x.rego --\npackage x\n\na if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1:1\"}).status == 200\n", "x.rego:3: http.send" + cause},
		"a test": {"-- x_test.rego --\npackage x\n\ntest_a if is_object(opa.runtime())\n", "x_test.rego:3: opa.runtime" + cause},
		"a test that replaces the built-in": {"-- x.rego --\npackage x\n\na if http.send({}).status == 200\n-- x_test.rego --\npackage x\n\ntest_a if {\n\ta with http.send as {\"status\": 200}\n}\n",
			"x.rego:3: http.send" + cause + "\nx_test.rego:4: http.send" + cause},
		"as a replacement":   {"-- x.rego --\npackage x\n\nf(x) := x\n\na if f({}) with f as net.lookup_ip_addr\n", "x.rego:5: net.lookup_ip_addr" + cause},
		"in a comprehension": {"-- x.rego --\npackage x\n\na := [x | some x in [1]; json.match_schema({}, {})]\n", "x.rego:3: json.match_schema" + cause},
		"in an else":         {"-- x.rego --\npackage x\n\na if {\n\tinput.a\n} else if {\n\tevery x in [1] {\n\t\tjson.verify_schema(x)[0]\n\t}\n}\n", "x.rego:7: json.verify_schema" + cause},
		"in a head":          {"-- x.rego --\npackage x\n\na[opa.runtime().config] := net.lookup_ip_addr(\"a\")\n", "x.rego:3: net.lookup_ip_addr" + cause + "\nx.rego:3: opa.runtime" + cause},
		"a helper of tests":  {"-- h_test.rego --\npackage h\n\nf(x) := x\n-- x.rego --\npackage x\n\na if data.h.f(true)\n", "x.rego:3: undefined function data.h.f: the sidecar decides without the _test.rego files, so move the definition to another file"},
		"own definitions with names of unavailable built-ins": {"-- x.rego --\npackage x\n\nimport data.http\n\na if http.send({})\n\nb if {\n\topa := {\"runtime\": 1}\n\topa.runtime == 1\n}\n-- http.rego --\npackage http\n\nsend(_) := true\n", passes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := policyOf(t, c.files)
			if passed, output := opaTest(t, dir); !passed {
				t.Errorf("opa test does not pass: %s", output)
			}
			_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if got := errorText(err); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// TestUnreadableFile tests that the error lists only the missing files, without the errors that are their consequences.
func TestUnreadableFile(t *testing.T) {
	dir := policyOf(t, "-- x.rego --\npackage x\n\na if data.y.f(1)\n")
	if err := os.Mkdir(filepath.Join(dir, "apis/zoo"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"y.rego", "apis/zoo/data.yaml"} {
		if err := os.Symlink("nowhere", filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
	const want = `apis/zoo/data.yaml: the link cannot be followed: no such file or directory
y.rego: the link cannot be followed: no such file or directory`
	if got := errorText(err); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if passed, output := opaTest(t, dir); passed {
		t.Errorf("opa test passes: %s", output)
	}
}

// TestSchemaIsNotFetched tests that the sidecar does not fetch the address in a schema annotation when it compiles. `opa test`
// fetches that address.
func TestSchemaIsNotFetched(t *testing.T) {
	var fetched atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		_, _ = w.Write([]byte(`{"type": "object"}`))
	}))
	defer server.Close()
	dir := policyOf(t, "-- x.rego --\npackage x\n\n# METADATA\n# schemas:\n# - input: {\"$ref\": \""+server.URL+"/schema\"}\na if input.m == 1\n")
	if passed, output := opaTest(t, dir); !passed || fetched.Load() == 0 {
		t.Errorf("opa test passes: %v; it fetched the schema %d times\n%s", passed, fetched.Load(), output)
	}
	fetched.Store(0)
	_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
	if got := errorText(err); fetched.Load() > 0 || !strings.HasPrefix(got, "x.rego:6: ") || !strings.Contains(got, "remote reference loading disabled") {
		t.Errorf("the sidecar fetched the schema %d times: %v", fetched.Load(), err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestAllErrorsAreReportedTogether tests that one load reports every problem, by file and line.
func TestAllErrorsAreReportedTogether(t *testing.T) {
	dir := policyOf(t, `
-- apis/zoo/data.yaml --
scopes:
  workspace: {animals:read: Look at animals}
  team: {}
overrides:
  workspace: [zoo:keeper]
roles:
  guest: [animals:read, animals:feed]
parameters: {may_hold: ["/"], raw_semicolon: perhaps}
routes:
  - {method: get, path: /a, scopes: [animals:read]}
  - {method: GET, path: /b, scope: [animals:read]}
  - {method: GET, path: /c, scopes: [animals:reed]}
  - {method: GET, path: /d, scopes: [animals:read]}
  - method: GET
    path: /d
    scopes:
      - animals:read
  - {method: GET, path: /e, scopes: [animals:read], public: no}
  - method: GET
    path: /f
    scopes:
      - animals:read
      -
-- apis/shop/data.yaml --
routes: [
-- facts/a/data.yaml --
b: {c: 1}
-- facts/a/b/data.json --
{
  "c": 2
}
-- facts/b/data.json --
{"n": 1

-- facts/c/data.yaml --
a: [1
-- facts/d/data.json --
{"b": {"c": 1}}
-- facts/d/data.yaml --
b: {d: 1}
-- facts/d/data.yml --
b: {d: 2}
-- facts/e/data.json --
{"b": 1}
-- facts/e/data.yaml --
a: 1
b: 2
-- facts/e/data.yml --
a: 2
-- data.yaml --
a: 1
-- a.rego --
package a

x if y == 1
-- b.rego --
package b

x if nothing(1)

y if z == 1

a[z] if true
-- c_test.rego --
package c

test_x if http.send({})

test_y if "a" == 1

test_z if false
`)
	tables := strings.ReplaceAll(`apis/shop/data.yaml:1: did not find expected node content: check the indentation, the brackets and quotes, and the space after each colon
apis/zoo/data.yaml:3: scopes: the level "team" is neither workspace nor user
apis/zoo/data.yaml:5: overrides: the scope "zoo:keeper" is not defined under the key "scopes"
apis/zoo/data.yaml:7: roles: guest: the scope "animals:feed" is not defined under the key "scopes"
apis/zoo/data.yaml:8: ~perhaps~ is not true or false
apis/zoo/data.yaml:8: parameters.may_hold: "/" is not one of "#", "%", "?", ";"
apis/zoo/data.yaml:10: the method "get" is invalid: write it in capitals, or write * for any method
apis/zoo/data.yaml:11: unknown key "scope"; keys are any_of, grpc, level, method, path, public, scopes
apis/zoo/data.yaml:12: the scope "animals:reed" is not defined under the key "scopes"
apis/zoo/data.yaml:14: GET /d matches the same requests as line 13: remove one of them
apis/zoo/data.yaml:18: opa and keywicket read a value here as different types: write booleans as true or false, and put strings in quotes
apis/zoo/data.yaml:23: an empty item in a list
`, "~", "`")
	const data = `
data.yaml: unexpected data file: put a table in apis/NAME/data.yaml, and other data in facts/NAME/data.yaml or .json
facts/a/data.yaml:1: data.facts.a.b.c is also in facts/a/b/data.json: keep one
facts/b/data.json:1: unexpected EOF
facts/c/data.yaml:1: did not find expected ',' or ']': check the indentation, the brackets and quotes, and the space after each colon
facts/d/data.yml:1: data.facts.d.b.d is also in facts/d/data.yaml: keep one
facts/e/data.yaml:2: data.facts.e.b is also in facts/e/data.json: keep one
facts/e/data.yml:1: data.facts.e.a is also in facts/e/data.yaml: keep one`
	refusal := func() string {
		_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
		return errorText(err)
	}
	want := `a.rego:3: var y is unsafe
` + tables + `b.rego:3: undefined function nothing
b.rego:5: var z is unsafe
b.rego:7: var z is unsafe
c_test.rego:3: http.send is not available in the sidecar: a decision cannot access the network or the environment
c_test.rego:5: match error` + data
	if got := refusal(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	// If a Rego file cannot be parsed, no rule can be compiled.
	policytest.Write(t, dir, "a.rego", "package a\n\nx if {\n")
	policytest.Write(t, dir, "b.rego", "package b\n\nx := [1, 2\n")
	want = "a.rego:4: unexpected eof token\n" + tables + `b.rego:4: unexpected eof token: expected "," or "]"
b.rego:4: unexpected eof token: expected rule value term (e.g., x := <VALUE> { ... })` + data
	if got := refusal(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	// By default OPA's compiler stops at the tenth error.
	var many strings.Builder
	many.WriteString("package a\n")
	for range 30 {
		many.WriteString("x if y == 1\n")
	}
	for _, file := range []string{"apis/zoo", "apis/shop", "facts", "data.yaml", "b.rego", "c_test.rego"} {
		if err := os.RemoveAll(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	policytest.Write(t, dir, "a.rego", many.String())
	if got := strings.Count(refusal(), ": var y is unsafe"); got != 30 {
		t.Errorf("%d errors", got)
	}
}
