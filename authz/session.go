package authz

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Sessions verifies session JWTs.
type Sessions interface {
	// Verify returns the session of a token from the API's issuer. For an invalid token, Verify returns a result with a denial, not
	// an error. An error means that the token cannot be verified now. Verify does not check whether the session was revoked, and
	// returns no data of the user. The directory contains the revocations and the users.
	Verify(ctx context.Context, api string, token Secret) (VerifiedSession, error)
}

// VerifiedSession is the result of verifying a session's token.
type VerifiedSession struct {
	Session Session // zero if Denial is set
	// AAL is the authenticator assurance level in Supabase's terms: aal1 after one factor, aal2 after two. Empty: the token has no
	// assurance level.
	AAL string
	// Expires is the value of the claim exp; zero if Denial is set. The leeway is not included.
	Expires time.Time
	// Denial is ReasonMalformed, ReasonExpired, ReasonUnknown, ReasonUnsupportedAlgorithm or ReasonAppToken; empty for a valid
	// token.
	Denial Reason
	// Detail explains a denial to an operator; see [Answer.Detail].
	Detail string
}

// Session is the content of a session token. Zero: no session.
type Session struct {
	ID        string // stays the same when a token is refreshed; a new sign-in has a new ID
	UserID    string
	StartedAt int64 // time of the sign-in: seconds since 1970, by the issuer's clock
}

// SecondFactor selects the sessions that need a second factor.
type SecondFactor string

// The values of require_aal2.
const (
	SecondFactorNever    SecondFactor = "never"
	SecondFactorAlways   SecondFactor = "always"
	SecondFactorEnrolled SecondFactor = "enrolled" // only if the user has enrolled a second factor, according to the directory
)

// AAL2 is the assurance level of a session with two factors. It is also the acr value in the challenge that requires a second
// factor.
const AAL2 = "aal2"

// SessionFormat describes the session JWTs that an API accepts (see "Session Tokens" in Velocity's API document). Without an
// issuer, the API accepts no session JWTs.
type SessionFormat struct {
	// Issuer is the required value of the claim iss.
	Issuer string `yaml:"issuer"`
	// Audience is the only value that the claim aud may have. Default: authenticated, Supabase's value.
	Audience string `yaml:"audience"`
	// HS256Secret is the issuer's shared secret, at least 32 bytes (RFC 7518, section 3.2). Empty: HS256 is not accepted.
	HS256Secret Secret `yaml:"hs256_secret"`
	// JWKSURL is the URL of the issuer's public keys. Empty: ES256 and RS256 are not accepted.
	JWKSURL string `yaml:"jwks_url"`
	// JWKSMaxAge is the maximum age of the public keys, at least 4s. A key that the issuer has withdrawn stays trusted for at most
	// this time. If the issuer is unreachable for longer, no key is trusted. Default: 1h.
	JWKSMaxAge time.Duration `yaml:"jwks_max_age"`
	// Leeway is the maximum error of the issuer's clock, at most 5m. Default: 10s.
	Leeway time.Duration `yaml:"leeway"`
	// SharedClock means that the issuer and the database read one clock, such as the clock of one machine. Then no leeway applies
	// when the start of a session is compared with the revocation of a user's sessions.
	SharedClock bool `yaml:"shared_clock"`
	// If Anonymous is set, the API accepts the sessions of users that the issuer marks as anonymous. The directory must contain
	// these users.
	Anonymous bool `yaml:"anonymous"`
	// ClientIDs are the client ids of the product's own apps. The tokens of these apps count as the user's own session. A token
	// that the issuer gave to an app outside this list is denied, regardless of the token's scopes.
	ClientIDs []string `yaml:"client_ids"`
	// RequireAAL2 selects the sessions that need a second factor. Default: never.
	RequireAAL2 SecondFactor `yaml:"require_aal2"`
	// Scopes are the scopes of a session. Default: admin, which permits everything that the user may do. In a workspace, the user's
	// role limits the session.
	Scopes []string `yaml:"scopes"`
	// ConsoleOnly means that the API accepts sessions only on the paths below [ConsolePath]. For all other paths, a session's token is
	// the token of an API without sessions. Default: false.
	ConsoleOnly bool `yaml:"console_only"`
}

// ConsolePath is the start of the paths of the console's API. The policies decide who may use it.
const ConsolePath = "/api/keywicket/v1/"

// AcceptsAt reports whether the format permits sessions on a path of [Input.Path]. An ambiguous path is empty there, and is not below
// ConsolePath.
func (f SessionFormat) AcceptsAt(path string) bool {
	return !f.ConsoleOnly || strings.HasPrefix(path, ConsolePath)
}

// enabled reports whether the API accepts sessions.
func (f SessionFormat) enabled() bool { return f.Issuer != "" }

// SecondFactorMissing reports whether a session lacks a second factor that the API requires. The parameter `aal` is the session's
// assurance level. The parameter `enrolled` means that the user has enrolled a second factor.
func (f SessionFormat) SecondFactorMissing(aal string, enrolled bool) bool {
	if aal == AAL2 || aal == "aal3" {
		return false
	}
	switch f.RequireAAL2 {
	case SecondFactorAlways:
		return true
	case SecondFactorEnrolled:
		return enrolled
	}
	return false
}

// Complete returns the format with its defaults, and validates it as [API.Complete] does.
func (f SessionFormat) Complete() (SessionFormat, error) {
	const minSecret, minAge, maxLeeway = 32, 4 * time.Second, 5 * time.Minute
	if f.Audience == "" {
		f.Audience = "authenticated"
	}
	if f.JWKSMaxAge == 0 {
		f.JWKSMaxAge = time.Hour
	}
	if f.Leeway == 0 {
		f.Leeway = 10 * time.Second
	}
	if f.Scopes == nil {
		f.Scopes = []string{"admin"}
	}
	if f.RequireAAL2 == "" {
		f.RequireAAL2 = SecondFactorNever
	}
	hasKey := f.HS256Secret != "" || f.JWKSURL != ""
	switch {
	case f.Issuer == "" && hasKey:
		return f, errors.New("issuer: set the issuer of the sessions, such as https://PROJECT.supabase.co/auth/v1")
	case f.Issuer != "" && !hasKey:
		return f, errors.New("jwks_url: tokens cannot be verified without a key; set jwks_url or hs256_secret")
	case f.HS256Secret != "" && len(f.HS256Secret) < minSecret:
		return f, fmt.Errorf("hs256_secret: a secret of less than %d bytes can be guessed; use a longer secret", minSecret)
	case f.HS256Secret != "" && !canBeSharedSecret(f.HS256Secret.Reveal()):
		return f, errors.New("hs256_secret: the value is a PEM or JSON key, or starts or ends with white space; set the shared secret")
	case f.JWKSURL != "" && !validHTTPURL(f.JWKSURL):
		return f, errors.New("jwks_url: not an http or https URL, such as https://PROJECT.supabase.co/auth/v1/.well-known/jwks.json")
	case f.JWKSMaxAge < minAge:
		return f, fmt.Errorf("jwks_max_age: %v is less than %v", f.JWKSMaxAge, minAge)
	case f.Leeway < 0 || f.Leeway > maxLeeway:
		return f, fmt.Errorf("leeway: %v is not between 0 and %v", f.Leeway, maxLeeway)
	}
	if slices.Contains(f.ClientIDs, "") {
		return f, errors.New("client_ids: an entry is empty")
	}
	switch f.RequireAAL2 {
	case SecondFactorNever, SecondFactorAlways, SecondFactorEnrolled:
	default:
		return f, fmt.Errorf("require_aal2: %q is not one of never, always, enrolled", f.RequireAAL2)
	}
	for _, scope := range f.Scopes {
		if !ValidScope(scope) {
			return f, fmt.Errorf("scopes: %q is not a valid scope", scope)
		}
	}
	return f, nil
}

// canBeSharedSecret reports whether s can be a shared secret. A key in PEM or JSON is not accepted, because such a key may be public.
func canBeSharedSecret(s string) bool {
	return strings.TrimSpace(s) == s && !strings.HasPrefix(s, "-----BEGIN") && !strings.HasPrefix(s, "{")
}

// validHTTPURL reports whether the address is an absolute http or https URL.
func validHTTPURL(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
