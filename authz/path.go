package authz

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Parameters says which of the characters # % ? ; a path parameter of an API may hold. They are valid in a URL when they
// are escaped, but servers that decode a path too early, or twice, take them for syntax. The zero value permits none.
type Parameters struct {
	// MayHold lists the characters that the decoded text may have.
	MayHold []string `yaml:"may_hold" json:"may_hold"`
	// RawSemicolon permits a ; that is not escaped. Some servers cut a segment off there, so it is a choice of its own. It
	// needs ; in MayHold.
	RawSemicolon bool `yaml:"raw_semicolon" json:"raw_semicolon"`
}

// special are the characters that need a permission.
const special = "#%?;"

// Validate checks the permissions. Errors start with the key that they are about.
func (p Parameters) Validate() error {
	for _, c := range p.MayHold {
		if len(c) != 1 || !strings.Contains(special, c) {
			return fmt.Errorf(`parameters.may_hold: %q is none of "#", "%%", "?", ";"`, c)
		}
	}
	if p.RawSemicolon && !slices.Contains(p.MayHold, ";") {
		return errors.New(`parameters.raw_semicolon: it needs ";" in parameters.may_hold`)
	}
	return nil
}

func (p Parameters) permits(c rune) bool {
	for _, permitted := range p.MayHold {
		if permitted == string(c) {
			return true
		}
	}
	return false
}

// The reasons why a path has no segments, beside [NotPermittedError].
var (
	ErrPathStart     = errors.New("the path does not start with a /")
	ErrPathSegment   = errors.New("the path has an empty segment or a dot segment")
	ErrPathCharacter = errors.New("the path has a character that must be escaped, or a % that starts no escape")
	ErrPathEscape    = errors.New("the path has an escape of a slash, a backslash, a control character, another escape, or bytes that are not UTF-8")
)

// NotPermittedError is the error for a character that [Parameters] does not permit: "#", "%", "?", ";", or [ErrRawSemicolon].
type NotPermittedError string

// ErrRawSemicolon is about a ; that is not escaped.
const ErrRawSemicolon NotPermittedError = "raw ;"

func (c NotPermittedError) Error() string {
	return fmt.Sprintf("the path has a %s, which the API does not permit in a parameter", string(c))
}

// Segments splits a raw path at its slashes and decodes each segment once (RFC 3986, section 2.4). Every spelling of a
// path thus gives the same segments, and these are what policies compare.
//
// A trailing slash gives a last segment "". A path without one clear meaning gives an error, and no route matches it:
//   - it does not start with one slash, or has an empty segment or a dot segment;
//   - it has a character that RFC 3986's pchar does not allow, or a ; that is not escaped, unless p permits it;
//   - a decoded segment has a slash, a backslash, a control character, bytes that are not UTF-8, a valid escape, or one of
//     # % ? ; that p does not permit.
func Segments(path string, p Parameters) ([]string, error) {
	if path == "" || path[0] != '/' {
		return nil, ErrPathStart
	}
	segments := strings.Split(path[1:], "/")
	for i, raw := range segments {
		if raw == "" && i < len(segments)-1 {
			return nil, ErrPathSegment
		}
		var err error
		if segments[i], err = segment(raw, p); err != nil {
			return nil, err
		}
	}
	return segments, nil
}

// decodePath is [Segments] and [JoinSegments] at once. Most paths are their own decoded text, which costs no memory.
func decodePath(path string, p Parameters) string {
	if isPlain(path) {
		return path
	}
	segments, err := Segments(path, p)
	if err != nil {
		return "" // no route matches it
	}
	return JoinSegments(segments)
}

// isPlain reports whether nothing in a path is escaped, and nothing in it needs a closer look: no ; and no segment that starts
// with a dot. An empty segment is at the end.
func isPlain(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := 1; i < len(path); i++ {
		switch c := path[i]; {
		case plain[c]:
		case c == '/' || c == '.':
			if path[i-1] == '/' {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// plain are the bytes of a pchar that stand for themselves wherever they are.
var plain = func() (is [256]bool) {
	for c := range len(is) {
		is[c] = isPchar(byte(c)) && c != '.'
	}
	return is
}()

// JoinSegments is the inverse of [Segments], but for the escapes: the path that policies see. No segments give "".
func JoinSegments(segments []string) string {
	if len(segments) == 0 {
		return ""
	}
	return "/" + strings.Join(segments, "/")
}

func segment(raw string, p Parameters) (string, error) {
	escaped := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '%':
			if !isEscape(raw[i:]) {
				return "", ErrPathCharacter
			}
			escaped = true
			i += 2
		case c == ';' && !p.RawSemicolon:
			return "", ErrRawSemicolon
		case !isPchar(c) && c != ';':
			return "", ErrPathCharacter
		}
	}
	text := raw
	if escaped {
		var err error
		if text, err = url.PathUnescape(raw); err != nil {
			return "", ErrPathCharacter
		}
		if err := checkDecoded(text, p); err != nil {
			return "", err
		}
	}
	// What a server would be left with that cuts a segment off at the semicolon, or that parses the decoded path again.
	head := text[:strings.IndexAny(text+";", ";?#")]
	if head == "." || head == ".." || strings.HasPrefix(text, ";") {
		return "", ErrPathSegment
	}
	return text, nil
}

func checkDecoded(text string, p Parameters) error {
	if !utf8.ValidString(text) {
		return ErrPathEscape
	}
	for i, r := range text {
		switch {
		case r == '/' || r == '\\' || unicode.IsControl(r) || r == '%' && isEscape(text[i:]):
			return ErrPathEscape
		case strings.ContainsRune(special, r) && !p.permits(r):
			return NotPermittedError(string(r))
		}
	}
	return nil
}

// isEscape reports whether s starts with a % and two hexadecimal digits.
func isEscape(s string) bool { return len(s) >= 3 && s[0] == '%' && isHex(s[1]) && isHex(s[2]) }

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// isPchar reports whether c is a pchar of RFC 3986, section 3.3, other than ; and the % of an escape.
func isPchar(c byte) bool {
	return isAlnum(c) || strings.IndexByte("-._~!$&'()*+,=:@", c) >= 0
}
