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
	// Verify tells whose session a token of the API's issuer is of. A token that is not good is a Verified with a denial,
	// not an error; an error means that it could not be told. Whether the session was revoked, and who the user is, the
	// directory knows.
	Verify(ctx context.Context, api string, token Secret) (Verified, error)
}

// Verified is what a session's token was found to be.
type Verified struct {
	Session Session // zero for a denial
	// AAL is the authenticator assurance level, as Supabase has it: aal1 after one factor, aal2 after two. Empty: the
	// token does not tell.
	AAL string
	// Denial is ReasonMalformed, ReasonExpired, ReasonUnknown, ReasonUnsupportedAlgorithm or ReasonAppToken; empty for a
	// good token.
	Denial Reason
	// Detail tells an operator more about a denial; see [Answer.Detail].
	Detail string
}

// Session is what the token of one says. Zero: none.
type Session struct {
	ID     string // shared by the tokens that are made from one another by refreshing
	UserID string
	Began  int64 // when the user signed in: seconds since 1970, by the issuer's clock
}

// SecondFactor is when a session must have been begun with a second factor.
type SecondFactor string

// The values of require_aal2.
const (
	SecondFactorNever    SecondFactor = "never"
	SecondFactorAlways   SecondFactor = "always"
	SecondFactorEnrolled SecondFactor = "enrolled" // of users who have one, as the directory tells
)

// AAL2 is the level of a session that was begun with two factors, and the acr value of the challenge that asks for it.
const AAL2 = "aal2"

// SessionFormat says whose session JWTs an API takes (velocity, "Session Tokens"). Without an issuer it takes none.
type SessionFormat struct {
	// Issuer is what the claim iss has to be.
	Issuer string `yaml:"issuer"`
	// Audience is what the claim aud has to be, alone. Default: authenticated, as Supabase has it.
	Audience string `yaml:"audience"`
	// HS256Secret is the issuer's shared secret, at least 32 bytes (RFC 7518, section 3.2). Empty: HS256 is not taken.
	HS256Secret Secret `yaml:"hs256_secret"`
	// JWKSURL is where the issuer's public keys are. Empty: ES256 and RS256 are not taken.
	JWKSURL string `yaml:"jwks_url"`
	// JWKSMaxAge is how old the public keys may be: a key that the issuer has withdrawn is trusted for so long at most,
	// and when the issuer cannot be reached for so long, none is. Default: 1h.
	JWKSMaxAge time.Duration `yaml:"jwks_max_age"`
	// Leeway is how far the issuer's clock may be off. 0: 10s.
	Leeway time.Duration `yaml:"leeway"`
	// Anonymous takes the sessions of users that the issuer calls anonymous, if they are in the directory.
	Anonymous bool `yaml:"anonymous"`
	// ClientIDs are the apps whose tokens count as the user's own: the product's. A token that an issuer gave to any other
	// app is denied, whatever its scopes are.
	ClientIDs []string `yaml:"client_ids"`
	// RequireAAL2 says whose sessions need a second factor. Default: never.
	RequireAAL2 SecondFactor `yaml:"require_aal2"`
	// Scopes that a session holds. Default: admin, what a user may do as such; in a workspace the role limits it.
	Scopes []string `yaml:"scopes"`
}

func (f SessionFormat) taken() bool { return f.Issuer != "" }

// SecondFactorMissing reports whether a session of this level needs a second factor and has none. enrolled says that its
// user has one to use.
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

// Complete fills the defaults and checks the rest, as [API.Complete] does.
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
	keyed := f.HS256Secret != "" || f.JWKSURL != ""
	switch {
	case f.Issuer == "" && keyed:
		return f, errors.New("issuer: name whose sessions these are, such as https://PROJECT.supabase.co/auth/v1")
	case f.Issuer != "" && !keyed:
		return f, errors.New("jwks_url: name it, or give hs256_secret: nothing else tells the issuer's tokens from forged ones")
	case f.HS256Secret != "" && len(f.HS256Secret) < minSecret:
		return f, fmt.Errorf("hs256_secret: less than %d bytes can be guessed", minSecret)
	case f.HS256Secret != "" && !isSecret(f.HS256Secret.Reveal()):
		return f, errors.New("hs256_secret: it is a key of another kind, or has white space around it")
	case f.JWKSURL != "" && !validHTTPURL(f.JWKSURL):
		return f, errors.New("jwks_url: not an http or https URL, such as https://PROJECT.supabase.co/auth/v1/.well-known/jwks.json")
	case f.JWKSMaxAge < minAge:
		return f, fmt.Errorf("jwks_max_age: %v is less than %v", f.JWKSMaxAge, minAge)
	case f.Leeway < 0 || f.Leeway > maxLeeway:
		return f, fmt.Errorf("leeway: %v is not between 0 and %v", f.Leeway, maxLeeway)
	}
	if slices.Contains(f.ClientIDs, "") {
		return f, errors.New("client_ids: one is empty")
	}
	switch f.RequireAAL2 {
	case SecondFactorNever, SecondFactorAlways, SecondFactorEnrolled:
	default:
		return f, fmt.Errorf("require_aal2: %q is none of never, always, enrolled", f.RequireAAL2)
	}
	for _, scope := range f.Scopes {
		if !ValidScope(scope) {
			return f, fmt.Errorf("scopes: %q is no scope", scope)
		}
	}
	return f, nil
}

// isSecret refuses what everybody may know, a public key.
func isSecret(s string) bool {
	return strings.TrimSpace(s) == s && !strings.HasPrefix(s, "-----BEGIN") && !strings.HasPrefix(s, "{")
}

// validHTTPURL reports whether the address is an absolute URL of http or https.
func validHTTPURL(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
