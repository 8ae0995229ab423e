package authz

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Sessions verifies session JWTs.
type Sessions interface {
	// Verify tells whose session a token of the API's issuer is of. A token that is not good is a denial, ReasonMalformed,
	// ReasonExpired or ReasonUnknown, and no error; an error means that it could not be told. Whether the session was
	// revoked, and who the user is, the directory knows.
	Verify(ctx context.Context, api string, token Secret) (Session, Reason, error)
}

// Session is what the token of one says. Zero: none.
type Session struct {
	ID     string // shared by the tokens that are made from one another by refreshing
	UserID string
	Began  int64 // when the user signed in: seconds since 1970, by the issuer's clock
}

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
	// Scopes that a session holds. Default: admin, what a user may do as such; in a workspace the role limits it.
	Scopes []string `yaml:"scopes"`
}

func (f SessionFormat) taken() bool { return f.Issuer != "" }

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
