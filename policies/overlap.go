package policies

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// overlaps warns of rows that are not safe before a server that ignores letter case or a slash at the end of a path. To
// such a server /charges/Search is /charges/search; here the former matches the row /charges/{charge}, which may need
// less than the row that was meant.
func (t Table) overlaps() []string {
	var warnings []string
	byLength := make(map[string][]Route) // method and number of segments, without a last empty one
	key := func(r Route) string { return fmt.Sprint(r.Method, " ", len(trimSlash(r.segments))) }
	for _, r := range t.Routes {
		byLength[key(r)] = append(byLength[key(r)], r)
	}
	for _, meant := range t.Routes {
		for _, taken := range byLength[key(meant)] {
			if taken.Line != meant.Line && !taken.needsAllOf(meant) && taken.takesFrom(meant) {
				warnings = append(warnings, fmt.Sprintf(
					"line %d: %s %s can match what line %d, %s, is meant for, where a server ignores letter case or a slash at the end",
					taken.Line, taken.Method, taken.Path, meant.Line, meant.Path))
			}
		}
	}
	return warnings
}

func trimSlash(segments []string) []string {
	if n := len(segments); n > 1 && segments[n-1] == "" {
		return segments[:n-1]
	}
	return segments
}

// needsAllOf reports whether whoever may use the route may use the other one too.
func (r Route) needsAllOf(other Route) bool {
	if other.Public {
		return true
	}
	return !r.Public && r.level() == other.level() &&
		!slices.ContainsFunc(other.Scopes, func(scope string) bool { return !slices.Contains(r.Scopes, scope) })
}

// takesFrom reports whether the route matches a path that another row matches in another letter case, or with or without
// a slash at the end. Both have the same number of segments.
func (r Route) takesFrom(other Route) bool {
	mine, others := trimSlash(r.segments), trimSlash(other.segments)
	differs := len(r.segments) != len(other.segments)
	goesFirst, decided := true, false // the other row, in its own spelling: a literal goes first, from the left
	for i, s := range mine {
		switch literal := others[i]; {
		case s == anyText && literal == "", s == "" && literal == anyText:
			return false
		case s == anyText && literal != anyText:
			differs = differs || strings.ContainsFunc(literal, unicode.IsLetter)
			decided = true
		case s != anyText && literal == anyText:
			goesFirst = goesFirst && decided
			decided = true
		case s == anyText:
		case !strings.EqualFold(s, literal):
			return false
		default:
			differs = differs || s != literal
		}
	}
	return differs && goesFirst
}
