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

// FuzzToken: any input gets an answer without a panic, and only tokens that the issuer has signed are sessions.
func FuzzToken(f *testing.F) {
	is := supabase.Start()
	f.Cleanup(is.Close)
	v := verifier(f, authz.SessionFormat{JWKSURL: is.URL, HS256Secret: authz.Secret(is.Secret)}, nil)
	genuine := []string{
		is.Token(user, nil), supabase.Sign(jose.HS256, []byte(is.Secret), "", good(nil)), supabase.Sign(jose.RS256, is.RSA, "rsa", good(nil)),
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
		// A text has several valid ECDSA signatures, but the fuzzer cannot find another one.
		signed := slices.Contains(genuine, token)
		if err != nil || (denial == "") != signed || (denial != "" && s != (authz.Session{})) {
			t.Fatalf("%q: %+v, %q, %v", token, s, denial, err)
		}
	})
}

// BenchmarkVerify measures new tokens, by algorithm, and a cached token.
func BenchmarkVerify(b *testing.B) {
	is := supabase.Start()
	defer is.Close()
	f := authz.SessionFormat{Issuer: supabase.Name, JWKSURL: is.URL, HS256Secret: authz.Secret(is.Secret)}
	cold, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: f}}}, discard)
	if err != nil {
		b.Fatal(err)
	}
	defer cold.Close()
	warm := verifier(b, f, nil)
	eventually(b, "the keys are fetched", func() bool { _, err := cold.Ready(); return err == nil })
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
	run("HS256", cold, sign(jose.HS256, []byte(is.Secret), "", good(nil)))
	run("ES256", cold, sign(jose.ES256, is.EC, "ec", good(nil)))
	run("RS256", cold, sign(jose.RS256, is.RSA, "rsa", good(nil)))
	run("remembered", warm, sign(jose.ES256, is.EC, "ec", good(nil)))
}
