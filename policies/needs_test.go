package policies

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/internal/sample"
	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/source"
)

// testOfScopes returns an expression in the form that scopeTest accepts. The parameter `rule` is the name of the rule that
// defines the sets.
func testOfScopes(rule string) string {
	return "every scope_set in " + rule + " {\n\t\tsome scope in input.principal.scopes\n\t\tscope in scope_set\n\t}"
}

// extraNeeds are rules that a policy author might add. They define sets of scopes.
const extraNeeds = `
row_needs := [{"a:read", "b:read"}, {"a:write", "root"}]

level_needs := [{"a:read", route.name}, {"x"} | {scope | some scope in route.scopes}] if count(route.scopes) > 0

role_needs := [{"a:read", input.workspace.role}]

text_needs := ["a:read", {"root"}]

object_needs := {"a": {"a:read"}}

has_row_needs if every scope_set in row_needs {
	some scope in input.principal.scopes
	scope in scope_set
}

many_needs := [{"a:read", sprintf("%d", [i])} | some i in numbers.range(1, 65)]
`

// withHeaderIf returns the shipped policy and a rule that sets a header if the condition is true.
func withHeaderIf(t testing.TB, table map[string]any, condition string) source.Source {
	t.Helper()
	s, err := readSource(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if table != nil {
		s.Data = map[string]any{"apis": map[string]any{"zoo": table}}
	}
	text := "package keywicket\n" + extraNeeds + "\nheaders[\"x-own\"] := \"1\" if {\n\t" + condition + "\n}\n"
	addRules(t, s, "keywicket/own.rego", text)
	return s
}

var (
	// For these conditions, one fact about each set of scopes matters: whether the principal has a scope of the set. So principals
	// share decisions.
	sharingConditions = []string{
		`true`, testOfScopes("row_needs"), testOfScopes("level_needs"), testOfScopes("workspace_needs"), testOfScopes("user_needs"),
		testOfScopes("row_needs") + "\n\t" + testOfScopes("level_needs"),
		`every _, scope_set in row_needs { some _, scope in input.principal.scopes; scope in scope_set }`,
		`count([1 | some x in [1, 2]; every scope_set in row_needs { some scope in input.principal.scopes; scope in scope_set }]) > 0`,
		`n := row_needs; every scope_set in n { some scope in input.principal.scopes; scope in scope_set }`,
		`concat("", [a | some a in ["1"]; every scope_set in row_needs { some scope in input.principal.scopes; scope in scope_set }]) == "1"`,
		testOfScopes("text_needs"), testOfScopes("object_needs"), testOfScopes("many_needs"), // learnNeeds detects that these values are not arrays of sets, or have too many sets
	}
	// Conditions that depend on the scopes in another way, or could do so.
	otherConditions = []string{
		`n := row_needs; count(n) > 1; every scope_set in n { some scope in input.principal.scopes; scope in scope_set }`,
		`n := input.principal.scopes; every scope_set in row_needs { some scope in n; scope in scope_set }`,
		`"a:write" in input.principal.scopes`,
		`count(input.principal.scopes) > 1`,
		`input.principal.scopes[0] == "a:read"`,
		`some scope in input.principal.scopes; endswith(scope, ":read")`,
		`p := input.principal; count(p.scopes) > 1`,
		testOfScopes("role_needs"),
		testOfScopes("route.scopes"),
		`every scope_set in [{"a:read"}, {"root"}] { some scope in input.principal.scopes; scope in scope_set }`,
		`every scope_set in row_needs { some scope in input.principal.scopes; not scope in scope_set }`,
		`every scope_set in row_needs { some scope in input.principal.scopes; scope in scope_set; scope != "root" }`,
		`every scope_set in row_needs { some i, scope in input.principal.scopes; scope in scope_set; i > 0 }`,
		`every i, scope_set in row_needs { scope := input.principal.scopes[i]; scope in scope_set }`,
		`every scope_set in row_needs { some scope in input.principal.scopes; scope_set in [scope, {"root"}] }`,
		`every scope in input.principal.scopes { some scope_set in row_needs; scope in scope_set }`,
		`every scope_set in row_needs { count([1 | some scope in input.principal.scopes; scope in scope_set]) > 1 }`,
		`count([1 | some scope_set in row_needs; some scope in input.principal.scopes; scope in scope_set]) > 1`,
		`have_one_of_each(input.principal.scopes, row_needs)`,
		`some s in ["a:read", "a:write"]; every scope_set in row_needs { s = input.principal.scopes[_]; s in scope_set }`,
		`every scope_set in row_needs { some scope in input.principal.scopes; scope in scope_set } with data.keywicket.row_needs as [{"root"}]`,
		`every scope_set in row_needs { some scope in input.principal.scopes; scope in scope_set }; x := public with input.principal.scopes as []; x`,
		`x := has_row_needs with data.keywicket.row_needs as [{"b:read", "x"}]; x`,
		`every scope_set in row_needs { some scope in input.principal.scopes; scope in scope_set; route.name != "" }`,
	}
)

// Principals share decisions if their scopes differ only in scopes on which no rule depends.
func TestPrincipalsShareDecisions(t *testing.T) {
	race.Skip(t)
	for i, condition := range slices.Concat(sharingConditions, otherConditions) {
		s := withHeaderIf(t, nil, strings.ReplaceAll(condition, "; ", "\n\t"))
		_, engine := withMemory(t, s)
		if shares := !slices.Contains(engine.memory.parts, document.PrincipalScopes); shares != (i < len(sharingConditions)) {
			t.Errorf("decisions are shared: %t, under the condition %s", shares, condition)
		}
	}
}

// someScopes returns random scopes, in any order and with possible duplicates.
func someScopes(r *rand.Rand) []string {
	some := make([]string, r.IntN(5))
	for i := range some {
		some[i] = pick(r, append([]string{"x", "y"}, scopeNames...))
	}
	return some
}

// differsByScopes decides inputs in which only the scopes and the row change. It reports whether a decision of `engine`, which
// uses its memory, differs from the decision of `plain`, which always evaluates.
func differsByScopes(t testing.TB, r *rand.Rand, plain, engine *Engine, rows []map[string]any) bool {
	t.Helper()
	inputs := make([]authz.Input, 6)
	for i := range inputs {
		for inputs[i] = randomInput(r, rows); engine.row(&inputs[i]) == engine.index.none; {
			inputs[i] = randomInput(r, rows)
		}
		inputs[i].Principal.Kind = pick(r, []authz.Kind{authz.KindWorkspaceToken, authz.KindPersonalKey})
		inputs[i].Workspace.Role = pick(r, []string{"", "owner"})
	}
	for range 100 {
		in := pick(r, inputs)
		p := *in.Principal
		in.Principal, p.Scopes = &p, someScopes(r)
		got, err1 := engine.Decide(t.Context(), in)
		want, err2 := plain.Decide(t.Context(), in)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if !reflect.DeepEqual(got, want) {
			return true
		}
	}
	return false
}

// tableWithRole returns a random table with a role, so that the rules can also allow requests with a user's credential.
func tableWithRole(r *rand.Rand) (table map[string]any, rows []map[string]any) {
	table, rows = randomTable(r, 8)
	table["roles"] = map[string]any{"owner": []any{"root"}}
	return table, rows
}

// A shared decision equals the decision of an evaluation, for any scopes. The test includes conditions that prevent sharing.
func TestSharedDecisions(t *testing.T) {
	t.Parallel()
	race.Skip(t)
	hits, decisions := uint64(0), 0
	for i, condition := range slices.Concat(sharingConditions, otherConditions) {
		for seed := range uint64(max(1, 2/sample.Interval())) {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			table, rows := tableWithRole(r)
			plain, engine := withMemory(t, withHeaderIf(t, table, strings.ReplaceAll(condition, "; ", "\n\t")))
			if differsByScopes(t, r, plain, engine, rows) {
				t.Errorf("seed %d: a shared decision differs, under the condition %s", seed, condition)
			}
			if i < len(sharingConditions)-3 {
				hits, decisions = hits+engine.MemoryHits(), decisions+100
			}
		}
	}
	t.Logf("%d of %d decisions were shared", hits, decisions)
	if hits < uint64(decisions)*6/10 {
		t.Errorf("only %d of %d decisions were shared: the comparison covers too little", hits, decisions)
	}
}

// Check of the test itself: if the needs of a row (its sets of scopes) are wrong, differsByScopes reports a difference.
func TestDiffersByScopesDetectsWrongNeeds(t *testing.T) {
	for name, corrupt := range map[string]func(n *needs){
		"a scope is missing":   func(n *needs) { delete(n.sets, "root") },
		"a set is missing":     func(n *needs) { keepBits(n, ^uint64(1)) },
		"all sets are missing": func(n *needs) { n.sets = nil },
		"all sets are one set": func(n *needs) {
			for scope := range n.sets {
				n.sets[scope] = 1
			}
		},
	} {
		detected := false
		for seed := range uint64(60) {
			r := rand.New(rand.NewPCG(seed, 3))
			table, rows := tableWithRole(r)
			plain, engine := withMemory(t, withHeaderIf(t, table, testOfScopes("row_needs")))
			for _, r := range engine.index.apis["zoo"].rows {
				in := authz.Input{API: "zoo", Method: "GET", Path: "/", Denial: authz.ReasonMissing}
				if _, err := engine.decide(t.Context(), &in, r); err != nil {
					t.Fatal(err)
				}
				if n := r.needs.Load(); n == nil || n.unknown {
					t.Fatalf("the needs of the row %v are not known", r.term)
				}
				corrupt(r.needs.Load())
			}
			if detected = differsByScopes(t, r, plain, engine, rows); detected {
				break
			}
		}
		if !detected {
			t.Errorf("%s: not detected", name)
		}
	}
}

// keepBits keeps only the given bits of the sets.
func keepBits(n *needs, bits uint64) {
	for scope := range n.sets {
		n.sets[scope] &= bits
	}
}

// The needs of a row are unknown if a rule is undefined, is not an array of sets, or has too many sets.
func TestUnknownNeeds(t *testing.T) {
	for rule, unknown := range map[string]bool{
		"row_needs": false, "level_needs": false, "text_needs": true, "object_needs": true, "many_needs": true,
	} {
		_, engine := withMemory(t, withHeaderIf(t, nil, testOfScopes(rule)))
		for path, none := range map[string]bool{"/api/v1/contacts": false, "/nothing": true} {
			in := authz.Input{API: "velaflows", Method: "GET", Path: path, Denial: authz.ReasonMissing}
			for range 2 {
				if _, err := engine.Decide(t.Context(), in); err != nil {
					t.Fatal(err)
				}
			}
			if n := engine.row(&in).needs.Load(); n == nil || n.unknown != (unknown || none) {
				t.Errorf("%s, %s: %+v", rule, path, n)
			}
		}
	}
}

// OPA moves a comprehension from the head of a rule into the body of the rule, with additional variables. scopeTest still
// recognises a test of the scopes in this comprehension.
func TestScopeTestInARuleHeadIsRecognised(t *testing.T) {
	_, engine := bothEngines(t, withRules(t, `row_needs := [{"a:read"}]

headers["x"] := concat(",", [a | some a in ["1"]; every scope_set in row_needs { some scope in input.principal.scopes; scope in scope_set }])`))
	if len(engine.index.rulesWithSets) != 3 {
		t.Errorf("found %d rules with sets of scopes, want 3", len(engine.index.rulesWithSets))
	}
}

func BenchmarkKey(b *testing.B) {
	engine, err := Load(b.Context(), Config{})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 4, 12} {
		in := authz.Input{
			API: "velaflows", Method: "GET", Path: "/api/v1/inbox/conversations",
			Principal: &authz.Principal{Kind: authz.KindWorkspaceToken}, Workspace: authz.Workspace{Requested: true, Granted: true},
		}
		for i := range n {
			in.Principal.Scopes = append(in.Principal.Scopes, fmt.Sprintf("scope%d:read", i))
		}
		if _, err := engine.Decide(b.Context(), in); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("scopes=%d", n), func(b *testing.B) {
			r := engine.row(&in)
			for b.Loop() {
				engine.memory.key(&in, r)
			}
		})
		b.Run(fmt.Sprintf("every scope=%d", n), func(b *testing.B) {
			for b.Loop() {
				engine.memory.key(&in, noRow)
			}
		})
	}
}
