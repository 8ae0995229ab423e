package explain

import (
	"slices"

	"github.com/keywicket/keywicket/policies/table"
)

func (m *simulation) heldScopes() []string {
	if m.registry != nil {
		return m.token.Scopes
	}
	return m.lookupResult.Principal.Scopes
}

// missing returns the required scopes that the token does not have, whatever the reason of the denial is. A token with an
// override (a scope that satisfies all required scopes of the route) has no missing scopes.
func (m *simulation) missing() []string {
	missing := []string{}
	if m.explanation.Allow || m.hasOverride() {
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
	if len(m.explanation.AnyOf) == 0 {
		return m.explanation.RequiredScopes
	}
	i := max(0, slices.IndexFunc(m.explanation.AnyOf, func(scope string) bool { return t.Includes(m.heldScopes(), scope) }))
	if slices.Contains(m.explanation.RequiredScopes, m.explanation.AnyOf[i]) {
		return m.explanation.RequiredScopes
	}
	return append(slices.Clone(m.explanation.RequiredScopes), m.explanation.AnyOf[i])
}

// hasOverride reports whether the token has a scope that satisfies all required scopes of the route. An override of the level
// user satisfies every route, for a user's credential. An override of the level workspace satisfies every workspace-level
// route.
func (m *simulation) hasOverride() bool {
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
		if r.Name() == m.explanation.Route && r.Level != "" {
			return r.Level
		}
	}
	return table.LevelWorkspace
}
