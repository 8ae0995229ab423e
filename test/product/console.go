package product

import (
	"maps"
	"slices"
	"strings"
)

// This file contains what keywicket adds to the APIs of both products for its console: rows, and one scope. The products' documents
// do not contain these rows. DocumentedAPIs contains everything else.

// consoleRows are the rows of an API for the console that need a scope.
type consoleRows struct {
	workspace, user map[string][]string // scope → the rows of the level that need it
	scopes          map[string]string   // user-level scope that the API's document does not have → description
}

const consoleBase = "/api/keywicket/v1/"

var consolePublic = []string{
	"GET /settings", "POST /settings", "GET /settings/{}", "POST /settings/{}",
	"GET " + consoleBase + "openapi.json", "POST " + consoleBase + "leaked",
}

// consoleWorkspace are the rows of both APIs for the tokens or keys of a workspace.
var consoleWorkspace = []string{
	"GET tokens", "POST tokens", "GET tokens/{}", "DELETE tokens/{}", "POST tokens/{}/rotate", "GET tokens/{}/usage",
	"GET scopes", "GET activity", "GET workspace", "PATCH workspace",
}

var console = map[string]consoleRows{
	"velaflows": {
		workspace: map[string][]string{"admin:all": consoleWorkspace},
		user:      map[string][]string{"workspaces:list": {"GET workspaces"}},
		scopes:    map[string]string{"workspaces:list": "List workspaces you belong to"},
	},
	"velocity": {
		workspace: map[string][]string{"workspace:admin": consoleWorkspace},
		user: map[string][]string{
			"workspaces:list": {"GET workspaces"},
			"admin": {
				"GET personal-keys", "POST personal-keys", "GET personal-keys/{}", "DELETE personal-keys/{}",
				"POST personal-keys/{}/rotate", "GET personal-keys/{}/usage", "GET personal-scopes",
				"GET apps", "POST apps", "GET apps/{}", "DELETE apps/{}", "POST apps/{}/rotate",
				"GET grants", "DELETE grants/{}", "GET account/activity",
			},
		},
	},
}

// ConsoleScopes returns the user-level scopes that keywicket adds to the scopes of the API's document, with their descriptions.
func ConsoleScopes(api string) map[string]string { return console[api].scopes }

// ConsoleRoutes returns the routes of the console that the API's table has in addition to the routes of the API's document.
func ConsoleRoutes(api string) []Route {
	var all []Route
	add := func(level, scope, base string, routes []string) {
		for _, r := range routes {
			method, path, _ := strings.Cut(r, " ")
			all = append(all, Route{method, base + path, scope, level})
		}
	}
	add(LevelPublic, "", "", consolePublic)
	for _, scope := range slices.Sorted(maps.Keys(console[api].workspace)) {
		add(LevelWorkspace, scope, consoleBase, console[api].workspace[scope])
	}
	for _, scope := range slices.Sorted(maps.Keys(console[api].user)) {
		add(LevelUser, scope, consoleBase, console[api].user[scope])
	}
	return all
}

// IsConsole reports whether Envoy sends the requests of the route to the console, not to an upstream of the API.
func (r Route) IsConsole() bool {
	return strings.HasPrefix(r.Path, consoleBase) || r.Path == "/settings" || strings.HasPrefix(r.Path, "/settings/")
}
