package authz

import (
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Segments splits a raw path at its slashes, unescaped nowhere. It returns nil for a path that is not canonical, which
// no route matches, because the PEP, a policy and the upstream might each read it another way.
//
// Canonical: the path starts with one slash; no segment is empty but a last one (a trailing slash gives a last "");
// none is "." or ".."; and each is made of RFC 3986's pchar without ";", with escapes that are needed, are valid UTF-8
// and hide none of / \ ; % # ? nor a control character.
func Segments(path string) []string {
	if path == "" || path[0] != '/' {
		return nil
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		if s == "" && i < len(segments)-1 || !canonicalSegment(s) {
			return nil
		}
	}
	return segments
}

// needless are the escapes of what RFC 3986, section 2.3, leaves unreserved. Envoy undoes them, another PEP may not: what
// a policy says of "root" would not be said of "%72oot", and "%2e" is a dot.
var needless = regexp.MustCompile(`%(?:2[DEde]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])`)

func canonicalSegment(s string) bool {
	if s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if !isPchar(s[i]) {
			return false
		}
	}
	if !strings.Contains(s, "%") {
		return true
	}
	decoded, err := url.PathUnescape(s)
	return err == nil && utf8.ValidString(decoded) &&
		!strings.ContainsAny(decoded, `/\;%#?`) && !needless.MatchString(s) &&
		strings.IndexFunc(decoded, unicode.IsControl) < 0
}

// isPchar: RFC 3986, section 3.3, without ";", which some servers cut a segment at. Whether a "%" begins an escape is
// not looked at here.
func isPchar(c byte) bool {
	return isAlnum(c) || strings.IndexByte("-._~!$&'()*+,=:@%", c) >= 0
}
