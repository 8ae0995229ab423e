package authz

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// parseQuery decodes a query as forms do. Pairs that net/url cannot read are left out. ambiguous reports that other
// parsers may read the query differently: it has a ; or # that is not escaped, a broken escape, a character that must be
// escaped, a NUL or a name with a control character, bytes that are not UTF-8, or more pairs than net/url takes.
func parseQuery(query string) (values map[string][]string, ambiguous bool) {
	if query == "" {
		return nil, false
	}
	values, err := url.ParseQuery(query)
	ambiguous = err != nil || strings.ContainsFunc(query, func(r rune) bool { return r == '#' || r <= ' ' || r >= 0x7f })
	for name, list := range values {
		// Some parsers end a text at a NUL.
		ambiguous = ambiguous || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl)
		for _, value := range list {
			ambiguous = ambiguous || !utf8.ValidString(value) || strings.Contains(value, "\x00")
		}
	}
	return values, ambiguous
}
