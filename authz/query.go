package authz

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// parseQuery decodes a query as forms do. Pairs that net/url cannot read are left out. ambiguous reports that other
// parsers may read the query differently: it has a ; or # that is not escaped, a broken escape, a control character,
// bytes that are not UTF-8, or more pairs than net/url takes.
func parseQuery(query string) (values map[string][]string, ambiguous bool) {
	if query == "" {
		return nil, false
	}
	values, err := url.ParseQuery(query)
	ambiguous = err != nil || strings.ContainsFunc(query, func(r rune) bool { return r == '#' || r <= ' ' || r == 0x7f })
	for name, list := range values {
		ambiguous = ambiguous || !utf8.ValidString(name)
		for _, value := range list {
			ambiguous = ambiguous || !utf8.ValidString(value)
		}
	}
	return values, ambiguous
}
