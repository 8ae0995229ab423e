package policies

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/open-policy-agent/opa/v1/loader"
)

// FuzzTable tests that any text is refused, with a non-empty line for each problem, or is a valid table. In a valid table, a
// canonical path reaches every route. A route needs scopes of the catalogue exactly if it is not public.
func FuzzTable(f *testing.F) {
	for _, file := range []string{"apis/velaflows/data.yaml", "apis/velocity/data.yaml"} {
		text, err := Builtin.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, row := range []string{
		"{method: GET, path: /x, public: true}", "{method: GET, path: /x, public: no}", "{method: GET, path: /x/*, scopes: [a]}",
		`{method: GET, path: "/x/{id}", scopes: [a]}`, `{method: GET, path: "/x/{a,b}", scopes: [a]}`, "{method: GET, path: //, scopes: [a]}",
		`{method: GET, path: "/x/{a\n}", scopes: [a]}`,
		"&r {method: GET, path: /x, scopes: [a]}\n  - *r", "{<<: {method: GET}, path: /x, scopes: [a]}", "~", "[]", "{}",
		"{method: GET, path: /x, any_of: [a]}", "{grpc: a.B/C, scopes: [a]}", `{method: "*", path: "/x/{a}.b/{c...}", any_of: [a]}`,
	} {
		f.Add("scopes: {workspace: {a: A}}\nroutes:\n  - " + row + "\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parseTable([]byte(text))
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if strings.TrimSpace(line) == "" {
					t.Fatalf("%q is refused with %q", text, err)
				}
			}
			return
		}
		for _, r := range table.Routes {
			scopes := slices.Concat(r.Scopes, r.AnyOf)
			if _, found := table.index.Find(r.sample()); !found || r.Line < 1 || r.Public == (len(scopes) > 0) {
				t.Fatalf("%q: %+v is accepted", text, r)
			}
			for _, scope := range scopes {
				if _, ok := table.Scope(scope); !ok {
					t.Fatalf("%q: %q is not in the catalogue", text, scope)
				}
			}
		}
	})
}

// FuzzFacts tests that a file of facts is read as both of OPA's loaders read it. It is refused if one of them refuses it, or if
// they differ.
func FuzzFacts(f *testing.F) {
	for _, text := range []string{
		"", "a: 1", "[1, ~]", `{"a": 12345678901234567890123}`, `{"a": 1.0}`, "a: yes", "a: &x {b: 1}\nc: {<<: *x}", "a: 1\n---\n[", "{}]",
		"\uFEFF{}", "\uFEFFa: 1", "1: a\ntrue: b", "a: 2026-11-27", "a: .inf", "%YAML 1.1\n---\na: on", "a: !!binary aGVsbG8=", "a: \"\xff\"",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"facts/a/data.yaml", "facts/a/data.json"} {
			files := fstest.MapFS{name: {Data: []byte(text)}}
			plain, plainErr := loader.NewFileLoader().WithFS(files).Filtered([]string{"."}, nil)
			bundle, bundleErr := loader.NewFileLoader().WithFS(files).AsBundle(".")
			var known facts
			err := known.add(name, []byte(text))
			if plainErr != nil || bundleErr != nil || !reflect.DeepEqual(plain.Documents, bundle.Data) {
				if err == nil {
					t.Fatalf("%q in %s is read as %v; opa says %v, and with -b %v", text, name, known.merged, plainErr, bundleErr)
				}
				continue
			}
			if err != nil || !reflect.DeepEqual(known.merged, plain.Documents) {
				t.Fatalf("%q in %s is read as %v, %v; opa reads %v", text, name, known.merged, err, plain.Documents)
			}
		}
	})
}
