package session_test

import (
	"crypto/rand"
	"crypto/rsa"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/test/supabase"
)

// If keys have the same id, their type and algorithm distinguish them. The keyring ignores only keys that are still ambiguous,
// logs a warning, and uses the other keys.
func TestDuplicateKeyID(t *testing.T) {
	otherRSA := must(rsa.GenerateKey(rand.Reader, 2048))
	ec, rs := public("k", &ecKey.PublicKey), public("k", &rsaKey.PublicKey)
	withoutAlg := func(k jose.JSONWebKey) jose.JSONWebKey { k.Algorithm = ""; return k }
	withAlg := func(k jose.JSONWebKey, alg string) jose.JSONWebKey { k.Algorithm = alg; return k }
	for name, c := range map[string]struct {
		keys      []jose.JSONWebKey
		ec, rsa   bool // ec: a token with the kid k that ecKey signed is accepted; rsa: the same for rsaKey
		ambiguous bool
	}{
		"keys of two types":                        {[]jose.JSONWebKey{ec, rs}, true, true, false},
		"keys of two types, without alg":           {[]jose.JSONWebKey{withoutAlg(rs), withoutAlg(ec)}, true, true, false},
		"keys of two algorithms":                   {[]jose.JSONWebKey{rs, withAlg(public("k", &otherRSA.PublicKey), "PS256")}, false, true, false},
		"keys of two algorithms, swapped":          {[]jose.JSONWebKey{withAlg(public("k", &otherRSA.PublicKey), "RS512"), rs}, false, true, false},
		"one key for encryption":                   {[]jose.JSONWebKey{ec, {Key: &otherEC.PublicKey, KeyID: "k", Use: "enc"}}, true, false, false},
		"one key of another curve":                 {[]jose.JSONWebKey{{Key: &wrongEC.PublicKey, KeyID: "k", Use: "sig"}, ec}, true, false, false},
		"one key that is too short":                {[]jose.JSONWebKey{{Key: &shortRSA.PublicKey, KeyID: "k", Use: "sig"}, rs}, false, true, false},
		"one key that is a secret":                 {[]jose.JSONWebKey{{Key: []byte(secret), KeyID: "k"}, ec}, true, false, false},
		"the same key three times":                 {[]jose.JSONWebKey{ec, ec, withoutAlg(ec)}, true, false, false},
		"two keys of one type":                     {[]jose.JSONWebKey{ec, public("k", &otherEC.PublicKey)}, false, false, true},
		"two keys of one type, one of them twice":  {[]jose.JSONWebKey{ec, public("k", &otherEC.PublicKey), ec}, false, false, true},
		"two keys of one type, one without alg":    {[]jose.JSONWebKey{ec, withoutAlg(public("k", &otherEC.PublicKey))}, false, false, true},
		"two keys of one type, one key of another": {[]jose.JSONWebKey{ec, rs, public("k", &otherEC.PublicKey)}, false, true, true},
		"a published private key":                  {[]jose.JSONWebKey{ec, rs, {Key: ecKey, KeyID: "k", Use: "sig"}}, false, true, false},
		"a private key with another id":            {[]jose.JSONWebKey{{Key: ecKey, KeyID: "z"}, ec, rs}, false, true, false},
		"two keys of each type":                    {[]jose.JSONWebKey{ec, rs, public("k", &otherEC.PublicKey), public("k", &otherRSA.PublicKey)}, false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := publish(t, append(c.keys, public("unique", &otherEC.PublicKey))...)
			log := &syncbuffer.Buffer{}
			v, err := session.New(session.Config{APIs: map[string]authz.API{api: {Session: authz.SessionFormat{Issuer: supabase.IssuerClaim, JWKSURL: p.URL}}}},
				slog.New(slog.NewJSONHandler(log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(v.Close)
			var notices []string
			eventually(t, "the keys are fetched", func() bool { notices, err = v.Ready(); return err == nil })
			for token, want := range map[authz.Secret]bool{
				sign(jose.ES256, ecKey, "k", claimsWith(nil)):        c.ec,
				sign(jose.RS256, rsaKey, "k", claimsWith(nil)):       c.rsa,
				sign(jose.ES256, otherEC, "unique", claimsWith(nil)): true,
			} {
				_, denial, err := verify(t, v, api, token)
				if err != nil || (denial == "") != want || !want && denial != authz.ReasonUnknown {
					t.Errorf("the denial is %q, the error is %v; want accepted: %v", denial, err, want)
				}
			}
			if got := strings.Contains(log.String(), `"WARN"`) && strings.Contains(log.String(), `"kids":["k"]`); got != c.ambiguous {
				t.Errorf("the log: %s", log)
			}
			if got := len(notices) == 1 && strings.Contains(notices[0], `["k"]`); got != c.ambiguous {
				t.Errorf("readiness: %q", notices)
			}
		})
	}
}

// The names of a key's members are case-sensitive, and no name may occur twice.
func TestNamesOfJWKMembers(t *testing.T) {
	validKey := string(must(public("k", &ecKey.PublicKey).MarshalJSON()))
	other := string(must(public("other", &otherEC.PublicKey).MarshalJSON()))
	for name, c := range map[string]struct {
		extraKey string
		accepted bool
	}{
		"KID and kid":     {strings.Replace(other, `"kid":"other"`, `"kid":"other","KID":"k"`, 1), true},
		"KID without kid": {strings.Replace(other, `"kid":"other"`, `"KID":"k"`, 1), true},
		"kid twice":       {strings.Replace(other, `"kid":"other"`, `"kid":"other","kid":"k"`, 1), true},
		"not an object":   {`["k"]`, true},
		"another key k":   {strings.Replace(other, `"kid":"other"`, `"kid":"k"`, 1), false},
		"other members":   {strings.Replace(other, `"kid":"other"`, `"kid":"other","x":{},"Kty":7`, 1), true},
	} {
		p := publish(t)
		p.SetHandler(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[`+c.extraKey+`,`+validKey+`]}`)
		})
		v := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
		if _, denial, err := verify(t, v, api, sign(jose.ES256, ecKey, "k", supabase.Claims(user, nil))); err != nil || (denial == "") != c.accepted {
			t.Errorf("%s: %q, %v", name, denial, err)
		}
	}
}
