package authz

import (
	"crypto/sha256"
	"log/slog"
	"strings"

	"github.com/keywicket/keywicket/authz/bearer"
)

const (
	minAcceptedBody = 16   // minimum number of characters after the prefix, for created and imported keys; shorter keys can be guessed
	maxKey          = 512  // bytes of a whole key
	maxJWT          = 8192 // bytes of a session JWT
)

// Secret is a credential in plain text. fmt, slog and encoding/json print it as "[secret]".
type Secret string

// Reveal returns the credential itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the credential from fmt.
func (Secret) String() string { return "[secret]" }

// GoString hides the credential from fmt's %#v.
func (Secret) GoString() string { return "[secret]" }

// LogValue hides the credential from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText hides the credential from encoding/json and other encoders.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Digest is the SHA-256 hash of a whole credential, including the prefix. Only the digest is stored (see "Workspace API Keys" in
// Velocity's API document). The digest needs no salt and no key stretching, because a key has too much entropy to be guessed.
type Digest [sha256.Size]byte

// Digest returns the SHA-256 hash of the credential.
func (s Secret) Digest() Digest { return sha256.Sum256([]byte(s)) }

// credential is the credential of a request.
type credential struct {
	kind   Kind
	secret Secret
}

// credential returns the credential of the Authorization header. The parameter `path` is [Input.Path]. The denial is ReasonMissing
// if there is no bearer credential, and ReasonMalformed if the credential cannot be valid. It is ReasonUnknown if this API does not
// accept this kind of credential on the path. A request with one of these denials needs no look-up.
func (a *API) credential(header Fields, path string) (credential, Reason) {
	token, present := bearer.Parse(header.Get(AuthorizationHeader))
	format, ok := a.formatOf(token)
	switch {
	case !present:
		return credential{}, ReasonMissing
	case token == "":
		return credential{}, ReasonMalformed
	case !ok && strings.Count(token, ".") == 2 && len(token) <= maxJWT:
		if !a.Session.enabled() || !a.Session.AcceptsAt(path) {
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

// Recognize returns the format of a credential, as a check finds it. For a session, the format has only a kind. The denial is empty
// if a check would look the credential up, at least on the paths of the console. Otherwise, it is ReasonMalformed or ReasonUnknown.
func (a API) Recognize(s Secret) (CredentialFormat, Reason) {
	c, denial := a.credential(Fields{{AuthorizationHeader, "Bearer " + string(s)}}, ConsolePath)
	if c.kind == KindSession {
		return CredentialFormat{Kind: KindSession}, denial
	}
	format, _ := a.formatOf(string(s))
	return format, denial
}

// Accepts reports whether a check would look up this key. The key must start with the prefix, and have at most 512 bytes in total.
// After the prefix, the key must have at least 16 characters. All characters must be b64token characters (RFC 6750).
func (f CredentialFormat) Accepts(key Secret) bool {
	return strings.HasPrefix(string(key), f.Prefix) && len(key) >= f.minLength() && len(key) <= maxKey &&
		bearer.IsB64Token(string(key))
}

func (f CredentialFormat) minLength() int { return len(f.Prefix) + minAcceptedBody }

// formatOf returns the format with the longest prefix that matches the key.
func (a *API) formatOf(key string) (CredentialFormat, bool) {
	var best CredentialFormat
	for _, f := range a.Credentials {
		if strings.HasPrefix(key, f.Prefix) && len(f.Prefix) > len(best.Prefix) {
			best = f
		}
	}
	return best, best.Prefix != ""
}
