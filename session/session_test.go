package session_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
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

func good(change fields) fields { return supabase.Claims(user, change) }

func sign(alg jose.SignatureAlgorithm, key any, kid string, payload any) authz.Secret {
	return authz.Secret(supabase.Sign(alg, key, kid, payload))
}

func signWith(key any, options *jose.SignerOptions, payload any) authz.Secret {
	return authz.Secret(supabase.SignWith(jose.ES256, key, options, payload))
}

var public = supabase.Public

func publish(t testing.TB, keys ...jose.JSONWebKey) *supabase.Issuer {
	t.Helper()
	i := supabase.Start()
	t.Cleanup(i.Close)
	i.Publish(keys...)
	return i
}

// verifier returns a verifier of the format that has fetched its keys.
func verifier(t testing.TB, f authz.SessionFormat, clock func() time.Time) *session.Verifier {
	t.Helper()
	f.Issuer = supabase.Name
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

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timeout: %s", what)
		}
	}
}

func TestThreeAlgorithms(t *testing.T) {
	p := publish(t, public("ec", &ecKey.PublicKey), public("rsa", &rsaKey.PublicKey))
	v := verifier(t, authz.SessionFormat{HS256Secret: secret, JWKSURL: p.URL}, nil)
	began := time.Now().Unix() - 500
	claims := good(fields{"amr": []fields{{"method": "totp", "timestamp": began + 100}, {"method": "password", "timestamp": began}}})
	for name, token := range map[string]authz.Secret{
		"HS256":           sign(jose.HS256, []byte(secret), "", claims),
		"HS256 with kid":  sign(jose.HS256, []byte(secret), "any", claims),
		"ES256":           sign(jose.ES256, ecKey, "ec", claims),
		"RS256":           sign(jose.RS256, rsaKey, "rsa", claims),
		"no typ":          signWith(ecKey, (&jose.SignerOptions{}).WithHeader("kid", "ec"), claims),
		"a list of one":   sign(jose.ES256, ecKey, "ec", good(fields{"aud": []string{"authenticated"}, "amr": claims["amr"]})),
		"no is_anonymous": sign(jose.ES256, ecKey, "ec", good(fields{"is_anonymous": nil, "amr": claims["amr"]})),
		"fractions":       sign(jose.ES256, ecKey, "ec", good(fields{"exp": float64(time.Now().Unix()) + 99.5, "amr": claims["amr"]})),
		"within leeway":   sign(jose.ES256, ecKey, "ec", good(fields{"exp": time.Now().Unix() - 5, "nbf": time.Now().Unix() + 5, "amr": claims["amr"]})),
	} {
		for range 2 { // verified, and remembered
			s, denial, err := verify(t, v, api, token)
			if err != nil || denial != "" || s != (authz.Session{ID: supabase.Session, UserID: user, Began: began - 10}) {
				t.Errorf("%s: %+v, %s, %v", name, s, denial, err)
			}
		}
		if _, denial, err := verify(t, v, "velaflows", token); denial != authz.ReasonUnknown || err != nil {
			t.Errorf("%s: another API says %s, %v", name, denial, err)
		}
	}
}

// A session began at the earliest time in amr, less the leeway; without such a time, in 1970. A start that is too early is safe: the
// session cannot escape its revocation.
func TestWhenASessionBegan(t *testing.T) {
	v := verifier(t, authz.SessionFormat{HS256Secret: secret, Leeway: time.Minute}, nil)
	now := time.Now().Unix()
	at := func(times ...any) []fields {
		var list []fields
		for _, when := range times {
			list = append(list, fields{"method": "password", "timestamp": when})
		}
		return list
	}
	for name, c := range map[string]struct {
		amr  any
		want int64
	}{
		"once":              {at(now - 100), now - 160},
		"twice":             {at(now-100, now-500), now - 560},
		"after it was made": {at(now + 30), now - 60},
		"a step unknown":    {at(nil, now-100), now - 160},
		"in milliseconds":   {at(now * 1000), 0},
		"as text":           {at("1700000000"), 0},
		"not told":          {[]string{"pwd"}, 0},
		"nothing":           {nil, 0},
		"of another form":   {fields{"timestamp": now}, 0},
	} {
		s, denial, err := verify(t, v, api, sign(jose.HS256, []byte(secret), "", good(fields{"iat": now, "amr": c.amr})))
		if err != nil || denial != "" || s.Began != c.want {
			t.Errorf("%s: %d, not %d; %q, %v", name, s.Began, c.want, denial, err)
		}
	}
}

// A token that one API has verified and cached is not valid for another API, whose settings may differ.
func TestIssuersAreApart(t *testing.T) {
	strict := authz.SessionFormat{Issuer: supabase.Name, HS256Secret: secret}
	lax := strict
	lax.Anonymous = true
	v, err := session.New(session.Config{APIs: map[string]authz.API{"strict": {Session: strict}, "lax": {Session: lax}}, MaxBytes: 1 << 20}, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	token := sign(jose.HS256, []byte(secret), "", good(fields{"is_anonymous": true}))
	eventually(t, "it is remembered", func() bool {
		_, denial, err := verify(t, v, "lax", token)
		if err != nil || denial != "" {
			t.Fatalf("%q, %v", denial, err)
		}
		if _, denial, err := verify(t, v, "strict", token); err != nil || denial != authz.ReasonUnknown {
			t.Fatalf("the other API: %q, %v", denial, err)
		}
		return v.Stats()["lax"].Remembered > 0
	})
}

// Each of these invalid tokens is refused, without an error.
func TestForgedTokensAreRefused(t *testing.T) {
	p := publish(t, public("ec", &ecKey.PublicKey), public("rsa", &rsaKey.PublicKey), public("other", &otherEC.PublicKey),
		jose.JSONWebKey{Key: &wrongEC.PublicKey, KeyID: "p384", Use: "sig"},
		jose.JSONWebKey{Key: &shortRSA.PublicKey, KeyID: "short", Use: "sig"},
		jose.JSONWebKey{Key: &ecKey.PublicKey, KeyID: "enc", Use: "enc"},
		jose.JSONWebKey{Key: []byte(secret + "!"), KeyID: "oct"},
		jose.JSONWebKey{Key: otherEC, KeyID: "private", Use: "sig"},
		jose.JSONWebKey{Key: &otherEC.PublicKey, KeyID: "es512", Algorithm: "ES512", Use: "sig"},
	)
	both := verifier(t, authz.SessionFormat{HS256Secret: secret, JWKSURL: p.URL}, nil)
	keysOnly := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	secretOnly := verifier(t, authz.SessionFormat{HS256Secret: secret}, nil)

	now := time.Now().Unix()
	es := func(claims any) authz.Secret { return sign(jose.ES256, ecKey, "ec", claims) }
	with := func(change fields) authz.Secret { return es(good(change)) }
	raw := func(text string) authz.Secret { // with another claim in front
		return es([]byte(strings.Replace(string(must(json.Marshal(good(nil)))), "{", "{"+text+",", 1)))
	}
	header := func(name string, value any) authz.Secret {
		return signWith(ecKey, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "ec").WithHeader(jose.HeaderKey(name), value), good(nil))
	}
	parts := func(token authz.Secret) []string { return strings.Split(token.Reveal(), ".") }
	b64 := base64.RawURLEncoding.EncodeToString
	rejoined := func(header, payload, signature string) authz.Secret {
		return authz.Secret(header + "." + payload + "." + signature)
	}
	genuine := parts(es(good(nil)))
	der := must(x509.MarshalPKIXPublicKey(&ecKey.PublicKey))
	bytesOfKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})

	for name, c := range map[string]struct {
		token authz.Secret
		want  authz.Reason
	}{
		"none":                           {rejoined(b64([]byte(`{"alg":"none","typ":"JWT"}`)), genuine[1], ""), authz.ReasonUnsupportedAlgorithm},
		"None":                           {rejoined(b64([]byte(`{"alg":"None","typ":"JWT"}`)), genuine[1], ""), authz.ReasonUnsupportedAlgorithm},
		"none with a signature":          {rejoined(b64([]byte(`{"alg":"none","kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonUnsupportedAlgorithm},
		"HS256 with the public key, PEM": {sign(jose.HS256, bytesOfKey, "ec", good(nil)), authz.ReasonUnknown},
		"HS256 with the public key, DER": {sign(jose.HS256, der, "ec", good(nil)), authz.ReasonUnknown},
		"HS256 with a published secret":  {sign(jose.HS256, []byte(secret+"!"), "oct", good(nil)), authz.ReasonUnknown},
		"HS256 with the empty secret":    {rejoined(hs256(t, nil, good(nil))), authz.ReasonUnknown},
		"HS384":                          {sign(jose.HS384, []byte(secret+secret), "", good(nil)), authz.ReasonUnsupportedAlgorithm},
		"HS512":                          {sign(jose.HS512, []byte(secret+secret), "", good(nil)), authz.ReasonUnsupportedAlgorithm},
		"PS256":                          {sign(jose.PS256, rsaKey, "rsa", good(nil)), authz.ReasonUnsupportedAlgorithm},
		"RS512":                          {sign(jose.RS512, rsaKey, "rsa", good(nil)), authz.ReasonUnsupportedAlgorithm},
		"ES384":                          {sign(jose.ES384, wrongEC, "p384", good(nil)), authz.ReasonUnsupportedAlgorithm},
		"ES256 that names P-384":         {sign(jose.ES256, ecKey, "p384", good(nil)), authz.ReasonUnknown},
		"ES256 that names RSA":           {sign(jose.ES256, ecKey, "rsa", good(nil)), authz.ReasonUnknown},
		"RS256 that names EC":            {sign(jose.RS256, rsaKey, "ec", good(nil)), authz.ReasonUnknown},
		"a short RSA key":                {rejoined(rs256(t, shortRSA, "short", good(nil))), authz.ReasonUnknown},
		"a key that is published whole":  {sign(jose.ES256, otherEC, "private", good(nil)), authz.ReasonUnknown},
		"a key for another algorithm":    {sign(jose.ES256, otherEC, "es512", good(nil)), authz.ReasonUnknown},
		"a key for encryption":           {sign(jose.ES256, ecKey, "enc", good(nil)), authz.ReasonUnknown},
		"another key":                    {sign(jose.ES256, otherEC, "ec", good(nil)), authz.ReasonUnknown},
		"another kid":                    {sign(jose.ES256, ecKey, "other", good(nil)), authz.ReasonUnknown},
		"an unknown kid":                 {sign(jose.ES256, ecKey, "nobody's", good(nil)), authz.ReasonUnknown},
		"no kid":                         {sign(jose.ES256, ecKey, "", good(nil)), authz.ReasonMalformed},
		"crit":                           {header("crit", []string{"exp"}), authz.ReasonMalformed},
		"another type":                   {signWith(ecKey, (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "ec"), good(nil)), authz.ReasonMalformed},
		"a key of its own":               {signWith(otherEC, (&jose.SignerOptions{EmbedJWK: true}).WithType("JWT"), good(nil)), authz.ReasonMalformed},
		"kid that is a number":           {rejoined(b64([]byte(`{"alg":"ES256","kid":1}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"alg twice":                      {rejoined(b64([]byte(`{"alg":"none","alg":"ES256","kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"alg that is null":               {rejoined(b64([]byte(`{"alg":null,"kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"Alg":                            {rejoined(b64([]byte(`{"Alg":"ES256","kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"no header":                      {rejoined("", genuine[1], genuine[2]), authz.ReasonMalformed},
		"two dots":                       {"..", authz.ReasonMalformed},
		"a changed payload":              {rejoined(genuine[0], parts(with(fields{"sub": "eve"}))[1], genuine[2]), authz.ReasonUnknown},
		"a changed signature":            {rejoined(genuine[0], genuine[1], parts(with(fields{"sub": "eve"}))[2]), authz.ReasonUnknown},
		"no signature":                   {rejoined(genuine[0], genuine[1], ""), authz.ReasonUnknown},
		"a signature of zeros":           {rejoined(genuine[0], genuine[1], b64(make([]byte, 64))), authz.ReasonUnknown},
		"a signature in DER":             {rejoined(genuine[0], genuine[1], b64(must(ecKey.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)))), authz.ReasonUnknown},
		"bits behind the header":         {rejoined(trailing(b64([]byte(`{"alg":"ES256","kid":"ec"}`))), genuine[1], genuine[2]), authz.ReasonMalformed},
		"bits behind the signature":      {rejoined(genuine[0], genuine[1], trailing(genuine[2])), authz.ReasonMalformed},
		"padding":                        {rejoined(genuine[0]+"=", genuine[1], genuine[2]), authz.ReasonMalformed},
		"four parts":                     {rejoined(genuine[0], genuine[1], genuine[2]+"."+genuine[2]), authz.ReasonMalformed},

		"expired":                 {with(fields{"exp": now - 11}), authz.ReasonExpired},
		"expired long ago":        {with(fields{"exp": 1}), authz.ReasonExpired},
		"not yet valid":           {with(fields{"nbf": now + 15}), authz.ReasonUnknown},
		"no exp":                  {with(fields{"exp": nil}), authz.ReasonMalformed},
		"exp that is text":        {with(fields{"exp": "9999999999"}), authz.ReasonMalformed},
		"exp that is null":        {with(fields{"exp": json.RawMessage("null")}), authz.ReasonMalformed},
		"exp beyond all time":     {with(fields{"exp": 1e300}), authz.ReasonMalformed},
		"exp below all time":      {with(fields{"exp": -1}), authz.ReasonMalformed},
		"EXP":                     {with(fields{"exp": nil, "EXP": now + 3600}), authz.ReasonMalformed},
		"nbf that is text":        {with(fields{"nbf": "0"}), authz.ReasonMalformed},
		"made in the future":      {with(fields{"iat": now + 60}), authz.ReasonUnknown},
		"no iat":                  {with(fields{"iat": nil}), authz.ReasonMalformed},
		"wrong issuer":            {with(fields{"iss": "https://evil.example/auth/v1"}), authz.ReasonUnknown},
		"issuer with a slash":     {with(fields{"iss": supabase.Name + "/"}), authz.ReasonUnknown},
		"no issuer":               {with(fields{"iss": nil}), authz.ReasonMalformed},
		"issuers":                 {with(fields{"iss": []string{supabase.Name}}), authz.ReasonMalformed},
		"wrong issuer, expired":   {with(fields{"iss": "https://evil.example", "exp": now - 99}), authz.ReasonUnknown},
		"wrong audience":          {with(fields{"aud": "anon"}), authz.ReasonUnknown},
		"two audiences":           {with(fields{"aud": []string{"authenticated", "other"}}), authz.ReasonUnknown},
		"one audience twice":      {with(fields{"aud": []string{"authenticated", "authenticated"}}), authz.ReasonUnknown},
		"no audience":             {with(fields{"aud": nil}), authz.ReasonMalformed},
		"no audience in a list":   {with(fields{"aud": []string{}}), authz.ReasonMalformed},
		"an audience of a number": {with(fields{"aud": []any{"authenticated", 1}}), authz.ReasonMalformed},
		"anonymous":               {with(fields{"is_anonymous": true}), authz.ReasonUnknown},
		"anonymous as text":       {with(fields{"is_anonymous": "true"}), authz.ReasonMalformed},
		"anonymous as null":       {with(fields{"is_anonymous": json.RawMessage("null")}), authz.ReasonMalformed},
		"service_role":            {with(fields{"role": "service_role"}), authz.ReasonUnknown},
		"anon":                    {with(fields{"role": "anon"}), authz.ReasonUnknown},
		"no role":                 {with(fields{"role": nil}), authz.ReasonUnknown},
		"Role":                    {with(fields{"role": nil, "Role": "authenticated"}), authz.ReasonUnknown},
		"no user":                 {with(fields{"sub": nil}), authz.ReasonMalformed},
		"the empty user":          {with(fields{"sub": ""}), authz.ReasonMalformed},
		"a user of a NUL":         {with(fields{"sub": "a\x00b"}), authz.ReasonMalformed},
		"a user of two lines":     {with(fields{"sub": "a\nb"}), authz.ReasonMalformed},
		"a user with a space":     {with(fields{"sub": "ada "}), authz.ReasonMalformed},
		"half a surrogate pair":   {es([]byte(strings.Replace(string(must(json.Marshal(good(nil)))), user, `a\ud800b`, 1))), authz.ReasonMalformed},
		"a long user":             {with(fields{"sub": strings.Repeat("a", 256)}), authz.ReasonMalformed},
		"no session":              {with(fields{"session_id": nil}), authz.ReasonMalformed},
		"a session of a number":   {with(fields{"session_id": 1}), authz.ReasonMalformed},
		"sub twice":               {raw(`"sub":"eve"`), authz.ReasonMalformed},
		"exp twice":               {raw(`"exp":9999999999`), authz.ReasonMalformed},
		"exp twice, escaped":      {raw(`"e\u0078p":9999999999`), authz.ReasonMalformed},
		"a user that is no UTF-8": {raw("\"x\":\"\xff\""), authz.ReasonMalformed},
		"no object":               {es([]byte(`["exp"]`)), authz.ReasonMalformed},
		"null":                    {es([]byte(`null`)), authz.ReasonMalformed},
		"no JSON":                 {es([]byte(`{`)), authz.ReasonMalformed},
		"something behind":        {es([]byte(string(must(json.Marshal(good(nil)))) + "{}")), authz.ReasonMalformed},
	} {
		for range 2 { // the second time, to show that it is not cached
			if s, denial, err := verify(t, both, api, c.token); err != nil || denial != c.want || s != (authz.Session{}) {
				t.Errorf("%s: %+v, %q, %v; want %q", name, s, denial, err, c.want)
			}
		}
	}
	for name, c := range map[string]struct {
		v     *session.Verifier
		token authz.Secret
	}{
		"HS256 without a secret":                 {keysOnly, sign(jose.HS256, []byte(secret), "", good(nil))},
		"HS256 of the public key, with no other": {keysOnly, sign(jose.HS256, bytesOfKey, "ec", good(nil))},
		"ES256 without keys":                     {secretOnly, es(good(nil))},
		"RS256 without keys":                     {secretOnly, sign(jose.RS256, rsaKey, "rsa", good(nil))},
	} {
		if _, denial, err := verify(t, c.v, api, c.token); err != nil || denial != authz.ReasonUnsupportedAlgorithm {
			t.Errorf("%s: %q, %v", name, denial, err)
		}
	}
	for _, v := range []*session.Verifier{both, keysOnly} { // otherwise the refusals above would show nothing
		if _, denial, err := verify(t, v, api, es(good(nil))); err != nil || denial != "" {
			t.Errorf("a good token: %q, %v", denial, err)
		}
	}
}

// trailing sets an unused bit at the end of a base64 text.
func trailing(encoded string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, encoded[len(encoded)-1])
	if len(encoded)%4 == 0 || last&1 != 0 {
		panic("no bit is left over")
	}
	return encoded[:len(encoded)-1] + string(alphabet[last|1])
}

// hs256 and rs256 sign with keys that go-jose refuses.
func hs256(t *testing.T, key []byte, claims fields) (header, payload, signature string) {
	return byHand(t, fields{"alg": "HS256"}, claims, func(text string) []byte { return hmacSHA256(key, text) })
}

func rs256(t *testing.T, key *rsa.PrivateKey, kid string, claims fields) (header, payload, signature string) {
	return byHand(t, fields{"alg": "RS256", "kid": kid}, claims, func(text string) []byte {
		return must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum(text)))
	})
}

func byHand(t *testing.T, head, claims fields, sign func(string) []byte) (header, payload, signature string) {
	t.Helper()
	header = base64.RawURLEncoding.EncodeToString(must(json.Marshal(head)))
	payload = base64.RawURLEncoding.EncodeToString(must(json.Marshal(claims)))
	return header, payload, base64.RawURLEncoding.EncodeToString(sign(header + "." + payload))
}

func TestAnonymousSessionsCanBeTaken(t *testing.T) {
	v := verifier(t, authz.SessionFormat{HS256Secret: secret, Anonymous: true}, nil)
	token := sign(jose.HS256, []byte(secret), "", good(fields{"is_anonymous": true}))
	if _, denial, err := verify(t, v, api, token); err != nil || denial != "" {
		t.Errorf("%q, %v", denial, err)
	}
}

// A cached token expires at its own exp.
func TestRememberedTokensExpire(t *testing.T) {
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	v := verifier(t, authz.SessionFormat{HS256Secret: secret}, clock)
	token := sign(jose.HS256, []byte(secret), "", good(fields{"exp": time.Now().Unix() + 60}))
	eventually(t, "it is remembered", func() bool {
		_, denial, err := verify(t, v, api, token)
		if err != nil || denial != "" {
			t.Fatalf("%q, %v", denial, err)
		}
		return v.Stats()[api].Remembered > 0
	})
	for after, want := range map[time.Duration]authz.Reason{
		60 * time.Second: "", 69 * time.Second: "", 70 * time.Second: authz.ReasonExpired, time.Hour: authz.ReasonExpired,
	} {
		ahead.Store(int64(after))
		if _, denial, err := verify(t, v, api, token); err != nil || denial != want {
			t.Errorf("after %v: %q, %v", after, denial, err)
		}
	}
}
