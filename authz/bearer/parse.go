// Package bearer parses the value of an Authorization header with a bearer token. It does not read a request: package authz selects
// the header and passes its value.
package bearer

import "strings"

// Parse returns the token of the Authorization header (RFC 6750, section 2.1, and RFC 9110, section 11.4). A valid value consists
// of "Bearer" in any letter case, one or more spaces, and a b64token. The parameter `value` is the header's first value, and `count`
// is the number of its values. The result `present` means that the header has a bearer credential, even a malformed one. A header
// with another scheme has no bearer credential (RFC 6750, section 3.1). For a malformed credential, token is "". Two Authorization
// headers are a malformed credential.
func Parse(value string, count int) (token string, present bool) {
	if count > 1 {
		return "", true
	}
	if value == "" {
		return "", false
	}
	const scheme = "bearer"
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) || isTokenChar(value, len(scheme)) {
		return "", false
	}
	token = strings.TrimLeft(value[len(scheme):], " ")
	if len(token) == len(value)-len(scheme) || !IsB64Token(token) {
		return "", true
	}
	return token, true
}

// isTokenChar reports whether the character at s[i] can belong to the name of a scheme (RFC 9110, section 5.6.2). For example,
// "BearerX" is not the scheme "Bearer".
func isTokenChar(s string, i int) bool {
	return i < len(s) && (isAlnum(s[i]) || strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) >= 0)
}

// IsB64Token reports whether s is 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"=" (RFC 6750, section 2.1).
func IsB64Token(s string) bool {
	body := strings.TrimRight(s, "=")
	for i := range len(body) {
		if !isAlnum(body[i]) && strings.IndexByte("-._~+/", body[i]) < 0 {
			return false
		}
	}
	return body != ""
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
