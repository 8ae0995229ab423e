package session_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/test/supabase"
)

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
