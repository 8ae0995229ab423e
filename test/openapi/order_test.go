package openapi

import (
	"slices"
	"strings"
)

// The kinds of a row's segments. A lower kind has priority.
const (
	literal = iota
	partial
	wholeParameter
	rest
)

// winners returns the operations whose row has priority for a request, by the rule of docs/policies.md. It compares segments
// from the left. Literal text comes first, then text with parameters, then a whole parameter, then the rest of the path. If the
// rule does not order several rows, all of them are winners. A segment may contain both text and parameters. In these
// documents, no two such segments match the same text, so this function does not order them.
func winners(all []operation, method string, path []string) []operation {
	var first []operation
	var best []int
	for _, o := range all {
		if o.method != method {
			continue
		}
		kinds, ok := match(o.segments, path)
		if !ok {
			continue
		}
		switch order := slices.Compare(kinds, best); {
		case first == nil || order < 0:
			first, best = []operation{o}, kinds
		case order == 0:
			first = append(first, o)
		}
	}
	return first
}

// match reports whether a row's segments match a path, and returns the kinds of the segments.
func match(segments, path []string) ([]int, bool) {
	var kinds []int
	for i, s := range segments {
		switch {
		case i == len(path):
			return nil, false
		case isRest(s):
			return append(kinds, rest), path[i] != ""
		case !matchesSegment(s, path[i]):
			return nil, false
		case isParameter(s):
			kinds = append(kinds, wholeParameter)
		case strings.Contains(s, "{"):
			kinds = append(kinds, partial)
		default:
			kinds = append(kinds, literal)
		}
	}
	return kinds, len(segments) == len(path)
}

// matchesSegment reports whether the segment matches the text. It tries every length of every parameter.
func matchesSegment(segment, text string) bool {
	before, named, found := strings.Cut(segment, "{")
	if !found {
		return segment == text
	}
	text, ok := strings.CutPrefix(text, before)
	_, after, _ := strings.Cut(named, "}")
	for n := 1; ok && n <= len(text); n++ {
		if matchesSegment(after, text[n:]) {
			return true
		}
	}
	return false
}
