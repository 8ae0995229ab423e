package policies

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// FuzzTable: any text is refused in one line, or is a table of which every route can be reached by a canonical path, and
// needs scopes of the catalogue exactly if it is not public.
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
	} {
		f.Add("scopes: {workspace: {a: A}}\nroutes:\n  - " + row + "\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parseTable([]byte(text))
		if err != nil {
			if err.Error() == "" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q is refused with %q", text, err)
			}
			return
		}
		for _, r := range table.Routes {
			path := parameter.ReplaceAllString(r.Path, "x")
			if _, err := authz.Segments(path, authz.Parameters{}); err != nil || r.Line < 1 || r.Public == (len(r.Scopes) > 0) {
				t.Fatalf("%q: %+v is accepted", text, r)
			}
			for _, scope := range r.Scopes {
				if _, ok := table.Scope(scope); !ok {
					t.Fatalf("%q: %q is not in the catalogue", text, scope)
				}
			}
		}
	})
}
