package target

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Parameters lists the special characters ("#", "%", "?" and ";") that an API permits in its path parameters. These characters are
// valid in a URL if they are escaped. But a server that decodes a path too early, or twice, interprets them as syntax. The zero
// value permits no special character.
type Parameters struct {
	// MayHold lists the special characters that the decoded text of a parameter may contain. Ordinary characters need no
	// permission.
	MayHold []string `yaml:"may_hold" json:"may_hold"`
	// RawSemicolon permits a semicolon that is not escaped. MayHold must then contain ";" too. RawSemicolon is a separate setting
	// because some servers truncate a segment at a raw semicolon.
	RawSemicolon bool `yaml:"raw_semicolon" json:"raw_semicolon"`
}

// specialCharacters contains the characters that a decoded segment may contain only if [Parameters] permits them.
const specialCharacters = "#%?;"

// Validate returns an error if the parameters are invalid. The text of the error starts with the invalid configuration key.
func (p Parameters) Validate() error {
	for _, c := range p.MayHold {
		if len(c) != 1 || !strings.Contains(specialCharacters, c) {
			return fmt.Errorf(`parameters.may_hold: %q is not one of "#", "%%", "?", ";"`, c)
		}
	}
	if p.RawSemicolon && !slices.Contains(p.MayHold, ";") {
		return errors.New(`parameters.raw_semicolon: add ";" to parameters.may_hold`)
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

// The errors that [Segments] returns, in addition to [NotPermittedError].
var (
	ErrPathStart     = errors.New("the path does not start with a /")
	ErrEmptySegment  = errors.New("the path has an empty segment")
	ErrDotSegment    = errors.New("the path has a dot segment")
	ErrNearlyDot     = errors.New("the path has a segment that some servers read as a dot segment")
	ErrSegmentStart  = errors.New("the path has a segment that starts with a ;")
	ErrPathCharacter = errors.New("the path has a character that must be escaped")
	ErrPathPercent   = errors.New("the path has a % that is not followed by two hexadecimal digits")
	ErrEscapedSlash  = errors.New("the path has an escaped slash or backslash")
	ErrControl       = errors.New("the path has an escaped control character")
	ErrEscapedTwice  = errors.New("the path is escaped twice")
	ErrNotUTF8       = errors.New("the path does not decode to UTF-8")
)

// NotPermittedError is the error for a character that [Parameters] does not permit. Its value is the character. For a semicolon
// that is not escaped, the value is [ErrRawSemicolon].
type NotPermittedError string

// ErrRawSemicolon is the error for a semicolon that is not escaped.
const ErrRawSemicolon NotPermittedError = "raw ;"

func (c NotPermittedError) Error() string {
	return fmt.Sprintf("the path has a %s, which the API does not permit in a parameter", string(c))
}

// Segments returns the decoded segments of a raw path: it splits the path at its slashes and decodes each segment once (RFC 3986,
// section 2.4). If two valid paths differ only in their escapes, they have the same segments. Policies
// compare the segments.
//
// A path with a trailing slash has a last segment "". If some server could decode a path to other segments, Segments returns an
// error, and no route matches the path. Such a path has one of these properties:
//
//   - it does not start with one slash, or has an empty segment or a dot segment;
//   - it has a character that RFC 3986's pchar does not allow;
//   - it has a semicolon that is not escaped, and the parameter `p` does not permit raw semicolons;
//   - a decoded segment has a slash, a backslash, a control character, bytes that are not UTF-8, or a valid escape;
//   - a decoded segment has one of # % ? ; and p does not permit this character.
func Segments(path string, p Parameters) ([]string, error) {
	if path == "" || path[0] != '/' {
		return nil, ErrPathStart
	}
	segments := strings.Split(path[1:], "/")
	for i, raw := range segments {
		if raw == "" && i < len(segments)-1 {
			return nil, ErrEmptySegment
		}
		var err error
		if segments[i], err = decodeSegment(raw, p); err != nil {
			return nil, err
		}
	}
	return segments, nil
}

// DecodePath returns the joined segments of a path, or "" for a path that no route matches. Most paths are plain. DecodePath
// returns a plain path unchanged, without an allocation.
func DecodePath(path string, p Parameters) string {
	if isPlain(path) {
		return path
	}
	segments, err := Segments(path, p)
	if err != nil {
		return ""
	}
	return JoinSegments(segments)
}

// isPlain reports whether a path equals its decoded text: it has no escape, no semicolon, no segment that starts with a dot, and no
// empty segment except the last.
func isPlain(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := 1; i < len(path); i++ {
		switch c := path[i]; {
		case plainBytes[c]:
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

// plainBytes are the pchar bytes (see [isPchar]) that have no special meaning anywhere in a path.
var plainBytes = func() (plain [256]bool) {
	for c := range len(plain) {
		plain[c] = isPchar(byte(c)) && c != '.'
	}
	return plain
}()

// JoinSegments returns the path that policies read: the decoded segments, each after a slash. Without segments, the path is "".
func JoinSegments(segments []string) string {
	if len(segments) == 0 {
		return ""
	}
	return "/" + strings.Join(segments, "/")
}

// decodeSegment returns the decoded text of one segment.
func decodeSegment(raw string, p Parameters) (string, error) {
	escaped := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '%':
			if !isEscape(raw[i:]) {
				return "", ErrPathPercent
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
	// Some servers truncate a segment at a semicolon. Other servers parse the decoded path again, and end the path at a ? or #. The
	// variable head is the part that such servers use.
	head := text[:strings.IndexAny(text+";", ";?#")]
	switch {
	case text == "." || text == "..":
		return "", ErrDotSegment
	case head == "." || head == "..":
		return "", ErrNearlyDot
	case strings.HasPrefix(text, ";"):
		return "", ErrSegmentStart
	}
	return text, nil
}

// checkDecoded returns an error for decoded text that is ambiguous, or that the parameter `p` does not permit.
func checkDecoded(text string, p Parameters) error {
	if !utf8.ValidString(text) {
		return ErrNotUTF8
	}
	for i, r := range text {
		switch {
		case r == '/' || r == '\\':
			return ErrEscapedSlash
		case unicode.IsControl(r):
			return ErrControl
		case r == '%' && isEscape(text[i:]):
			return ErrEscapedTwice
		case strings.ContainsRune(specialCharacters, r) && !p.permits(r):
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

// isPchar reports whether c is a path character (pchar) of RFC 3986, section 3.3, except the semicolon and the percent sign of an
// escape.
func isPchar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!$&'()*+,=:@", c) >= 0
}
