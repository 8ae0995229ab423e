package table

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/keywicket/keywicket/authz/target"
)

// Overlaps returns a warning for each row that is unsafe with a server that ignores letter case or a trailing slash. For such a
// server, the path /charges/Search is the same as /charges/search. But in the table, /charges/Search matches the row
// /charges/{charge}, which may require less than the row /charges/search.
func (t Table) Overlaps() []string {
	var pairs [][2]Route // each pair contains the row that matches, and the row that a server may serve instead
	add := func(matching, meant Route) {
		if matching.pattern.MayShadow(meant.pattern) && t.index.MethodsOverlap(matching.method(), meant.method()) && !t.needsAllOf(matching, meant) {
			pairs = append(pairs, [2]Route{matching, meant})
		}
	}
	starts := make([][]string, len(t.Routes))
	byStart := make(map[string][]Route) // routes by their literal prefix: most pairs of routes have different prefixes and need no comparison
	for i, r := range t.Routes {
		starts[i] = r.pattern.LiteralPrefix()
		start := target.JoinSegments(starts[i])
		byStart[start] = append(byStart[start], r)
	}
	for i, r := range t.Routes {
		start := starts[i]
		for n := range len(start) {
			for _, other := range byStart[target.JoinSegments(start[:n])] {
				add(r, other)
				add(other, r)
			}
		}
		for _, other := range byStart[target.JoinSegments(start)] {
			if other.Line != r.Line {
				add(other, r)
			}
		}
	}
	slices.SortFunc(pairs, func(a, b [2]Route) int {
		return cmp.Or(cmp.Compare(a[1].Line, b[1].Line), cmp.Compare(a[0].Line, b[0].Line))
	})
	var warnings []string
	for _, p := range pairs {
		warnings = append(warnings, fmt.Sprintf(
			"line %d: %s can match requests meant for line %d, %s, if the server ignores letter case or a trailing slash",
			p[0].Line, p[0].Name(), p[1].Line, p[1].path()))
	}
	return warnings
}

// needsAllOf reports whether the route r requires at least as much as the route other: every credential that may use r may also
// use other.
func (t Table) needsAllOf(r, other Route) bool {
	if other.Public {
		return true
	}
	if r.Public || r.level() != other.level() {
		return false
	}
	for _, scope := range other.Scopes {
		if !t.Includes(r.Scopes, scope) {
			return false
		}
	}
	satisfiesAny := func(scope string) bool { // whether the scope is or implies one of other.AnyOf
		return slices.ContainsFunc(other.AnyOf, func(any string) bool { return t.Includes([]string{scope}, any) })
	}
	return len(other.AnyOf) == 0 || slices.ContainsFunc(r.Scopes, satisfiesAny) ||
		len(r.AnyOf) > 0 && !slices.ContainsFunc(r.AnyOf, func(scope string) bool { return !satisfiesAny(scope) })
}
