package policies

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/internal/sample"
	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/route"
	"github.com/keywicket/keywicket/policies/table"
)

var (
	// Segments of patterns, in every form. Many segments match the same texts, so that several rows match the same path.
	patternSegments = []string{
		"a", "b", "ab", "a.b", "%61", "a%2Eb", "caf%C3%A9", "%7Bx%7D", "a+b", "$a^", "(b)", "a%2A", "",
		"{x}", "{userId}", "{x-y.z}", "{x}.b", "a{x}", "a{x}b", "{x}b", "{x}:b", "{x}.{y}", "{x}...{y}", "({x})", "a.{x}", "{x}%2A", "caf{x}",
		"{x...}", "{path...}",
	}
	pathSegments = []string{
		"a", "b", "ab", "a.b", "café", "{x}", "a+b", "a b", "$a^", "(b)", "a*", "", ".b", "aXb", "x:b", "a...b", "...", "a..b", "(x)",
		"aab", "A", "a.bb", "\u0001", "7",
	}
	tableMethods   = []string{"GET", "POST", "HEAD", "*", "M-SEARCH"}
	requestMethods = []string{"GET", "POST", "HEAD", "*", "M-SEARCH", "get", "PURGE"}
	scopeNames     = []string{"a:read", "a:write", "a:*", "b:read", "root"}
)

// pick returns a random element.
func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// pickSome returns a random selection. It contains each element with a probability of one third.
func pickSome(r *rand.Rand, list []string) []any {
	var some []any
	for _, s := range list {
		if r.IntN(3) == 0 {
			some = append(some, s)
		}
	}
	return some
}

// randomTable returns a valid table of up to n rows.
func randomTable(r *rand.Rand, n int) (table map[string]any, rows []map[string]any) {
	table = map[string]any{
		"scopes":        map[string]any{"workspace": map[string]any{}},
		"overrides":     map[string]any{"workspace": []any{"root"}},
		"head_with_get": r.IntN(2) == 0,
		"implies":       map[string]any{},
	}
	for _, scope := range scopeNames {
		table["scopes"].(map[string]any)["workspace"].(map[string]any)[scope] = ""
	}
	if r.IntN(2) == 0 {
		table["implies"] = map[string]any{"a:write": []any{"a:read"}, "a:*": []any{"a:*"}}
	}
	for range n {
		var path string
		for range 1 + r.IntN(3) {
			path += "/" + pick(r, patternSegments)
		}
		row := map[string]any{"method": pick(r, tableMethods), "path": path}
		switch r.IntN(8) {
		case 0:
			row["public"] = true
		case 1:
			delete(row, "method")
			delete(row, "path")
			row["grpc"] = pick(r, []string{"a.B/C", "a.B/*", "a/b"})
			row["scopes"] = []any{"a:read"}
		default:
			row["scopes"], row["any_of"] = pickSome(r, scopeNames), pickSome(r, scopeNames)
			if len(row["scopes"].([]any))+len(row["any_of"].([]any)) == 0 {
				row["scopes"] = []any{"b:read"}
			}
		}
		table["routes"] = append(slices.Clone(rows), row)
		if text, err := json.Marshal(table); err != nil {
			panic(err)
		} else if _, err := parse(text); err == nil {
			rows = append(rows, row)
		}
	}
	table["routes"] = rows
	return jsonOf(table), rows
}

// parse parses a table.
func parse(text []byte) (table.Table, error) {
	tables, err := table.Read(folder.Folder{Files: []folder.File{{Name: "apis/zoo/data.yaml", Text: text}}})
	return tables["zoo"], err
}

// jsonOf returns the value with the types that OPA's JSON decoder returns.
func jsonOf(v map[string]any) map[string]any {
	text, err := json.Marshal(v)
	if err == nil {
		v = nil
		err = util.UnmarshalJSON(text, &v)
	}
	if err != nil {
		panic(err)
	}
	return v
}

// randomInput returns an input with a random path, or with the path of a row in which random texts replace the parameters. The row
// matches only if its parameters accept these texts.
func randomInput(r *rand.Rand, rows []map[string]any) authz.Input {
	in := authz.Input{
		API: "zoo", Method: pick(r, requestMethods),
		Principal: &authz.Principal{Kind: authz.KindWorkspaceToken, API: "zoo"},
		Workspace: authz.Workspace{Requested: true, Granted: true},
	}
	for _, scope := range pickSome(r, scopeNames) {
		in.Principal.Scopes = append(in.Principal.Scopes, scope.(string))
	}
	var segments []string
	switch r.IntN(10) {
	case 0:
		in.Method = "POST"
		segments = []string{"a.B", "C"}
	case 1:
		return in // an ambiguous path
	case 2, 3, 4, 5, 6:
		row := pick(r, rows)
		path, _ := row["path"].(string)
		filled := parameter.ReplaceAllStringFunc(path, func(string) string { return url.PathEscape(pick(r, pathSegments)) })
		segments, _ = target.Segments(filled, target.Parameters{})
		if method, ok := row["method"].(string); ok && r.IntN(3) > 0 {
			in.Method = method
		}
	default:
		for range 1 + r.IntN(4) {
			segments = append(segments, pick(r, pathSegments))
		}
	}
	in.Path = target.JoinSegments(segments)
	return in
}

// TestIndexAgreesWithRego compares the rules in Rego, which `opa test` evaluates, with the index, which serves requests.
// Both must find the same row and make the same decision. The tables have rows of every form, and many rows match the same path.
func TestIndexAgreesWithRego(t *testing.T) {
	t.Parallel()
	race.Skip(t)
	s, err := readSource(Config{})
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	decisions := make(map[bool]int)
	for seed := range uint64(60 / sample.Interval()) {
		r := rand.New(rand.NewPCG(seed, 0))
		table, rows := randomTable(r, 30)
		s.Data = map[string]any{"apis": map[string]any{"zoo": table}}
		plain, indexed := bothEngines(t, s)
		optimised := plain
		if seed%10 == 0 { // not for every seed, because the optimisation takes long
			o, err := s.Optimise(t.Context())
			optimised = engineOf(t, o, err)
		}
		for range 60 {
			in := randomInput(r, rows)
			want, err1 := plain.Decide(t.Context(), in)
			got, err2 := indexed.Decide(t.Context(), in)
			if err1 != nil || err2 != nil || !reflect.DeepEqual(want, got) {
				t.Fatalf("seed %d, %s %q:\nplain   %+v, %v\nindexed %+v, %v\n%v", seed, in.Method, in.Path, want, err1, got, err2, s.Data)
			}
			if other, err := optimised.Decide(t.Context(), in); err != nil || !reflect.DeepEqual(want, other) {
				t.Fatalf("seed %d, %s %q:\nplain     %+v\noptimised %+v, %v", seed, in.Method, in.Path, want, other, err)
			}
			decisions[got.Allow]++
			for _, form := range []string{"...}", "*", "}.", "{x}", "POST /a.B/"} {
				if strings.Contains(got.Route, form) {
					found[form]++
				}
			}
			if got.Route == "" {
				found["none"]++
			}
		}
	}
	t.Logf("found %v, allowed %v", found, decisions)
	for _, form := range []string{"...}", "*", "}.", "{x}", "POST /a.B/", "none"} {
		if found[form] < 20/sample.Interval() {
			t.Errorf("only %d decisions are on a row with %s: the comparison covers too little", found[form], form)
		}
	}
	if min(decisions[true], decisions[false]) < 100/sample.Interval() {
		t.Errorf("%v decisions: the comparison covers too little", decisions)
	}
}

// FuzzPattern parses any text as a pattern. If the pattern is invalid, the error must have one line. If the pattern is valid,
// Rego and the index must match the same paths.
func FuzzPattern(f *testing.F) {
	for i, pattern := range patternSegments {
		f.Add("/"+pattern, "/"+pathSegments[i%len(pathSegments)])
		f.Add("/x/"+pattern+"/y", "/x/a.b/y")
	}
	s, err := readSource(Config{})
	if err != nil {
		f.Fatal(err)
	}
	compiler, err := s.Compiled()
	if err != nil {
		f.Fatal(err)
	}
	query, err := rego.New(rego.Compiler(compiler), rego.Query(
		"shape := data.keywicket.shape_of(input.pattern); matches := regex.match(data.keywicket.expression(shape), input.path); order := data.keywicket.order(shape)",
	)).PrepareForEval(context.Background())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		p, err := route.Parse(pattern)
		if err != nil {
			if err.Error() == "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q is refused with %q", pattern, err)
			}
			return
		}
		if segments, err := target.Segments(path, target.Parameters{}); err == nil {
			path = target.JoinSegments(segments)
		} else if path = strings.ToValidUTF8(path, ""); !strings.HasPrefix(path, "/") {
			return // no request has such a path
		}
		var x route.Index
		x.Add("GET", p, 0)
		_, got := x.Find("GET", path)
		results, err := query.Eval(t.Context(), rego.EvalInput(map[string]any{"pattern": pattern, "path": path}))
		if err != nil || len(results) != 1 {
			t.Fatalf("%q, %q: %v, %v", pattern, path, results, err)
		}
		if want := results[0].Bindings["matches"].(bool); got != want {
			t.Fatalf("%q and %q: the index returns %t, Rego returns %t", pattern, path, got, want)
		}
		filled := parameter.ReplaceAllString(pattern, "x")
		if segments, err := target.Segments(filled, target.Parameters{}); err == nil {
			if _, ok := x.Find("GET", target.JoinSegments(segments)); !ok {
				t.Fatalf("%q does not match %q", pattern, filled)
			}
		}
	})
}
