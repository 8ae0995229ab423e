package session

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/strictjson"
)

// issuer verifies the tokens of one.
type issuer struct {
	format  authz.SessionFormat
	salt    uint64 // of its places in the memory, which issuers share
	clock   func() time.Time
	keys    *keyring // of the public keys; nil: there are none
	methods []string
	parser  *jwt.Parser
	counts  counts
}

func newIssuer(f authz.SessionFormat, clock func() time.Time, log *slog.Logger) *issuer {
	i := &issuer{format: f, salt: rand.Uint64(), clock: clock}
	if f.HS256Secret != "" {
		i.methods = append(i.methods, jwt.SigningMethodHS256.Alg())
	}
	if f.JWKSURL != "" {
		i.methods = append(i.methods, jwt.SigningMethodES256.Alg(), jwt.SigningMethodRS256.Alg())
		i.keys = startKeyring(f.JWKSURL, f.JWKSMaxAge, log)
	}
	i.parser = jwt.NewParser(jwt.WithValidMethods(i.methods), jwt.WithStrictDecoding(), jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(), jwt.WithIssuer(f.Issuer), jwt.WithAudience(f.Audience), jwt.WithLeeway(f.Leeway), jwt.WithTimeFunc(clock))
	return i
}

// verified is a token that was found to be good.
type verified struct {
	digest  authz.Digest
	issuer  *issuer
	key     key // that it was signed with
	session authz.Session
	expires time.Time
}

// key is what a signature was made with. Zero public: the shared secret.
type key struct {
	id     string
	public crypto.PublicKey
}

// trusts reports whether a token that the key has signed is still to be believed.
func (i *issuer) trusts(k key) bool {
	return k.public == nil || i.keys.trusts(k)
}

func (i *issuer) expired(at time.Time) bool { return !i.clock().Before(at.Add(i.format.Leeway)) }

func (i *issuer) verify(ctx context.Context, token string) (*verified, authz.Reason, error) {
	h, ok := readHeader(token)
	if !ok || !slices.Contains(i.methods, h.algorithm) {
		return nil, authz.ReasonMalformed, nil
	}
	var k key
	var material any = []byte(i.format.HS256Secret.Reveal())
	if h.algorithm != jwt.SigningMethodHS256.Alg() {
		if h.keyID == "" {
			return nil, authz.ReasonMalformed, nil
		}
		found, denial, err := i.keys.find(ctx, h.keyID, h.algorithm)
		if denial != "" || err != nil {
			return nil, denial, err
		}
		k, material = found, found.public
	}
	var c claims
	if _, err := i.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return material, nil }); err != nil {
		return nil, reasonOf(err), nil
	}
	switch {
	case len(c.audience) != 1, c.role != "authenticated", c.anonymous && !i.format.Anonymous:
		return nil, authz.ReasonUnknown, nil
	}
	return &verified{issuer: i, key: k, session: c.session(i.format.Leeway), expires: c.expires.Time}, "", nil
}

// reasonOf says why a token is not good: it is none, its time is over, or nobody here knows it. What is wrong beside its
// time goes first, so that "expired" means that it was good once.
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

// header is the JOSE header, as far as it is understood.
type header struct{ algorithm, keyID string }

// readHeader reads it before anything else is done with the token. Extensions that must be understood (RFC 7515, section
// 4.1.11) are not; another type of token is another thing (RFC 8725, section 3.11).
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
	for name, to := range map[string]*string{"alg": &h.algorithm, "kid": &h.keyID, "typ": &kind} {
		if value, ok := fields[name]; ok && !readText(value, to) {
			return header{}, false
		}
	}
	return h, strings.EqualFold(kind, "JWT")
}

// readText reads a string, and nothing that could pass for one.
func readText(value json.RawMessage, to *string) bool {
	return bytes.HasPrefix(value, []byte(`"`)) && json.Unmarshal(value, to) == nil
}
