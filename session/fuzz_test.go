package session_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/test/supabase"
)

// FuzzToken checks that Verify returns a result for any input, without a panic. It also checks that Verify accepts only tokens
// that the issuer has signed.
func FuzzToken(f *testing.F) {
	issuer := supabase.Start()
	f.Cleanup(issuer.Close)
	v := verifier(f, authz.SessionFormat{JWKSURL: issuer.URL, HS256Secret: authz.Secret(issuer.Secret)}, nil)
	genuine := []string{
		issuer.Token(user, nil), supabase.Sign(jose.HS256, []byte(issuer.Secret), "", claimsWith(nil)), supabase.Sign(jose.RS256, issuer.RSA, "rsa", claimsWith(nil)),
	}
	for _, token := range genuine {
		parts := strings.Split(token, ".")
		f.Add(parts[0], parts[1], parts[2])
		f.Add(parts[0]+"=", parts[1], "")
		f.Add(encode(`{"alg":"none"}`), parts[1], "")
		f.Add(encode(`{"alg":"HS256","kid":"ec","crit":[]}`), encode(`{"exp":1e999,"aud":[[]],"sub":{}}`), parts[2])
	}
	f.Fuzz(func(t *testing.T, header, payload, signature string) {
		token := header + "." + payload + "." + signature
		s, denial, err := verify(t, v, api, authz.Secret(token))
		// The fuzzer can find no valid token except the tokens in genuine. Another ECDSA signature of the same text would be
		// valid, but the fuzzer cannot find one.
		signed := slices.Contains(genuine, token)
		if err != nil || (denial == "") != signed || (denial != "" && s != (authz.Session{})) {
			t.Fatalf("%q: %+v, %q, %v", token, s, denial, err)
		}
	})
}

// BenchmarkVerify measures the verification of a new token for each algorithm, and of a cached token.
func BenchmarkVerify(b *testing.B) {
	issuer := supabase.Start()
	defer issuer.Close()
	f := authz.SessionFormat{Issuer: supabase.IssuerClaim, JWKSURL: issuer.URL, HS256Secret: authz.Secret(issuer.Secret)}
	uncached, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: f}}}, discard)
	if err != nil {
		b.Fatal(err)
	}
	defer uncached.Close()
	cached := verifier(b, f, nil)
	eventually(b, "the keys are fetched", func() bool { _, err := uncached.Ready(); return err == nil })
	run := func(name string, v *session.Verifier, token authz.Secret) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, denial, err := verify(b, v, api, token); denial != "" || err != nil {
					b.Fatal(denial, err)
				}
			}
		})
	}
	run("HS256", uncached, sign(jose.HS256, []byte(issuer.Secret), "", claimsWith(nil)))
	run("ES256", uncached, sign(jose.ES256, issuer.EC, "ec", claimsWith(nil)))
	run("RS256", uncached, sign(jose.RS256, issuer.RSA, "rsa", claimsWith(nil)))
	run("remembered", cached, sign(jose.ES256, issuer.EC, "ec", claimsWith(nil)))
}
