package route

import (
	"cmp"
	"strings"
	"unicode"
)

// compare returns the precedence of two segments that match a common text: negative if `s` has precedence, positive if `other`
// has precedence, and 0 if neither has. The order of precedence is: literal, partial segment, parameter, rest. A partial
// segment has precedence over a second partial segment if the second one matches every text that the first one matches.
func (s segment) compare(other segment) int {
	switch {
	case s.kind != other.kind:
		return cmp.Compare(s.kind, other.kind)
	case s.kind != partial || s.String() == other.String():
		return 0
	case other.covers(s):
		return -1
	case s.covers(other):
		return 1
	}
	return 0
}

// MayShadow reports whether p matches a path that some servers treat as a path of the other pattern. Such servers ignore letter case
// or a trailing slash. Example: /charges/{charge} matches /charges/Search, which is /charges/search to such a server.
func (p Pattern) MayShadow(other Pattern) bool {
	ownSegments, otherSegments := trimSlash(p.segments), trimSlash(other.segments)
	differs := (len(ownSegments) < len(p.segments)) != (len(otherSegments) < len(other.segments))
	for i := range min(len(ownSegments), len(otherSegments)) { // a quick test that rules out most pairs
		s, o := &p.folded[i], &other.folded[i]
		if s.kind == literal && o.kind == literal && s.texts[0] != o.texts[0] {
			return false
		}
	}
	otherFirst, decided := true, false // otherFirst: the other pattern has precedence for its own paths
	for i := 0; i < len(ownSegments) || i < len(otherSegments); i++ {
		if i >= len(ownSegments) || i >= len(otherSegments) {
			return false
		}
		s, o := &p.folded[i], &other.folded[i]
		switch {
		case s.kind == rest && o.kind == rest:
			return differs && otherFirst
		case s.kind == rest: // a rest parameter matches with and without a trailing slash
			return otherFirst
		case o.kind == rest:
			return differs && otherFirst && decided
		case !s.intersects(*o):
			return false
		}
		switch order := o.compare(*s); {
		case order < 0, order == 0 && s.kind == partial && s.String() != o.String():
			differs = differs || strings.ContainsFunc(o.String(), unicode.IsLetter)
			decided = true
		case order > 0:
			otherFirst = otherFirst && decided
			decided = true
		default:
			differs = differs || ownSegments[i].String() != otherSegments[i].String()
		}
	}
	return differs && otherFirst
}

// LiteralPrefix returns the literal segments at the start of p, folded for a server that ignores letter case. MayShadow can only be
// true for two patterns if the LiteralPrefix of one begins with the LiteralPrefix of the other.
func (p Pattern) LiteralPrefix() []string {
	var start []string
	for _, s := range trimSlash(p.folded) {
		if s.kind != literal {
			break
		}
		start = append(start, s.texts[0])
	}
	return start
}

// MatchingSegments returns how many segments at the start of the pattern match the decoded segments at the start of a path.
func (p Pattern) MatchingSegments(path []string) int {
	n := 0
	for n < len(p.segments) && n < len(path) && p.segments[n].matches(path[n]) {
		n++
	}
	return n
}

// trimSlash removes the empty last segment of a path with a trailing slash. It keeps the path /.
func trimSlash(segments []segment) []segment {
	if n := len(segments); n > 1 && segments[n-1].kind == literal && segments[n-1].texts[0] == "" {
		return segments[:n-1]
	}
	return segments
}

// fold returns s with its texts in one letter case, for a server that ignores letter case.
func (s segment) fold() segment {
	texts := make([]string, len(s.texts))
	for i, text := range s.texts {
		texts[i] = strings.ToLower(strings.ToUpper(text))
	}
	return segment{kind: s.kind, texts: texts}
}
