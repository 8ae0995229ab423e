package envoy

import (
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/keywicket/keywicket/authz"
)

// overriding are headers from which frameworks behind Envoy take another method or path than the one that was checked
// (docs/security.md, row 20). They are removed from every allowed request, also when the check did not see them.
var overriding = []string{
	"x-original-url", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override", "x-envoy-original-path",
}

// forged returns the names of headers in a request that a server may take for one of the sidecar's, for one of the API's
// (the workspace header, those of its policy) or for an overriding one: many servers read x_keywicket_subject as
// x-keywicket-subject, and some read any punctuation so. Names in lower case, each once. The headers that every allow sets or
// removes by name are not among them.
func forged(header, ofAPI authz.Fields) []string {
	var names []string
	for _, h := range header {
		name, plain := h.Name, h.Name
		if hasUnusual(name) {
			plain = strings.Map(dashed, name)
		}
		ours := strings.HasPrefix(plain, prefix) && !slices.Contains(identity, name)
		taken := func(h authz.HeaderValue) bool { return h.Name == plain }
		other := plain != name && (slices.ContainsFunc(ofAPI, taken) || slices.Contains(overriding, plain))
		if (ours || other) && httpguts.ValidHeaderFieldName(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// hasUnusual reports whether a character of a header's name is neither a letter, a digit, nor the usual dash.
func hasUnusual(name string) bool {
	for i := range len(name) {
		if isUnusual(rune(name[i])) {
			return true
		}
	}
	return false
}

func isUnusual(r rune) bool {
	return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
}

func dashed(r rune) rune {
	if isUnusual(r) {
		return '-'
	}
	return r
}
