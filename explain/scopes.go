package explain

import (
	"slices"

	"github.com/keywicket/keywicket/policies/table"
)

func (m *simulation) heldScopes() []string {
	if m.registry != nil {
		return m.token.Scopes
	}
	return m.found.Principal.Scopes
}

// missing returns the required scopes that the token does not have, for any reason of the denial. A token with a valid override (a
// scope that satisfies every route of its level) has no missing scopes.
func (m *simulation) missing() []string {
	missing := []string{}
	if m.why.Allow || m.overrides() {
		return missing
	}
	for _, scope := range m.needed() {
		if !m.explainer.Tables()[m.api].Includes(m.heldScopes(), scope) || m.principal().API != m.api {
			missing = append(missing, scope)
		}
	}
	return missing
}

// needed returns all required scopes of the route, and one of its any_of scopes. It prefers a scope that the token has.
func (m *simulation) needed() []string {
	t := m.explainer.Tables()[m.api]
	if len(m.why.AnyOf) == 0 {
		return m.why.RequiredScopes
	}
	i := max(0, slices.IndexFunc(m.why.AnyOf, func(scope string) bool { return t.Includes(m.heldScopes(), scope) }))
	if slices.Contains(m.why.RequiredScopes, m.why.AnyOf[i]) {
		return m.why.RequiredScopes
	}
	return append(slices.Clone(m.why.RequiredScopes), m.why.AnyOf[i])
}

// overrides reports whether the token has an override that applies to the level of the route.
func (m *simulation) overrides() bool {
	t := m.explainer.Tables()[m.api]
	ofUser := m.principal().Kind.OfUser()
	return slices.ContainsFunc(m.heldScopes(), func(scope string) bool {
		return ofUser && t.IsOverride(scope, table.LevelUser) ||
			m.level() == table.LevelWorkspace && t.IsOverride(scope, table.LevelWorkspace)
	})
}

// level returns the level of the route. Without a route, it is the workspace level.
func (m *simulation) level() table.Level {
	for _, r := range m.explainer.Tables()[m.api].Routes {
		if r.Name() == m.why.Route && r.Level != "" {
			return r.Level
		}
	}
	return table.LevelWorkspace
}
