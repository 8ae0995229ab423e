package route

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz/target"
)

// Pattern is the path of a row: literal text, and parameters in braces. Literal text is decoded before the comparison, as
// [target.Segments] decodes the path of a request. So the row and the request may use different escapes.
//
//	/users/{userId}                   one segment
//	/reports/{id}.json                a part of a segment, with text around it
//	/files/{path...}                  the rest of the path: one segment or more
type Pattern struct {
	segments []segment
	folded   []segment // the segments in one letter case, for a server that ignores letter case
}

// segment is a segment of a pattern.
type segment struct {
	kind  kind
	texts []string // decoded literal texts before, between and after the parameters; nil for a rest parameter
}

// kind is the kind of a segment. The constants are in the order of precedence.
type kind int

const (
	literal   kind = iota // only text
	partial               // text and parameters
	parameter             // one parameter
	rest                  // the last parameter, which matches one segment or more
)

var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?$`)
	// Parameters in the syntax of other frameworks.
	colonForm = regexp.MustCompile(`^:([A-Za-z_]\w*)`)
	angleForm = regexp.MustCompile(`<(?:(\w+):)?(\w+)>`)
)

// Parse parses a pattern. The error says what to write instead.
func Parse(text string) (Pattern, error) {
	p, err := parse(text)
	if noRequest, ok := errors.AsType[noRequestError](err); ok {
		return p, fmt.Errorf("the path %q matches no request: %w", text, noRequest.cause)
	}
	if err != nil {
		return p, fmt.Errorf("the path %q: %w", text, err)
	}
	return p, nil
}

// noRequestError is the error for a pattern that no path of a request can match.
type noRequestError struct{ cause error }

func (e noRequestError) Error() string { return e.cause.Error() }

func parse(text string) (Pattern, error) {
	var p Pattern
	if !strings.HasPrefix(text, "/") {
		return p, noRequestError{target.ErrPathStart}
	}
	raw, err := split(text[1:])
	if err != nil {
		return p, err
	}
	for i, r := range raw {
		last := i == len(raw)-1
		s, err := parseSegment(r)
		switch {
		case err != nil:
			return p, err
		case s.kind == rest && !last:
			return p, fmt.Errorf("%s is the rest of the path, so nothing can follow it", r)
		case s.kind == literal && s.texts[0] == "" && !last:
			return p, noRequestError{target.ErrEmptySegment}
		}
		p.segments, p.folded = append(p.segments, s), append(p.folded, s.fold())
	}
	return p, nil
}

// split splits the path at the slashes outside of braces.
func split(text string) ([]string, error) {
	var segments []string
	start, open := 0, false
	for i, c := range text {
		switch {
		case c == '{' && open:
			return nil, errors.New("it has a { in a parameter: write a literal { as %7B")
		case c == '}' && !open:
			return nil, errors.New("it has a } without a {: write a literal } as %7D")
		case c == '{', c == '}':
			open = c == '{'
		case c == '/' && !open:
			segments = append(segments, text[start:i])
			start = i + 1
		}
	}
	if open {
		return nil, errors.New("it has a { without a }: write a literal { as %7B")
	}
	return append(segments, text[start:]), nil
}

// parseSegment parses the text between two slashes.
func parseSegment(raw string) (segment, error) {
	s := segment{kind: literal}
	for remaining := raw; ; {
		before, after, found := strings.Cut(remaining, "{")
		text, err := decode(raw, before)
		if err != nil {
			return s, err
		}
		s.texts = append(s.texts, text)
		if !found {
			break
		}
		var name string
		name, remaining, _ = strings.Cut(after, "}")
		base, isRest := strings.CutSuffix(name, "...")
		switch {
		case isRest && raw != "{"+name+"}":
			return s, fmt.Errorf("%q has text around the rest of the path: %q must be the whole last segment", raw, "{"+name+"}")
		case !nameForm.MatchString(base):
			return s, nameError(name)
		case len(s.texts) > 1 && text == "":
			return s, fmt.Errorf("%q has two parameters side by side: put text between them", raw)
		case isRest:
			return segment{kind: rest}, nil
		}
		s.kind = partial
	}
	switch {
	case s.kind == partial && len(s.texts) == 2 && s.texts[0] == "" && s.texts[1] == "":
		s.kind = parameter
	case s.kind == literal:
		if _, err := target.Segments("/"+raw, target.Parameters{}); err != nil {
			return s, noRequestError{err}
		}
	}
	return s, nil
}

// nameError returns the error for an invalid parameter name. For the syntax of a known framework, the error says what to write
// instead.
func nameError(name string) error {
	shown := "{" + name + "}"
	if name != "" && strings.ContainsRune("?&;./#", rune(name[0])) && !strings.HasPrefix(name, "..") {
		return fmt.Errorf("%q is an operator of URI templates: write {name} for a segment, and omit a query", shown)
	}
	plain, condition, conditional := strings.Cut(name, ":")
	if template, value, ok := strings.Cut(name, "="); ok && !conditional {
		segments := regexp.MustCompile(`\*+`).ReplaceAllString(value, "{"+template+"}")
		return fmt.Errorf("%q is not a parameter: write %s instead", shown, segments)
	}
	plain = strings.Trim(plain, "?+*.")
	if !nameForm.MatchString(plain) {
		plain = "name"
	}
	switch {
	case strings.HasSuffix(name, "?"):
		return fmt.Errorf("%q cannot be optional: write two rows, one with {%s} and one without it", shown, plain)
	case condition == "path", condition == ".*", condition == ".+", !conditional && strings.ContainsAny(name, "+*"), strings.HasSuffix(name, ".."):
		return fmt.Errorf("%q is not a parameter: write {%s...} for the rest of the path, {%s} for one segment", shown, plain, plain)
	case conditional:
		return fmt.Errorf("%q is not a parameter: write {%s}, and compare its text in a rule", shown, plain)
	}
	return fmt.Errorf("%q is not a parameter: a name consists of letters, digits, _, - and ., such as {userId}", shown)
}

// decode decodes the literal text before a parameter or after the last parameter. The parameter `segment` contains the whole text
// of the segment. Errors quote this text.
func decode(segment, text string) (string, error) {
	if name := colonForm.FindStringSubmatch(segment); name != nil {
		return "", fmt.Errorf("%q is not a parameter: write {%s}; for a literal colon write %%3A", segment, name[1])
	}
	if name := angleForm.FindStringSubmatch(segment); name != nil {
		if name[1] == "path" {
			name[2] += "..."
		}
		return "", fmt.Errorf("%q is not a parameter: write {%s}", segment, name[2])
	}
	switch {
	case strings.Contains(text, "?"):
		return "", errors.New("a path has no query: compare input.request.query in a rule")
	case strings.Contains(text, "*"):
		return "", fmt.Errorf("the segment %q contains a *: write {name} for one segment, {name...} for the rest of the path, %%2A for the character", segment)
	}
	// The letter x before and after the text prevents two mistakes. Without this letter, a text of one dot would be a dot
	// segment, and an escape at the end of the text could continue in the parameter.
	segments, err := target.Segments("/x"+text+"x", target.Parameters{})
	if c, ok := errors.AsType[target.NotPermittedError](err); ok {
		return "", fmt.Errorf("%q has a %s, which literal text cannot contain: parameters.may_hold permits this character only in parameters", segment, string(c))
	}
	if err != nil {
		return "", noRequestError{err}
	}
	return segments[0][1 : len(segments[0])-1], nil
}

// WholeParameters reports whether each parameter is a whole segment, and no parameter is a rest parameter.
func (p Pattern) WholeParameters() bool {
	return !slices.ContainsFunc(p.segments, func(s segment) bool { return s.kind == partial || s.kind == rest })
}

// Sample returns a path that p matches.
func (p Pattern) Sample() string {
	var b strings.Builder
	for _, s := range p.segments {
		b.WriteByte('/')
		if s.kind == rest {
			b.WriteString("x/x")
			continue
		}
		b.WriteString(strings.Join(s.texts, "x"))
	}
	return b.String()
}

// literalCount returns the number of literal characters of a partial segment. If one of two matching segments has precedence,
// it has more literal characters.
func (s segment) literalCount() int {
	n := 0
	for _, text := range s.texts {
		n += utf8.RuneCountInString(text)
	}
	return n
}

// matches reports whether s matches a decoded segment of a request. If s is a rest parameter, the text is the first segment
// that it matches.
func (s segment) matches(text string) bool {
	switch s.kind {
	case literal:
		return text == s.texts[0]
	case parameter, rest:
		return text != ""
	}
	last := len(s.texts) - 1
	if !strings.HasPrefix(text, s.texts[0]) {
		return false
	}
	text = text[len(s.texts[0]):]
	for _, next := range s.texts[1:last] {
		if text == "" {
			return false
		}
		at := strings.Index(text[1:], next) // a parameter never matches an empty text
		if at < 0 {
			return false
		}
		text = text[1+at+len(next):]
	}
	return len(text) > len(s.texts[last]) && strings.HasSuffix(text, s.texts[last])
}

// These characters represent a parameter and a rest parameter in the string form of a segment. Segments of requests have no
// control characters.
const (
	parameterMark = "\x01"
	restMark      = "\x02"
)

func (s segment) String() string {
	if s.kind == rest {
		return restMark
	}
	return strings.Join(s.texts, parameterMark)
}

// covers reports whether s matches every text that the other segment matches. Both segments must be partial.
func (s segment) covers(other segment) bool { return s.matches(other.String()) }

// intersects reports whether at least one text matches both segments.
func (s segment) intersects(other segment) bool {
	switch {
	case s.kind == literal:
		return other.matches(s.texts[0])
	case other.kind == literal:
		return s.matches(other.texts[0])
	case s.kind != partial || other.kind != partial:
		return true
	}
	return prefixesAgree(s.texts[0], other.texts[0]) && suffixesAgree(s.texts[len(s.texts)-1], other.texts[len(other.texts)-1]) &&
		newProduct(s, other).reachesEnd(0, 0)
}

func prefixesAgree(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

func suffixesAgree(a, b string) bool { return strings.HasSuffix(a, b) || strings.HasSuffix(b, a) }

// product is the product automaton of two partial segments: it compares one text with both. A parameter matches one character, and
// then any number of characters.
type product struct {
	a, b []rune
	seen map[[2]int]bool
}

const (
	anyCharacter   = '\x01'
	moreCharacters = '\x03'
)

// newProduct returns the product automaton at its start.
func newProduct(a, b segment) product {
	expand := func(s segment) []rune {
		return []rune(strings.ReplaceAll(s.String(), parameterMark, string(anyCharacter)+string(moreCharacters)))
	}
	return product{a: expand(a), b: expand(b), seen: make(map[[2]int]bool)}
}

// reachesEnd reports whether some text leads from position i of segment a and position j of segment b to the ends of both
// segments.
func (p product) reachesEnd(i, j int) bool {
	state := [2]int{i, j}
	if p.seen[state] {
		return false
	}
	p.seen[state] = true
	moreA, moreB := i < len(p.a) && p.a[i] == moreCharacters, j < len(p.b) && p.b[j] == moreCharacters
	switch {
	case i == len(p.a) && j == len(p.b):
		return true
	case moreA && p.reachesEnd(i+1, j), moreB && p.reachesEnd(i, j+1):
		return true
	case i == len(p.a) || j == len(p.b):
		return false
	}
	wild := func(r rune) bool { return r == anyCharacter || r == moreCharacters }
	if p.a[i] != p.b[j] && !wild(p.a[i]) && !wild(p.b[j]) {
		return false
	}
	nextI, nextJ := i+1, j+1
	if moreA {
		nextI = i
	}
	if moreB {
		nextJ = j
	}
	return p.reachesEnd(nextI, nextJ)
}
