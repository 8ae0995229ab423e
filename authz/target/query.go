package target

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseQuery returns the values of a query in form encoding. It omits pairs that net/url cannot parse. If the result `ambiguous` is
// true, other parsers may read the query differently. Such a query has at least one of these properties:
//
//   - a semicolon or a "#" that is not escaped, a broken escape, or a character that must be escaped;
//   - a NUL, a name with a control character, or bytes that are not UTF-8;
//   - more pairs than net/url accepts.
func ParseQuery(query string) (values map[string][]string, ambiguous bool) {
	if query == "" {
		return nil, false
	}
	values, err := url.ParseQuery(query)
	ambiguous = err != nil || strings.ContainsFunc(query, func(r rune) bool { return r == '#' || r <= ' ' || r >= 0x7f })
	for name, list := range values {
		// Some parsers end a string at a NUL character.
		ambiguous = ambiguous || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl)
		for _, value := range list {
			ambiguous = ambiguous || !utf8.ValidString(value) || strings.Contains(value, "\x00")
		}
	}
	return values, ambiguous
}
