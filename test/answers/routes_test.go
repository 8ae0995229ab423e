package answers

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/test/product"
)

// The tables contain the routes of the documents, and the rows of the console.
func TestPoliciesContainExactlyTheDocumentedRoutes(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(inProcess.Tables)), slices.Sorted(maps.Keys(product.DocumentedAPIs)); !slices.Equal(got, want) {
		t.Fatalf("the policies serve the APIs %v, not %v", got, want)
	}
	parameter := regexp.MustCompile(`\{[^}]*\}`)
	for name, d := range product.DocumentedAPIs {
		t.Run(name, func(t *testing.T) {
			remaining := make(map[product.Route]bool)
			for _, r := range slices.Concat(d.Routes(), product.ConsoleRoutes(name)) {
				if r.Level != product.LevelUnlisted {
					remaining[r] = true
				}
			}
			for _, r := range inProcess.Tables[name].Routes {
				level := string(r.Level)
				switch {
				case r.Public:
					level = product.LevelPublic
				case level == "":
					level = product.LevelWorkspace
				}
				route := product.Route{Method: r.Method, Path: parameter.ReplaceAllString(r.Path, "{}"), Scope: strings.Join(r.Scopes, " "), Level: level}
				if !remaining[route] {
					t.Errorf("the policies contain %+v twice, or the documents do not contain it", route)
				}
				delete(remaining, route)
			}
			for r := range remaining {
				t.Errorf("the policies lack %+v", r)
			}
		})
	}
}

func TestTablesListExactlyTheDocumentedScopes(t *testing.T) {
	for name, d := range product.DocumentedAPIs {
		t.Run(name, func(t *testing.T) {
			for level, routes := range map[table.Level]map[string][]string{
				table.LevelWorkspace: d.Workspace, table.LevelUser: d.User,
			} {
				want := make(map[string]string, len(routes))
				for scope := range routes {
					want[scope] = d.Descriptions[scope]
				}
				if level == table.LevelUser {
					maps.Copy(want, product.ConsoleScopes(name))
				}
				if got := inProcess.Tables[name].Scopes[level]; !maps.Equal(got, want) {
					t.Errorf("scopes of the level %s:\n got %v\nwant %v", level, got, want)
				}
			}
			if got := len(d.Workspace) + len(d.User); got != len(d.Descriptions) {
				t.Errorf("%d scopes have a level, but %d have a description", got, len(d.Descriptions))
			}
		})
	}
}
