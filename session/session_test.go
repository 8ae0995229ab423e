package session_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/test/supabase"
)

const (
	secret = "a secret of thirty-two characters and more"
	api    = "velocity"
	user   = "5be86359-073c-434b-ad2d-a3932222dabe"
)

var (
	ecKey    = supabase.NewEC()
	otherEC  = supabase.NewEC()
	wrongEC  = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	rsaKey   = must(rsa.GenerateKey(rand.Reader, 2048))
	shortRSA = must(rsa.GenerateKey(rand.Reader, 1024))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type fields = supabase.Fields

func claimsWith(change fields) fields { return supabase.Claims(user, change) }

func sign(alg jose.SignatureAlgorithm, key any, kid string, payload any) authz.Secret {
	return authz.Secret(supabase.Sign(alg, key, kid, payload))
}

func signWith(key any, options *jose.SignerOptions, payload any) authz.Secret {
	return authz.Secret(supabase.SignWith(jose.ES256, key, options, payload))
}

var public = supabase.PublicJWK

func publish(t testing.TB, keys ...jose.JSONWebKey) *supabase.Issuer {
	t.Helper()
	i := supabase.Start()
	t.Cleanup(i.Close)
	i.Publish(keys...)
	return i
}

// verifier returns a verifier for the format. The verifier has fetched the keys.
func verifier(t testing.TB, f authz.SessionFormat, clock func() time.Time) *session.Verifier {
	t.Helper()
	f.Issuer = supabase.IssuerClaim
	v, err := session.New(session.Config{
		APIs:     map[string]authz.API{api: {Session: f}, "velaflows": {}},
		MaxBytes: 1 << 20, Clock: clock,
	}, discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	eventually(t, "the keys are fetched", func() bool { _, err := v.Ready(); return err == nil })
	return v
}

func eventually(t testing.TB, condition string, isTrue func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !isTrue(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timeout: %s", condition)
		}
	}
}

func TestValidTokensOfEachAlgorithm(t *testing.T) {
	p := publish(t, public("ec", &ecKey.PublicKey), public("rsa", &rsaKey.PublicKey))
	v := verifier(t, authz.SessionFormat{HS256Secret: secret, JWKSURL: p.URL}, nil)
	startedAt := time.Now().Unix() - 500
	claims := claimsWith(fields{"amr": []fields{{"method": "totp", "timestamp": startedAt + 100}, {"method": "password", "timestamp": startedAt}}})
	for name, token := range map[string]authz.Secret{
		"HS256":                   sign(jose.HS256, []byte(secret), "", claims),
		"HS256 with kid":          sign(jose.HS256, []byte(secret), "any", claims),
		"ES256":                   sign(jose.ES256, ecKey, "ec", claims),
		"RS256":                   sign(jose.RS256, rsaKey, "rsa", claims),
		"no typ in the header":    signWith(ecKey, (&jose.SignerOptions{}).WithHeader("kid", "ec"), claims),
		"one audience in a list":  sign(jose.ES256, ecKey, "ec", claimsWith(fields{"aud": []string{"authenticated"}, "amr": claims["amr"]})),
		"no is_anonymous":         sign(jose.ES256, ecKey, "ec", claimsWith(fields{"is_anonymous": nil, "amr": claims["amr"]})),
		"exp with a fraction":     sign(jose.ES256, ecKey, "ec", claimsWith(fields{"exp": float64(time.Now().Unix()) + 99.5, "amr": claims["amr"]})),
		"times within the leeway": sign(jose.ES256, ecKey, "ec", claimsWith(fields{"exp": time.Now().Unix() - 5, "nbf": time.Now().Unix() + 5, "amr": claims["amr"]})),
	} {
		for range 2 { // in the second run, the token may be cached
			s, denial, err := verify(t, v, api, token)
			if err != nil || denial != "" || s != (authz.Session{ID: supabase.SessionID, UserID: user, StartedAt: startedAt - 10}) {
				t.Errorf("%s: %+v, %s, %v", name, s, denial, err)
			}
		}
		if _, denial, err := verify(t, v, "velaflows", token); denial != authz.ReasonUnknown || err != nil {
			t.Errorf("%s: for an API without sessions, Verify returns %s, %v", name, denial, err)
		}
	}
}

// BegunBefore returns the first start that a revocation does not revoke: a look-up compares StartedAt with the revocation.
func TestBegunBefore(t *testing.T) {
	hourAgo := time.Now().Add(-time.Hour).Truncate(time.Second)
	for name, c := range map[string]struct {
		format  authz.SessionFormat
		seconds int64 // from the revocation's second to the first start that is not revoked
	}{
		"two clocks": {authz.SessionFormat{Leeway: 10 * time.Second}, 11},
		"two clocks, a leeway of one and a half seconds": {authz.SessionFormat{Leeway: 1500 * time.Millisecond}, 3},
		"one clock": {authz.SessionFormat{Leeway: 10 * time.Second, SharedClock: true}, 1},
	} {
		c.format.HS256Secret = secret
		v := verifier(t, c.format, nil)
		for _, fraction := range []time.Duration{0, time.Microsecond, 999_999 * time.Microsecond} {
			revoked := hourAgo.Add(fraction)
			first := session.BegunBefore(revoked, c.format)
			if got := first.Unix() - hourAgo.Unix(); got != c.seconds || first.Nanosecond() != 0 {
				t.Errorf("%s: %v", name, first.Sub(revoked))
			}
			for began, want := range map[int64]bool{first.Unix() - 1: true, first.Unix(): false} {
				amr := []fields{{"method": "password", "timestamp": began}}
				s, denial, err := verify(t, v, api, sign(jose.HS256, []byte(secret), "", claimsWith(fields{"amr": amr})))
				if isRevoked := !revoked.Before(time.Unix(s.StartedAt, 0)); err != nil || denial != "" || isRevoked != want {
					t.Errorf("%s, %v: a session that began at %d: %+v, %s, %v", name, fraction, began, s, denial, err)
				}
			}
		}
	}
}

// The start of a session is the earliest time in the claim amr. If iat is earlier, the start is iat. The leeway is subtracted.
// Without a time in amr, the start is in 1970. A start that is too early is safe, because a revocation then still applies to the
// session.
func TestSessionStart(t *testing.T) {
	v := verifier(t, authz.SessionFormat{HS256Secret: secret, Leeway: time.Minute}, nil)
	now := time.Now().Unix()
	methodsAt := func(times ...any) []fields {
		var list []fields
		for _, timestamp := range times {
			list = append(list, fields{"method": "password", "timestamp": timestamp})
		}
		return list
	}
	for name, c := range map[string]struct {
		amr  any
		want int64
	}{
		"one method":                      {methodsAt(now - 100), now - 160},
		"two methods":                     {methodsAt(now-100, now-500), now - 560},
		"a time later than iat":           {methodsAt(now + 30), now - 60},
		"two methods, one without a time": {methodsAt(nil, now-100), now - 160},
		"a time in milliseconds":          {methodsAt(now * 1000), 0},
		"a time as text":                  {methodsAt("1700000000"), 0},
		"methods without times":           {[]string{"pwd"}, 0},
		"no amr":                          {nil, 0},
		"amr of another form":             {fields{"timestamp": now}, 0},
	} {
		s, denial, err := verify(t, v, api, sign(jose.HS256, []byte(secret), "", claimsWith(fields{"iat": now, "amr": c.amr})))
		if err != nil || denial != "" || s.StartedAt != c.want {
			t.Errorf("%s: %d, not %d; %q, %v", name, s.StartedAt, c.want, denial, err)
		}
	}
}

// Each API verifies tokens with its own settings. So a token that one API has verified and cached is not automatically valid for
// another API.
func TestIssuersAreIndependent(t *testing.T) {
	strict := authz.SessionFormat{Issuer: supabase.IssuerClaim, HS256Secret: secret}
	lax := strict
	lax.Anonymous = true
	v, err := session.New(session.Config{APIs: map[string]authz.API{"strict": {Session: strict}, "lax": {Session: lax}}, MaxBytes: 1 << 20}, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	token := sign(jose.HS256, []byte(secret), "", claimsWith(fields{"is_anonymous": true}))
	eventually(t, "the token is cached", func() bool {
		_, denial, err := verify(t, v, "lax", token)
		if err != nil || denial != "" {
			t.Fatalf("%q, %v", denial, err)
		}
		if _, denial, err := verify(t, v, "strict", token); err != nil || denial != authz.ReasonUnknown {
			t.Fatalf("the other API: %q, %v", denial, err)
		}
		return v.Stats()["lax"].Cached > 0
	})
}

func TestAnonymousSessionsCanBeAllowed(t *testing.T) {
	v := verifier(t, authz.SessionFormat{HS256Secret: secret, Anonymous: true}, nil)
	token := sign(jose.HS256, []byte(secret), "", claimsWith(fields{"is_anonymous": true}))
	if _, denial, err := verify(t, v, api, token); err != nil || denial != "" {
		t.Errorf("%q, %v", denial, err)
	}
}

// A cached token expires at its own exp.
func TestCachedTokensExpire(t *testing.T) {
	var clockOffset atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(clockOffset.Load())) }
	v := verifier(t, authz.SessionFormat{HS256Secret: secret}, clock)
	token := sign(jose.HS256, []byte(secret), "", claimsWith(fields{"exp": time.Now().Unix() + 60}))
	eventually(t, "the token is cached", func() bool {
		_, denial, err := verify(t, v, api, token)
		if err != nil || denial != "" {
			t.Fatalf("%q, %v", denial, err)
		}
		return v.Stats()[api].Cached > 0
	})
	for after, want := range map[time.Duration]authz.Reason{
		60 * time.Second: "", 69 * time.Second: "", 70 * time.Second: authz.ReasonExpired, time.Hour: authz.ReasonExpired,
	} {
		clockOffset.Store(int64(after))
		if _, denial, err := verify(t, v, api, token); err != nil || denial != want {
			t.Errorf("after %v: %q, %v", after, denial, err)
		}
	}
}
