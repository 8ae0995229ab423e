package openapi

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// paths generates random paths of operations.
type paths struct {
	*rand.Rand
	siblings siblings
}

// siblings maps a method and the first segments of a path to the continuations of these segments in the rows. It contains only
// continuations with literal text.
type siblings map[string][][]string

func siblingsIn(all []operation) siblings {
	found := make(siblings)
	for _, o := range all {
		for i := range o.segments {
			if end := o.segments[i:]; slices.ContainsFunc(end, func(s string) bool { return !isParameter(s) }) {
				front := frontOf(o, i)
				found[front] = append(found[front], end)
			}
		}
	}
	return found
}

// sibling returns a random continuation of another row that can replace a parameter of the operation's row. If the parameter
// matches one segment, the continuation has one segment. The result is nil if there is no such continuation.
func (p paths) sibling(o operation, i int) []string {
	var others [][]string
	for _, end := range p.siblings[frontOf(o, i)] {
		switch {
		case isRest(o.segments[i]):
			others = append(others, end)
		case !isParameter(end[0]):
			others = append(others, end[:1])
		}
	}
	if others == nil {
		return nil
	}
	return others[p.IntN(len(others))]
}

// frontOf returns the operation's method and its first n segments, with {} for each parameter.
func frontOf(o operation, n int) string {
	return o.method + " " + parameterForm.ReplaceAllString(strings.Join(o.segments[:n], "/"), "{}")
}

// pathFor returns the segments of a path that the operation's row matches. Each parameter has a random value of its type.
func (p paths) pathFor(o operation) []string {
	var path []string
	for i, s := range o.segments {
		if !isParameter(s) {
			path = append(path, p.replaceParameters(o, s))
			continue
		}
		value := o.schemas[s]
		isText := value.Type == "string" && value.Pattern == "" && value.Enum == nil
		sibling := p.sibling(o, i)
		switch {
		case isText && sibling != nil && p.IntN(2) == 0: // several rows may match
			for _, s := range sibling {
				path = append(path, p.replaceParameters(o, s))
			}
		case isText && isRest(s):
			for range 1 + p.IntN(3) {
				path = append(path, p.value(value))
			}
			if p.IntN(8) == 0 {
				path = append(path, "") // a slash at the end
			}
		default:
			path = append(path, p.value(value))
		}
	}
	return path
}

// replaceParameters replaces the parameters of a segment with values. A parameter of another operation becomes random text.
func (p paths) replaceParameters(o operation, segment string) string {
	return parameterForm.ReplaceAllStringFunc(segment, func(name string) string {
		if s, ok := o.schemas[name]; ok {
			return p.value(s)
		}
		return p.value(schema{Type: "string"})
	})
}

// refusedSegment matches texts that no request may have as a segment: valid escapes, and texts that some servers read as dot
// segments.
var refusedSegment = regexp.MustCompile(`^(\.{1,2}([;?#]|$)|;|$)|%[[:xdigit:]]{2}`)

// value returns a random value of the schema. It panics for schemas that neither document has.
func (p paths) value(s schema) string {
	for {
		if v := p.draw(s); !refusedSegment.MatchString(v) {
			return v
		}
	}
}

func (p paths) draw(s schema) string {
	switch {
	case s.OneOf != nil:
		return p.draw(s.OneOf[p.IntN(len(s.OneOf))])
	case s.Enum != nil:
		return s.Enum[p.IntN(len(s.Enum))]
	case s.Pattern != "":
		re, err := syntax.Parse(s.Pattern, syntax.Perl)
		if err != nil {
			panic(err)
		}
		return p.randomMatch(re.Simplify())
	case s.Type == "integer":
		return strconv.FormatInt([]int64{p.Int64N(1000), p.Int64(), 0, -1, math.MaxInt64}[p.IntN(5)], 10)
	case s.Type == "string":
		return p.text(s.MaxLength)
	}
	panic(fmt.Sprintf("no random value for the schema %+v", s))
}

var (
	common = []rune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
	rare   = []rune(" .:;#?+%!$&'()*,=@~^|<>[]{}\"`éßあ漢🙂\u0301\u00a0\u200d\u202e\ufeff\ufffd")
)

// text returns random text. The text is mostly short, and sometimes has the maximum length. If the parameter `longest` is 0, the
// maximum length is 255 characters.
func (p paths) text(longest int) string {
	if longest == 0 {
		longest = 255
	}
	n := longest
	if p.IntN(100) > 0 {
		n = 1 + p.IntN(min(24, longest))
	}
	var b strings.Builder
	for range n {
		alphabet := common
		if p.IntN(3) == 0 {
			alphabet = rare
		}
		b.WriteRune(alphabet[p.IntN(len(alphabet))])
	}
	return b.String()
}

// randomMatch returns random text that the pattern matches.
func (p paths) randomMatch(re *syntax.Regexp) string {
	var b strings.Builder
	switch re.Op {
	case syntax.OpBeginText, syntax.OpEndText:
	case syntax.OpLiteral:
		b.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		i := 2 * p.IntN(len(re.Rune)/2)
		b.WriteRune(re.Rune[i] + p.Int32N(re.Rune[i+1]-re.Rune[i]+1))
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			b.WriteString(p.randomMatch(sub))
		}
	case syntax.OpPlus:
		for range 1 + p.IntN(12) {
			b.WriteString(p.randomMatch(re.Sub[0]))
		}
	default:
		panic(fmt.Sprintf("no random text for the pattern %s", re))
	}
	return b.String()
}

// unescapedCharacters are the characters that a segment may contain without an escape, except for the semicolon.
const unescapedCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,=:@"

// encode encodes a path as clients do: with all unnecessary escapes, with some of them, or with none.
func (p paths) encode(segments []string) string {
	chance := p.IntN(3) // an unnecessary escape has the probability chance/2
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		for _, c := range []byte(s) {
			switch {
			case strings.IndexByte(unescapedCharacters, c) >= 0 && p.IntN(2) >= chance:
				b.WriteByte(c)
			case p.IntN(2) == 0:
				fmt.Fprintf(&b, "%%%02x", c)
			default:
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return b.String()
}
