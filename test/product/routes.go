package product

import (
	"maps"
	"slices"
	"strings"
)

// API contains the routes and scopes of one API, in another form than the API's data.yaml. The tests compare the policies with
// this table, and the matrix of routes checks exactly these routes. "{}" is one path segment.
type API struct {
	Descriptions map[string]string   // scope → what it permits, in the words of the API's own document
	Workspace    map[string][]string // scope → the workspace-level routes that need it
	User         map[string][]string // scope → the user-level routes that need it
	base         string              // prefix of the paths in Workspace and User
	public       []string            // complete paths of public routes
	unlisted     []string            // complete paths that are not listed, but are similar to listed paths

	Prefixes []string // prefixes of the API's credentials
	Override string   // scope that replaces the required scopes of every workspace-level route
}

// Route is one route. Its scope is empty if the route is public or not listed.
type Route struct{ Method, Path, Scope, Level string }

// The levels of routes. Routes of the last two levels have no scope.
const (
	LevelWorkspace = "workspace"
	LevelUser      = "user"
	LevelPublic    = "public"
	LevelUnlisted  = "unlisted"
)

// Routes returns every route that the document lists, and the unlisted ones.
func (d API) Routes() []Route {
	var all []Route
	add := func(level, scope, base string, routes []string) {
		for _, r := range routes {
			method, path, _ := strings.Cut(r, " ")
			all = append(all, Route{method, base + path, scope, level})
		}
	}
	add(LevelPublic, "", "", d.public)
	add(LevelUnlisted, "", "", d.unlisted)
	for _, scope := range slices.Sorted(maps.Keys(d.Workspace)) {
		add(LevelWorkspace, scope, d.base, d.Workspace[scope])
	}
	for _, scope := range slices.Sorted(maps.Keys(d.User)) {
		add(LevelUser, scope, d.base, d.User[scope])
	}
	return all
}
