package session

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictjson"
)

// issuerVerifier verifies the session tokens of one external issuer, such as Supabase Auth.
type issuerVerifier struct {
	format  authz.SessionFormat
	salt    uint64 // all issuers use one cache, and the salt makes their cache keys different
	clock   func() time.Time
	keys    *keyring // the public keys; nil: the format has no JWKS URL
	methods []string
	parser  *jwt.Parser
	counts  counts
}

func newIssuerVerifier(f authz.SessionFormat, c Config, log *slog.Logger) *issuerVerifier {
	i := &issuerVerifier{format: f, salt: rand.Uint64(), clock: c.Clock}
	if f.HS256Secret != "" {
		i.methods = append(i.methods, jwt.SigningMethodHS256.Alg())
	}
	if f.JWKSURL != "" {
		i.methods = append(i.methods, jwt.SigningMethodES256.Alg(), jwt.SigningMethodRS256.Alg())
		i.keys = startKeyring(f.JWKSURL, f.JWKSMaxAge, c.KeyWait, log)
	}
	i.parser = jwt.NewParser(jwt.WithValidMethods(i.methods), jwt.WithStrictDecoding(), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithIssuer(f.Issuer), jwt.WithAudience(f.Audience), jwt.WithLeeway(f.Leeway), jwt.WithTimeFunc(c.Clock))
	return i
}

// verifiedToken is a token that passed verification.
type verifiedToken struct {
	digest  authz.Digest
	issuer  *issuerVerifier
	key     key // the key that verified the signature
	session authz.Session
	aal     string
	expires time.Time
}

// key is a key that verifies signatures. If public is nil, the key stands for the shared secret (hs256_secret).
type key struct {
	name   keyName
	public crypto.PublicKey
}

// trusts reports whether the issuer still accepts tokens that the key has signed.
func (i *issuerVerifier) trusts(k key) bool {
	return k.public == nil || i.keys.trusts(k)
}

func (i *issuerVerifier) expired(expiry time.Time) bool {
	return !i.clock().Before(expiry.Add(i.format.Leeway))
}

// denial is the reason why a token is refused, and a detail for the operator.
type denial struct {
	reason authz.Reason
	detail string
}

// verify returns a verified token or a denial. If it returns an error, the result is unknown.
func (i *issuerVerifier) verify(ctx context.Context, token string) (*verifiedToken, denial, error) {
	h, ok := readHeader(token)
	if !ok || h.algorithm == "" {
		return nil, denial{reason: authz.ReasonMalformed}, nil
	}
	if !slices.Contains(i.methods, h.algorithm) {
		return nil, denial{authz.ReasonUnsupportedAlgorithm, i.unsupportedDetail(h.algorithm)}, nil
	}
	var k key
	var material any = []byte(i.format.HS256Secret.Reveal())
	if h.algorithm != jwt.SigningMethodHS256.Alg() {
		if h.keyID == "" {
			return nil, denial{reason: authz.ReasonMalformed}, nil
		}
		found, reason, err := i.keys.find(ctx, keyName{h.keyID, h.algorithm})
		if reason != "" || err != nil {
			return nil, denial{reason: reason}, err
		}
		k, material = found, found.public
	}
	var c claims
	if _, err := i.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return material, nil }); err != nil {
		return nil, denial{reasonOf(err), i.mismatch(err, c)}, nil
	}
	switch {
	case len(c.audience) != 1:
		return nil, denial{authz.ReasonUnknown, "the token has several audiences"}, nil
	case c.role != "authenticated":
		return nil, denial{authz.ReasonUnknown, "the token's claim role is not \"authenticated\""}, nil
	case c.anonymous && !i.format.Anonymous:
		return nil, denial{authz.ReasonUnknown, "the token belongs to an anonymous user: set session.anonymous to accept such tokens"}, nil
	case c.app != nil && !c.app.isOneOf(i.format.ClientIDs):
		return nil, denial{authz.ReasonAppToken, "the token was given to an app whose id is not in session.client_ids"}, nil
	}
	return &verifiedToken{issuer: i, key: k, session: c.session(i.format), aal: c.aal, expires: c.expires.Time}, denial{}, nil
}

// mismatch returns a detail for a token with a valid signature: the claim iss or aud, and the setting that the claim does not match.
// In all other cases, it returns "". So the detail quotes only text that the issuer has signed.
func (i *issuerVerifier) mismatch(err error, c claims) string {
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid) || errors.Is(err, jwt.ErrTokenMalformed) || errors.Is(err, jwt.ErrTokenUnverifiable):
		return ""
	case c.issuer == "":
		return "the token has no claim iss: set iss in the issuer's tokens (Supabase Auth: set GOTRUE_JWT_ISSUER), and session.issuer to the same value"
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return fmt.Sprintf("the token's iss is %.200q, and session.issuer is %q", c.issuer, i.format.Issuer)
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return fmt.Sprintf("the token's aud is %.200s, and session.audience is %q", fmt.Sprintf("%q", c.audience), i.format.Audience)
	}
	return ""
}

var algorithmForm = regexp.MustCompile(`^[A-Za-z0-9-]{1,16}$`)

// unsupportedDetail returns the detail for a token with an algorithm that the API does not accept. The token's signature is not
// verified, so the detail quotes the name only if it has the form of an algorithm's name.
func (i *issuerVerifier) unsupportedDetail(algorithm string) string {
	switch {
	case !algorithmForm.MatchString(algorithm):
		algorithm = "of an unknown form"
	case algorithm == jwt.SigningMethodHS256.Alg():
		algorithm += ", for which session.hs256_secret must be set"
	case algorithm == jwt.SigningMethodES256.Alg() || algorithm == jwt.SigningMethodRS256.Alg():
		algorithm += ", for which session.jwks_url must be set"
	}
	return "the token's algorithm is " + algorithm + "; the API accepts " + strings.Join(i.methods, ", ")
}

// reasonOf returns why the parser refuses a token: malformed, expired, or unknown. An expired token that also has an error in
// iss, aud, nbf or iat is unknown.
func reasonOf(err error) authz.Reason {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return authz.ReasonMalformed
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidIssuer) &&
		!errors.Is(err, jwt.ErrTokenInvalidAudience) && !errors.Is(err, jwt.ErrTokenNotValidYet) && !errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return authz.ReasonExpired
	}
	return authz.ReasonUnknown
}

// header contains the parameters of the JOSE header that this package uses.
type header struct{ algorithm, keyID string }

// readHeader reads the JOSE header. It refuses critical extensions (RFC 7515, section 4.1.11), because this package supports
// none. It also refuses a type other than JWT (RFC 8725, section 3.11).
func readHeader(token string) (_ header, ok bool) {
	encoded, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return header{}, false
	}
	fields, err := strictjson.Object(text)
	if err != nil || fields["crit"] != nil {
		return header{}, false
	}
	var h header
	kind := "JWT"
	for name, target := range map[string]*string{"alg": &h.algorithm, "kid": &h.keyID, "typ": &kind} {
		if value, ok := fields[name]; ok && !readText(value, target) {
			return header{}, false
		}
	}
	return h, strings.EqualFold(kind, "JWT")
}

// readText reads a JSON string, and refuses any other JSON value.
func readText(value json.RawMessage, target *string) bool {
	return bytes.HasPrefix(value, []byte(`"`)) && json.Unmarshal(value, target) == nil
}
