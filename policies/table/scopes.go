package table

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// Scope returns the level of a scope. It returns false if the table does not define the scope.
func (t Table) Scope(name string) (Level, bool) {
	for level, scopes := range t.Scopes {
		if _, ok := scopes[name]; ok {
			return level, true
		}
	}
	return "", false
}

// ScopeNames returns the table's scopes that have one of the levels, in alphabetical order.
func (t Table) ScopeNames(levels ...Level) []string {
	var names []string
	for _, level := range levels {
		names = slices.AppendSeq(names, maps.Keys(t.Scopes[level]))
	}
	slices.Sort(names)
	return names
}

// checkScopes finds invalid scopes, overrides, roles and implications. For each error, it calls the parameter `refuse` with the
// YAML keys on the path to the invalid value, such as roles, guest, animals:feed.
func (t Table) checkScopes(refuse func(err error, keys ...string)) {
	levels := make(map[string]Level)
	for _, level := range slices.Sorted(maps.Keys(t.Scopes)) {
		if level != LevelWorkspace && level != LevelUser {
			refuse(fmt.Errorf("scopes: the level %q is neither workspace nor user", level), "scopes", string(level))
			continue
		}
		for _, scope := range slices.Sorted(maps.Keys(t.Scopes[level])) {
			other, twice := levels[scope]
			switch {
			case !authz.ValidScope(scope):
				refuse(fmt.Errorf("scopes: %q has characters that a scope cannot have", scope), "scopes", string(level), scope)
			case twice:
				refuse(fmt.Errorf("scopes: %s has the level %s and the level %s", scope, other, level), "scopes", string(level), scope)
			}
			levels[scope] = level
		}
	}
	for _, level := range slices.Sorted(maps.Keys(t.Overrides)) {
		if level != LevelWorkspace && level != LevelUser {
			refuse(fmt.Errorf("overrides: the level %q is neither workspace nor user", level), "overrides", string(level))
		}
		for _, scope := range t.Overrides[level] {
			if err := t.checkKnown([]string{scope}); err != nil {
				refuse(fmt.Errorf("overrides: %w", err), "overrides", string(level), scope)
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(t.Roles)) {
		for _, scope := range t.Roles[role] {
			if err := t.checkKnown([]string{scope}); err != nil {
				refuse(fmt.Errorf("roles: %s: %w", role, err), "roles", role, scope)
			}
		}
	}
	t.checkImplies(refuse)
}

// checkImplies finds three kinds of errors in the key "implies": undefined scopes, scopes of another level, and cycles. A cycle
// is an error because all scopes in it would have the same effect.
func (t Table) checkImplies(refuse func(err error, keys ...string)) {
	for _, scope := range slices.Sorted(maps.Keys(t.Implies)) {
		level, ok := t.Scope(scope)
		if !ok {
			refuse(fmt.Errorf("implies: the scope %q is not defined under the key \"scopes\"", scope), "implies", scope)
			continue
		}
		for _, name := range t.Implies[scope] {
			if err := t.checkImplied(scope, level, name); err != nil {
				refuse(fmt.Errorf("implies: %w", err), "implies", scope, name)
			}
		}
	}
}

// checkImplied checks one name in the list that the key "implies" has for the scope. The parameter `level` is the level of this
// scope.
func (t Table) checkImplied(scope string, level Level, name string) error {
	names := t.scopesNamed(name)
	if len(names) == 0 && strings.HasSuffix(name, "*") {
		return fmt.Errorf("%s: no scope starts with %q", scope, strings.TrimSuffix(name, "*"))
	}
	if len(names) == 0 {
		return fmt.Errorf("%s: the scope %q is not defined under the key \"scopes\"", scope, name)
	}
	for _, other := range names {
		if otherLevel, _ := t.Scope(other); otherLevel != level {
			return fmt.Errorf("%s has the level %s, but %s has the level %s", scope, level, other, otherLevel)
		}
		if other != scope && slices.Contains(t.Implied(other), scope) {
			return fmt.Errorf("%s and %s imply one another", scope, other)
		}
	}
	return nil
}

// scopesNamed returns the scopes for a name in the key "implies". The name is a scope, or a prefix followed by *.
func (t Table) scopesNamed(name string) []string {
	start, several := strings.CutSuffix(name, "*")
	if _, ok := t.Scope(name); ok && !several {
		return []string{name}
	}
	if !several {
		return nil
	}
	return slices.DeleteFunc(t.ScopeNames(LevelWorkspace, LevelUser), func(scope string) bool { return !strings.HasPrefix(scope, start) })
}

// Implied returns the scope itself and all scopes that it implies, directly or indirectly, in alphabetical order.
func (t Table) Implied(scope string) []string {
	implied := map[string]bool{scope: true}
	for pending := []string{scope}; len(pending) > 0; pending = pending[1:] {
		for _, name := range t.Implies[pending[0]] {
			for _, next := range t.scopesNamed(name) {
				if !implied[next] {
					implied[next] = true
					pending = append(pending, next)
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(implied))
}

// Includes reports whether one of the scopes is the required scope or implies it.
func (t Table) Includes(scopes []string, scope string) bool {
	return slices.Contains(scopes, scope) ||
		slices.ContainsFunc(scopes, func(held string) bool { return slices.Contains(t.Implied(held), scope) })
}

// AppScopes returns the scopes of a level that an app may request, in alphabetical order: all except overrides of any level. An
// override satisfies the required scopes of every route of a level.
func (t Table) AppScopes(level Level) []string {
	return slices.DeleteFunc(t.ScopeNames(level), func(scope string) bool {
		return t.IsOverride(scope, LevelWorkspace) || t.IsOverride(scope, LevelUser)
	})
}

// IsOverride reports whether the table lists the scope, or a scope that it implies, as an override of the level.
func (t Table) IsOverride(scope string, level Level) bool {
	return slices.ContainsFunc(t.Implied(scope), func(s string) bool { return slices.Contains(t.Overrides[level], s) })
}

// checkKnown returns an error for the first scope that the table does not define.
func (t Table) checkKnown(scopes []string) error {
	for _, scope := range scopes {
		if _, ok := t.Scope(scope); !ok {
			return fmt.Errorf("the scope %q is not defined under the key \"scopes\"", scope)
		}
	}
	return nil
}
