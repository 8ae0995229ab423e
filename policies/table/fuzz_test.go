package table

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzTable parses any text as a table. An error has a non-empty line for each problem. In a valid table, the index finds a row
// for the sample request of every route. A route requires scopes if and only if it is not public, and the table defines these
// scopes.
func FuzzTable(f *testing.F) {
	for _, file := range []string{"apis/velaflows/data.yaml", "apis/velocity/data.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", file))
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
			if _, found := table.index.Find(r.Sample()); !found || r.Line < 1 || r.Public == (len(scopes) > 0) {
				t.Fatalf("%q: %+v is accepted", text, r)
			}
			for _, scope := range scopes {
				if _, ok := table.Scope(scope); !ok {
					t.Fatalf("%q: %q is not defined", text, scope)
				}
			}
		}
	})
}
