package route

import (
	"cmp"
	"strings"
	"unicode"
)

// goesBefore compares two segments of patterns that match one text: negative if s goes first, 0 if nothing orders them.
// Literal text goes before a partial segment, that before a parameter, and that before a rest. Of two partial segments, the
// one goes first of which the other one matches every text.
func (s segment) goesBefore(other segment) int {
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

// MayTake reports whether p matches a path that a server takes for one of the other pattern, because it ignores letter case or
// a slash at the end: /charges/{charge} matches /charges/Search, which is /charges/search to such a server.
func (p Pattern) MayTake(other Pattern) bool {
	mine, others := trimSlash(p.segments), trimSlash(other.segments)
	differs := (len(mine) < len(p.segments)) != (len(others) < len(other.segments))
	for i := range min(len(mine), len(others)) { // most pairs end here
		s, o := &p.folded[i], &other.folded[i]
		if s.kind == literal && o.kind == literal && s.texts[0] != o.texts[0] {
			return false
		}
	}
	goesFirst, decided := true, false // the other pattern, for its own paths
	for i := 0; i < len(mine) || i < len(others); i++ {
		if i >= len(mine) || i >= len(others) {
			return false
		}
		s, o := &p.folded[i], &other.folded[i]
		switch {
		case s.kind == rest && o.kind == rest:
			return differs && goesFirst
		case s.kind == rest: // it matches with a slash at the end, and without
			return goesFirst
		case o.kind == rest:
			return differs && goesFirst && decided
		case !s.meets(*o):
			return false
		}
		switch order := o.goesBefore(*s); {
		case order < 0, order == 0 && s.kind == partial && s.String() != o.String():
			differs = differs || strings.ContainsFunc(o.String(), unicode.IsLetter)
			decided = true
		case order > 0:
			goesFirst = goesFirst && decided
			decided = true
		default:
			differs = differs || mine[i].String() != others[i].String()
		}
	}
	return differs && goesFirst
}

// Start is the literal text that p starts with, up to its first parameter, for a server that ignores letter case: segment by
// segment. MayTake is false for two patterns of which neither one's Start begins with the other's.
func (p Pattern) Start() []string {
	var start []string
	for _, s := range trimSlash(p.folded) {
		if s.kind != literal {
			break
		}
		start = append(start, s.texts[0])
	}
	return start
}

func trimSlash(segments []segment) []segment {
	if n := len(segments); n > 1 && segments[n-1].kind == literal && segments[n-1].texts[0] == "" {
		return segments[:n-1]
	}
	return segments
}

// fold is s for a server that ignores letter case.
func (s segment) fold() segment {
	texts := make([]string, len(s.texts))
	for i, text := range s.texts {
		texts[i] = strings.ToLower(strings.ToUpper(text))
	}
	return segment{kind: s.kind, texts: texts}
}
