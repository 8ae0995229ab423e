package authz

import (
	"crypto/sha256"
	"log/slog"
	"strings"
)

const (
	minAcceptedBody = 16   // of a key that a product made before; shorter ones can be guessed
	maxKey          = 512  // bytes of a whole key
	maxJWT          = 8192 // bytes of a session JWT
)

// Secret is a credential in clear. It prints as "[secret]" wherever it might be logged by mistake.
type Secret string

// Reveal gives the credential itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the credential from fmt.
func (Secret) String() string { return "[secret]" }

// GoString hides the credential from fmt's %#v.
func (Secret) GoString() string { return "[secret]" }

// LogValue hides the credential from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText hides the credential from encoding/json and its like.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Digest is the SHA-256 of a whole credential, prefix included: all that is ever stored of one (velocity, "Workspace
// API Keys"). It needs no salt or stretching, because a key holds more entropy than anyone can search.
type Digest [sha256.Size]byte

// Digest hashes the credential.
func (s Secret) Digest() Digest { return sha256.Sum256([]byte(s)) }

// credential is what a request presents.
type credential struct {
	kind   Kind
	secret Secret
}

// credential takes the credential out of the Authorization header. The denial is ReasonMissing when
// there is no bearer credential at all, ReasonMalformed for one that cannot be good, and ReasonUnknown for one of no kind
// that this API takes, which therefore needs no look-up.
func (a *API) credential(header Fields) (credential, Reason) {
	token, denial := bearer(header.Get(AuthorizationHeader))
	if denial != "" {
		return credential{}, denial
	}
	format, ok := a.formatOf(token)
	switch {
	case !ok && strings.Count(token, ".") == 2 && len(token) <= maxJWT:
		if !a.Session.taken() {
			return credential{}, ReasonUnknown
		}
		return credential{KindSession, Secret(token)}, ""
	case len(token) > maxKey:
		return credential{}, ReasonMalformed
	case !ok:
		return credential{}, ReasonUnknown
	case len(token) < format.minLength():
		return credential{}, ReasonMalformed
	}
	return credential{format.Kind, Secret(token)}, ""
}

// Accepts reports whether a key of this format, made here or by a product before, would be looked up when presented: at
// least 16 characters of a b64token behind the prefix, 512 bytes in all at most.
func (f CredentialFormat) Accepts(key Secret) bool {
	return strings.HasPrefix(string(key), f.Prefix) && len(key) >= f.minLength() && len(key) <= maxKey &&
		isB64Token(string(key))
}

func (f CredentialFormat) minLength() int { return len(f.Prefix) + minAcceptedBody }

// formatOf finds the format of a key by its longest prefix.
func (a *API) formatOf(key string) (CredentialFormat, bool) {
	var best CredentialFormat
	for _, f := range a.Credentials {
		if strings.HasPrefix(key, f.Prefix) && len(f.Prefix) > len(best.Prefix) {
			best = f
		}
	}
	return best, best.Prefix != ""
}

// bearer parses the Authorization header as RFC 6750, section 2.1, and RFC 9110, section 11.4, have it:
// "Bearer" in any case, one or more spaces, a b64token. Two headers are one too many. Another scheme presents no
// bearer credential (RFC 6750, section 3.1).
func bearer(value string, count int) (string, Reason) {
	if count > 1 {
		return "", ReasonMalformed
	}
	if value == "" {
		return "", ReasonMissing
	}
	const scheme = "bearer"
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) || isTokenChar(value, len(scheme)) {
		return "", ReasonMissing
	}
	token := strings.TrimLeft(value[len(scheme):], " ")
	if len(token) == len(value)-len(scheme) || !isB64Token(token) {
		return "", ReasonMalformed
	}
	return token, ""
}

// isTokenChar reports whether the scheme's name goes on at i (RFC 9110, section 5.6.2): "BearerX" is another scheme.
func isTokenChar(s string, i int) bool {
	return i < len(s) && (isAlnum(s[i]) || strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) >= 0)
}

// isB64Token reports whether s is 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"=" (RFC 6750, section 2.1).
func isB64Token(s string) bool {
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
