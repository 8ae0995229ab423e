package source_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// factsDecision is a policy whose decision returns data.facts, as JSON, in its key route.
const factsDecision = `package keywicket

decision := {"allow": true, "code": null, "reason": null, "required_scopes": [], "route": json.marshal(known)}

default known := "none"

known := data.facts
`

// factsOfOPA returns data.facts as JSON, as the opa command reads it. It returns false if opa refuses the folder.
func factsOfOPA(t *testing.T, dir string, flags ...string) (string, bool) {
	t.Helper()
	opa, err := opaBinary()
	if err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{"eval", "--format", "json", "--ignore", ".*"}, flags...), dir, "data.keywicket.decision.route")
	out, err := exec.CommandContext(t.Context(), opa, args...).Output()
	if err != nil {
		return "", false
	}
	var result struct {
		Result []struct {
			Expressions []struct{ Value string }
		}
	}
	if err := json.Unmarshal(out, &result); err != nil || len(result.Result) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return result.Result[0].Expressions[0].Value, true
}

// TestFactsEqualThoseOfOPA tests files below facts/. `opa test`, `opa test -b` and the sidecar must read a file in the same
// way, or the sidecar must refuse it.
func TestFactsEqualThoseOfOPA(t *testing.T) {
	differing := 0
	for name, c := range map[string]struct {
		files string
		want  string // data.facts as JSON; the constant `refused` if the sidecar refuses the file
	}{
		"none":                       {"-- x.rego --\npackage x\n", `"none"`},
		"YAML":                       {"-- facts/a/data.yaml --\nb: [1, c, true]\n", `{"a":{"b":[1,"c",true]}}`},
		"yml":                        {"-- facts/a/data.yml --\nb: 1\n", `{"a":{"b":1}}`},
		"JSON":                       {"-- facts/a/data.json --\n{\"b\": 1}\n", `{"a":{"b":1}}`},
		"at the top level":           {"-- facts/data.json --\n{\"b\": 1}\n", `{"b":1}`},
		"a list at the top level":    {"-- facts/data.json --\n[1]\n", `[1]`},
		"deep":                       {"-- facts/a/b/c/data.yaml --\nd: 1\n", `{"a":{"b":{"c":{"d":1}}}}`},
		"merged":                     {"-- facts/a/data.yaml --\nb: {c: 1}\n-- facts/a/b/data.json --\n{\"d\": 2}\n-- facts/a/data.json --\n{\"e\": {}}\n-- facts/a/e/data.yaml --\n{}\n", `{"a":{"b":{"c":1,"d":2},"e":{}}}`},
		"a key twice":                {"-- facts/a/data.yaml --\nb: 1\n-- facts/a/data.json --\n{\"b\": 1}\n", refused},
		"a key below another":        {"-- facts/a/data.yaml --\nb: 1\n-- facts/a/b/data.json --\n{\"c\": 1}\n", refused},
		"a list and a key":           {"-- facts/a/data.yaml --\n[1]\n-- facts/a/b/data.json --\n{\"c\": 1}\n", refused},
		"null and a key":             {"-- facts/a/data.yaml --\n-- facts/a/b/data.json --\n{\"c\": 1}\n", refused},
		"empty YAML":                 {"-- facts/a/data.yaml --\n", `{"a":null}`},
		"empty JSON":                 {"-- facts/a/data.json --\n", refused},
		"a comment":                  {"-- facts/a/data.yaml --\n# nothing\n", `{"a":null}`},
		"a list":                     {"-- facts/a/data.yaml --\n- 1\n- ~\n", `{"a":[1,null]}`},
		"a text":                     {"-- facts/a/data.yaml --\nhello\n", `{"a":"hello"}`},
		"nulls":                      {"-- facts/a/data.yaml --\na:\nb: ~\nc: null\nd: [~]\n", `{"a":{"a":null,"b":null,"c":null,"d":[null]}}`},
		"booleans of YAML 1.1":       {"-- facts/a/data.yaml --\na: yes\nb: off\nc: n\nd: true\ne: TRUE\n", `{"a":{"a":"yes","b":"off","c":"n","d":true,"e":true}}`},
		"numbers in JSON":            {"-- facts/a/data.json --\n[12345678901234567890123, 0.1000, 1e400, -0, 1E3]\n", `{"a":[12345678901234567890123,0.1000,1e400,-0,1E3]}`},
		"integers in YAML":           {"-- facts/a/data.yaml --\n- 9223372036854775807\n- 18446744073709551615\n- 0x1F\n- 0o17\n- 017\n- 1_000\n- +1\n", `{"a":[9223372036854775807,18446744073709551615,31,15,15,1000,1]}`},
		"large number in YAML":       {"-- facts/a/data.yaml --\na: 12345678901234567890123\n", `{"a":{"a":1.2345678901234568e+22}}`},
		"JSON in YAML, large number": {"-- facts/a/data.yaml --\n{\"a\": 12345678901234567890123}\n", refused},
		"JSON in YAML, 1.0":          {"-- facts/a/data.yaml --\n{\"a\": 1.0}\n", refused},
		"JSON in YAML":               {"-- facts/a/data.yaml --\n{\"a\": [1, \"b\", null]}\n", `{"a":{"a":[1,"b",null]}}`},
		"JSON in YAML, twice":        {"-- facts/a/data.yaml --\n{\"a\": 1, \"a\": 2}\n", `{"a":{"a":2}}`},
		"infinity":                   {"-- facts/a/data.yaml --\na: .inf\n", refused},
		"not a number":               {"-- facts/a/data.yaml --\na: .nan\n", refused},
		"dates":                      {"-- facts/a/data.yaml --\na: 2026-11-27\nb: 2026-11-27T10:00:00Z\nc: 10:30\n", `{"a":{"a":"2026-11-27","b":"2026-11-27T10:00:00Z","c":"10:30"}}`},
		"keys of other types":        {"-- facts/a/data.yaml --\n1: a\ntrue: b\n2.5: c\n~: d\n", refused},
		"number as a key":            {"-- facts/a/data.yaml --\n1: a\n", `{"a":{"1":"a"}}`},
		"a list as a key":            {"-- facts/a/data.yaml --\n[1]: a\n", refused},
		"a key twice, YAML":          {"-- facts/a/data.yaml --\na: 1\na: 2\n", `{"a":{"a":2}}`},
		"a key twice, JSON":          {"-- facts/a/data.json --\n{\"a\": 1, \"a\": 2}\n", `{"a":{"a":2}}`},
		"anchors":                    {"-- facts/a/data.yaml --\na: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n", `{"a":{"a":{"b":1},"c":{"b":1},"d":{"b":1,"e":2}}}`},
		"an anchor in itself":        {"-- facts/a/data.yaml --\na: &x [*x]\n", refused},
		"an unknown anchor":          {"-- facts/a/data.yaml --\na: *x\n", refused},
		"a binary":                   {"-- facts/a/data.yaml --\na: !!binary aGVsbG8=\n", `{"a":{"a":"hello"}}`},
		"a tag":                      {"-- facts/a/data.yaml --\na: !!str 1\nb: !mine 2\n", `{"a":{"a":"1","b":"2"}}`},
		"two YAML documents":         {"-- facts/a/data.yaml --\na: 1\n---\nb: 2\n", `{"a":{"a":1}}`},
		"an invalid second document": {"-- facts/a/data.yaml --\na: 1\n---\n[\n", refused},
		"two JSON documents":         {"-- facts/a/data.json --\n{} {}\n", refused},
		"text after the JSON":        {"-- facts/a/data.json --\n{}]\n", refused},
		"a comment in JSON":          {"-- facts/a/data.json --\n// a\n{}\n", refused},
		"YAML in JSON":               {"-- facts/a/data.json --\na: 1\n", refused},
		"BOM in YAML":                {"-- facts/a/data.yaml --\n\uFEFFa: 1\n", `{"a":{"a":1}}`},
		"BOM, JSON in YAML":          {"-- facts/a/data.yaml --\n\uFEFF{\"a\": 1}\n", `{"a":{"a":1}}`},
		"BOM in JSON":                {"-- facts/a/data.json --\n\uFEFF{}\n", refused},
		"BOM twice":                  {"-- facts/a/data.yaml --\n\uFEFF\uFEFF{\"a\": 1}\n", `{"a":{"a":1}}`},
		"tabs":                       {"-- facts/a/data.yaml --\n{\n\t\"a\": 1\n}\n", `{"a":{"a":1}}`},
		"a bad escape":               {"-- facts/a/data.yaml --\na: \"\\q\"\n", refused},
		"not UTF-8":                  {"-- facts/a/data.yaml --\na: \"\xff\"\n", refused},
		"not UTF-8, JSON":            {"-- facts/a/data.json --\n[\"\xff\"]\n", "{\"a\":[\"\uFFFD\"]}"},
		"a surrogate, JSON":          {"-- facts/a/data.json --\n[\"\\ud800\"]\n", "{\"a\":[\"\uFFFD\"]}"},
		"unusual folder names":       {"-- facts/a.b/c d/..e/data.yaml --\n1\n-- facts/a.b/c d/e./data.yaml --\n1\n", `{"a.b":{"c d":{"e.":1}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := policyOf(t, c.files)
			policytest.Write(t, dir, "keywicket/decision.rego", factsDecision)
			plain, plainOK := factsOfOPA(t, dir, "-d")
			bundle, bundleOK := factsOfOPA(t, dir, "-b")
			got, ok := refused, false
			engine, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if err == nil {
				d, err := engine.Decide(t.Context(), policytest.Input())
				if err != nil {
					t.Fatal(err)
				}
				got, ok = d.Route, true
			}
			same := plainOK && bundleOK && plain == bundle
			if plainOK != bundleOK || plain != bundle {
				differing++
			}
			if ok != same || (ok && got != plain) || got != c.want {
				t.Errorf("opa test reads %s, %v; opa test -b %s, %v; the sidecar %s, %v; want %s", plain, plainOK, bundle, bundleOK, got, err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), "facts/a/data.") && !strings.Contains(err.Error(), "facts/a/b/data.")) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
	if differing == 0 {
		t.Error("opa test and opa test -b read every file in the same way: the sidecar does not need to compare them")
	}
}

const refused = ""

// TestRulesReadFacts tests a rule that reads facts. The rule must have the same result as in `opa test`, and the hash of the
// policy must cover the facts.
func TestRulesReadFacts(t *testing.T) {
	dir := policyOf(t, `
-- facts/closed/data.yaml --
regions: [eu, us]
-- keywicket/decision.rego --
package keywicket

decision := {"allow": count(data.facts.closed.regions) == 2, "code": null, "reason": null, "required_scopes": [], "route": null}
-- keywicket/closed_test.rego --
package keywicket_test

test_closed if {
	data.keywicket.decision.allow
	not data.keywicket.decision.allow with data.facts.closed.regions as []
}
`)
	for _, flags := range [][]string{nil, {"-b"}} {
		if passes, output := opaTest(t, dir, flags...); !passes {
			t.Errorf("opa test %s: %s", flags, output)
		}
	}
	engine := policytest.Load(t, dir)
	if d, err := engine.Decide(t.Context(), policytest.Input()); err != nil || !d.Allow {
		t.Errorf("got %+v, %v", d, err)
	}
	before := engine.Hash()
	policytest.Edit(t, dir, "facts/closed/data.yaml", "\n", "\n\n")
	if after := policytest.Load(t, dir).Hash(); after == before {
		t.Error("the facts are not in the hash")
	}
	policytest.Edit(t, dir, "facts/closed/data.yaml", ", us", "")
	passes, _ := opaTest(t, dir)
	if _, err := policies.Load(t.Context(), policies.Config{Dir: dir}); passes || err == nil {
		t.Errorf("changed facts: opa test passes: %v; the sidecar returns: %v", passes, err)
	}
}
