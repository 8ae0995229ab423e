package policies

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/keywicket/keywicket/authz"
)

// overlaps warns of rows that are not safe before a server that ignores letter case or a slash at the end of a path. To
// such a server /charges/Search is /charges/search; here the former matches the row /charges/{charge}, which may need
// less than the row that was meant.
func (t Table) overlaps() []string {
	var pairs [][2]Route // taken, meant
	add := func(taken, meant Route) {
		if taken.pattern.MayTake(meant.pattern) && t.index.ShareMethod(taken.method(), meant.method()) && !t.needsAllOf(taken, meant) {
			pairs = append(pairs, [2]Route{taken, meant})
		}
	}
	starts := make([][]string, len(t.Routes))
	byStart := make(map[string][]Route) // most pairs have nothing in common, and are never looked at
	for i, r := range t.Routes {
		starts[i] = r.pattern.Start()
		start := authz.JoinSegments(starts[i])
		byStart[start] = append(byStart[start], r)
	}
	for i, r := range t.Routes {
		start := starts[i]
		for n := range len(start) {
			for _, other := range byStart[authz.JoinSegments(start[:n])] {
				add(r, other)
				add(other, r)
			}
		}
		for _, other := range byStart[authz.JoinSegments(start)] {
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
			"line %d: %s can match what line %d, %s, is meant for, where a server ignores letter case or a slash at the end",
			p[0].Line, p[0].Name(), p[1].Line, p[1].path()))
	}
	return warnings
}

// needsAllOf reports whether whoever may use the route may use the other one too.
func (t Table) needsAllOf(r, other Route) bool {
	if other.Public {
		return true
	}
	if r.Public || r.level() != other.level() {
		return false
	}
	for _, scope := range other.Scopes {
		if !t.Holds(r.Scopes, scope) {
			return false
		}
	}
	oneOf := func(scope string) bool { // whoever holds the scope has one of those that the other route asks for
		return slices.ContainsFunc(other.AnyOf, func(any string) bool { return t.Holds([]string{scope}, any) })
	}
	return len(other.AnyOf) == 0 || slices.ContainsFunc(r.Scopes, oneOf) ||
		len(r.AnyOf) > 0 && !slices.ContainsFunc(r.AnyOf, func(scope string) bool { return !oneOf(scope) })
}
