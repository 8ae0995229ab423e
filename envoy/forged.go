package envoy

import (
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/keywicket/keywicket/authz"
)

// overridingHeaders are headers with a method or a path. Frameworks behind Envoy may use them instead of the checked method and
// path (row 20 of the table in docs/security.md). Every allow removes these headers, even if the CheckRequest did not contain them.
var overridingHeaders = []string{
	"x-original-url", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override", "x-envoy-original-path",
}

// forgedHeaders returns the names of request headers that a server may mistake for one of the headers that an allow sets or
// removes. These are the headers of the sidecar and of the API's policy, the workspace header, and overridingHeaders. Many servers
// read x_keywicket_subject as x-keywicket-subject, and some servers replace any punctuation by a dash. The names are in lower case,
// sorted and unique. The headers that every allow sets or removes are not included.
func forgedHeaders(header, apiHeaders authz.Fields) []string {
	var names []string
	for _, h := range header {
		name, canonical := h.Name, h.Name
		if hasNonCanonical(name) {
			canonical = strings.Map(toDash, name)
		}
		sidecarHeader := strings.HasPrefix(canonical, headerPrefix) && !slices.Contains(identityHeaders, name)
		hasCanonicalName := func(h authz.HeaderValue) bool { return h.Name == canonical }
		alias := canonical != name && (slices.ContainsFunc(apiHeaders, hasCanonicalName) || slices.Contains(overridingHeaders, canonical))
		if (sidecarHeader || alias) && httpguts.ValidHeaderFieldName(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// hasNonCanonical reports whether the name has a character that is not a lower-case letter, a digit or a dash.
func hasNonCanonical(name string) bool {
	for i := range len(name) {
		if isNonCanonical(rune(name[i])) {
			return true
		}
	}
	return false
}

func isNonCanonical(r rune) bool {
	return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
}

func toDash(r rune) rune {
	if isNonCanonical(r) {
		return '-'
	}
	return r
}
