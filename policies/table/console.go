package table

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/route"
)

// CheckConsole returns an error that names the rows which the console needs and the table lacks. The parameter `pages` is the path of
// the console's pages, such as /settings. The parameter `formats` are the API's credentials: an API without personal keys or apps
// needs no rows for them.
//
// A row of the table counts if its own path starts with the path of the pages or with [authz.ConsolePath]. So a row for all paths, which was
// written for something else, does not open the console.
func (t Table) CheckConsole(pages string, formats []authz.CredentialFormat) error {
	var missing []string
	for _, r := range consoleRows(pages, formats) {
		pattern, err := route.Parse(r.Path)
		if err != nil {
			return fmt.Errorf("the path of the console's pages: %w", err)
		}
		i, ok := t.index.Find(r.Method, pattern.Sample())
		if ok {
			found := t.Routes[i]
			ok = found.Public == r.Public && (r.Public || found.level() == r.level()) &&
				(found.path() == pages || strings.HasPrefix(found.path(), pages+"/") || strings.HasPrefix(found.path(), authz.ConsolePath))
		}
		if !ok {
			missing = append(missing, t.consoleRow(r))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing rows: %s: add them to the routes of the table", strings.Join(missing, ", "))
	}
	return nil
}

// consoleRow returns the row as YAML. If the row has no scopes, it requires the override of its level.
func (t Table) consoleRow(r Route) string {
	keys := fmt.Sprintf("method: %s, path: %s", r.Method, r.Path)
	if strings.Contains(r.Path, "{") { // braces need quotes
		keys = fmt.Sprintf("method: %s, path: %q", r.Method, r.Path)
	}
	if r.Public {
		return "{" + keys + ", public: true}"
	}
	if r.level() == LevelUser {
		keys += ", level: user"
	}
	scope := "SCOPE"
	if overrides := t.Overrides[r.level()]; len(overrides) > 0 {
		scope = overrides[0]
	}
	return "{" + keys + ", scopes: [" + scope + "]}"
}

// consoleRows returns the rows that the console needs. Their scopes are missing, because each API has its own.
func consoleRows(pages string, formats []authz.CredentialFormat) []Route {
	var rows []Route
	add := func(r Route, requests ...string) {
		for _, request := range requests {
			r.Method, r.Path, _ = strings.Cut(request, " ")
			rows = append(rows, r)
		}
	}
	has := func(kinds ...authz.Kind) bool {
		return slices.ContainsFunc(formats, func(f authz.CredentialFormat) bool { return slices.Contains(kinds, f.Kind) })
	}
	managed := func(path string) []string {
		return []string{
			"GET " + path, "POST " + path, "GET " + path + "/{id}", "DELETE " + path + "/{id}", "POST " + path + "/{id}/rotate",
		}
	}
	add(Route{Public: true}, "GET "+pages, "POST "+pages, "GET "+pages+"/{page...}", "POST "+pages+"/{page...}",
		"GET "+authz.ConsolePath+"openapi.json", "POST "+authz.ConsolePath+"leaked")
	if has(authz.KindWorkspaceToken, authz.KindWorkspaceKey) {
		add(Route{}, managed(authz.ConsolePath+"tokens")...)
		add(Route{}, "GET "+authz.ConsolePath+"tokens/{id}/usage", "GET "+authz.ConsolePath+"scopes")
	}
	add(Route{}, "GET "+authz.ConsolePath+"activity", "GET "+authz.ConsolePath+"workspace", "PATCH "+authz.ConsolePath+"workspace")
	user := Route{Level: LevelUser}
	add(user, "GET "+authz.ConsolePath+"workspaces")
	if has(authz.KindPersonalKey) {
		add(user, managed(authz.ConsolePath+"personal-keys")...)
		add(user, "GET "+authz.ConsolePath+"personal-keys/{id}/usage", "GET "+authz.ConsolePath+"personal-scopes")
	}
	if has(authz.KindOAuthToken) {
		add(user, managed(authz.ConsolePath+"apps")...)
		add(user, "GET "+authz.ConsolePath+"grants", "DELETE "+authz.ConsolePath+"grants/{id}")
	}
	if has(authz.KindPersonalKey, authz.KindOAuthToken) {
		add(user, "GET "+authz.ConsolePath+"account/activity")
	}
	return rows
}
