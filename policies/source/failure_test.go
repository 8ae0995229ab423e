package source_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// TestFailedTestSaysWhatItExpected tests that the error of a failed test has the expression that is false or undefined, and its
// values.
func TestFailedTestSaysWhatItExpected(t *testing.T) {
	for name, c := range map[string]struct{ test, want string }{
		"a comparison with a constant":  {"test_a if {\n\tn := 4\n\thelper(n) == 6\n}", "the test test_a fails at line 12: helper(n) == 6, got 5"},
		"a comparison of two values":    {"test_a if {\n\tn := 4\n\tm := 7\n\thelper(n) == m\n}", "the test test_a fails at line 13: helper(n) == m, got 5 and 7"},
		"an object":                     {"test_a if {\n\tgot := {\"a\": 1}\n\tgot == {\"a\": 2}\n}", "the test test_a fails at line 12: got == {\"a\": 2}, got {\"a\": 1}"},
		"another operator":              {"test_a if helper(1) > 7", "the test test_a fails at line 10: helper(1) > 7, got 2"},
		"the last try":                  {"test_a if {\n\tsome n in [1, 2]\n\tn == 7\n}", "the test test_a fails at line 12: n == 7, got 2"},
		"a key of a variable":           {"test_a if {\n\tc := {\"n\": {\"m\": 1}}\n\tc.n.m == 2\n}", "the test test_a fails at line 12: c.n.m == 2, got 1"},
		"several lines":                 {"test_a if {\n\tgot := [helper(1), 1]\n\tgot == [\n\t\t1,\n\t\t2,\n\t]\n}", "the test test_a fails at line 12: got == [ 1, 2, ], got [2, 1]"},
		"every":                         {"test_a if {\n\tevery n in [1, 2, 3] {\n\t\tn < 2\n\t}\n}", "the test test_a fails at line 12: n < 2, got 2"},
		"an undefined function":         {"test_a if {\n\ttrue\n\tlarge(3)\n}", "the test test_a fails at line 12: large(3)"},
		"a negation":                    {"test_a if not helper(1) == 2", "the test test_a fails at line 10: not helper(1) == 2"},
		"a rule with another input":     {"test_a if data.keywicket.decision.allow with input as {}", "the test test_a fails at line 10: data.keywicket.decision.allow with input as {}"},
		"a failed case":                 {"test_a[c.name] if {\n\tsome c in [{\"name\": \"p\", \"n\": 1}, {\"name\": \"q\", \"n\": 2}]\n\thelper(c.n) == 2\n}", `the test test_a fails for "q" at line 12: helper(c.n) == 2, got 3`},
		"two failed cases":              {"test_a[n] if {\n\tsome n in [1, 2, 3]\n\thelper(n) == 2\n}", `the test test_a fails for "2", "3"; the first case at line 12: helper(n) == 2, got 3`},
		"a case and a test without one": {"test_a[n] if {\n\tsome n in [2]\n\thelper(n) == 2\n}\n\ntest_b if helper(1) == 3", "the test test_a fails for \"2\" at line 12: helper(n) == 2, got 3\nx_test.rego:15: the test test_b fails at line 15: helper(1) == 3, got 2"},
		"two tests of a name":           {"test_a if helper(1) == 3\n\ntest_a if helper(1) == 4", "the test test_a fails at line 10: helper(1) == 3, got 2\nx_test.rego:12: the test test_a#01 fails at line 12: helper(1) == 4, got 2"},
		"a long value":                  {"test_a if {\n\tlong := concat(\"\", [\"x\" | some _ in numbers.range(1, 1000)])\n\tsprintf(\"%s\", [long]) == \"y\"\n}", "got \"" + strings.Repeat("x", 119) + "…"},
		"a rule with a value":           {"limit := helper(4)\n\ntest_a if limit == 6", "the test test_a fails at line 12: limit == 6, got 5"},
		"a part of a decision":          {"test_a if data.keywicket.decision.reason == \"quota\" with input as {}", "the test test_a fails at line 10: data.keywicket.decision.reason == \"quota\" with input as {}, got \"no_route\""},
		"a comprehension":               {"test_a if [n | some n in [1, 2]; n > 1] == [1]", "the test test_a fails at line 10: [n | some n in [1, 2]; n > 1] == [1], got [2]"},
		"a value in a file":             {"test_a if data.facts.x.n == 3\n-- facts/x/data.yaml --\nn: 1", "the test test_a fails at line 10: data.facts.x.n == 3, got 1"},
		"a value that no file has":      {"test_a if data.facts.nothing == 3", "the test test_a fails at line 10: data.facts.nothing is undefined"},
		"an undefined value":            {"test_a if {\n\tn := input.nothing\n\tn == 1\n}", "the test test_a fails at line 11: input.nothing is undefined"},
		"every of an undefined value":   {"test_a if {\n\tevery n in input.nothing {\n\t\tn == 1\n\t}\n}", "the test test_a fails at line 11: input.nothing is undefined"},
		"some of an undefined value":    {"test_a if {\n\tsome n in input.nothing\n\tn == 1\n}", "the test test_a fails at line 11: input.nothing has no element"},
		"some of an empty list":         {"test_a if {\n\tlist := []\n\tsome n in list\n\tn == 1\n}", "the test test_a fails at line 12: list has no element"},
		"some of a part of a value":     {"test_a if {\n\tgot := {\"list\": []}\n\tsome n in got.list\n\tn == 1\n}", "the test test_a fails at line 12: got.list has no element"},
		"a case with an object's name":  {"test_a[c] if {\n\tsome c in [{\"n\": 1, \"m\": []}]\n\tc.n == 2\n}", `the test test_a fails for "{\"m\":[],\"n\":1}" at line 12: c.n == 2, got 1`},
		"a value that is not a case":    {"test_a[p][q] if {\n\tsome p in [\"a\", \"b\"]\n\tp == \"a\"\n\tsome q in [1, 2]\n\tq == 1\n}", `the test test_a fails for "a/2" at line 14: q == 1, got 2`},
		"a case with a constant name":   {"test_a[\"p\"] if helper(1) == 2", `the test test_a fails: OPA runs no case with a constant name: take the name from a variable, or write it into the name of the test`},
		"many failed cases":             {"test_a[n] if {\n\tsome n in numbers.range(1, 200)\n\tn == 0\n}", `the test test_a fails for "1", "10", "100", "101", "102", "103", "104", "105", "106", "107" and 190 other cases; the first case at line 12: n == 0, got 1`},
		"a value without an expression": {"test_a := helper(1) == 3", "the test test_a fails"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := policyOf(t, "-- x_test.rego --\npackage x\n\nhelper(n) := n + 1\n\nlarge(n) if {\n\tn > 4\n}\n\n\n"+c.test+"\n")
			passed, output := opaTest(t, dir)
			_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if got := errorText(err); passed || !strings.HasPrefix(got, "x_test.rego:1") || !strings.HasSuffix(got, c.want) {
				t.Errorf("got %q, want %q at its end; opa test: %s", got, c.want, output)
			}
		})
	}
}

// TestWithoutCases tests that a test whose list of cases is empty passes, as in `opa test`, with a warning.
func TestWithoutCases(t *testing.T) {
	dir := policyOf(t, "-- x_test.rego --\npackage x\n\ntest_a[c] if some c in []\n\ntest_b[c] if some c in [1]\n\ntest_c if true\n\ntodo_test_d[c] if some c in []\n")
	const want = "x_test.rego:3: the test test_a has no cases, so it tests nothing"
	if got := policytest.Load(t, dir).Warnings(); !slices.Contains(got, want) || strings.Contains(strings.Join(got, "\n"), "x_test.rego:5") || strings.Contains(strings.Join(got, "\n"), "x_test.rego:7") {
		t.Errorf("got the warnings %q, want %q", got, want)
	}
}

// TestErrorsAreWithoutOPAsNames tests that errors do not start with names of OPA's parts and of its libraries.
func TestErrorsAreWithoutOPAsNames(t *testing.T) {
	for name, c := range map[string]struct{ files, want string }{
		"YAML":            {"-- facts/a/data.yaml --\na: *x\n", "facts/a/data.yaml:1: unknown anchor 'x' referenced: put quotes around a text that starts with * or &"},
		"a value":         {"-- facts/a/data.yaml --\na: .inf\n", "facts/a/data.yaml: unsupported value: +Inf"},
		"JSON":            {"-- facts/a/data.json --\n{} {}\n", "facts/a/data.json:1: invalid character '{' after top-level value"},
		"metadata":        {"-- x.rego --\npackage x\n\n# METADATA\n# title: [\na := 1\n", "x.rego:4: did not find expected node content"},
		"a test":          {"-- x.rego --\npackage x\n\na := 1 if input.n\n\na := 2 if input.n\n\ntest_a if a == 1 with input as {\"n\": 1}\n", "x.rego:7: the test test_a fails: rule data.x.a produced conflicting values"},
		"the compiler":    {"-- x.rego --\npackage x\n\na if b\n", "x.rego:3: var b is unsafe"},
		"a type conflict": {"-- x.rego --\npackage x\n\na if \"a\" == 1\n", "x.rego:3: match error"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policies.Load(t.Context(), policies.Config{Dir: policyOf(t, c.files)})
			if got := errorText(err); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}

	dir := policyOf(t, "-- keywicket/own.rego --\npackage keywicket\n\nheaders[\"x-a\"] := \"b\" if net.cidr_contains(\"10.0.0.0/8\", input.source.address)\n")
	in := policytest.Input()
	in.Path = "/healthz"
	_, err := policytest.Load(t, dir).Decide(t.Context(), in)
	if got := errorText(err); !strings.HasPrefix(got, "keywicket/own.rego:3: net.cidr_contains: ") {
		t.Errorf("a decision returns %q", got)
	}
}
