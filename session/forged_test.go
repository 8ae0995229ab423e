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

// Verify refuses each of these invalid tokens, and returns no error.
func TestForgedTokensAreRefused(t *testing.T) {
	p := publish(t, public("ec", &ecKey.PublicKey), public("rsa", &rsaKey.PublicKey), public("other", &otherEC.PublicKey),
		jose.JSONWebKey{Key: &wrongEC.PublicKey, KeyID: "p384", Use: "sig"},
		jose.JSONWebKey{Key: &shortRSA.PublicKey, KeyID: "short", Use: "sig"},
		jose.JSONWebKey{Key: &ecKey.PublicKey, KeyID: "enc", Use: "enc"},
		jose.JSONWebKey{Key: []byte(secret + "!"), KeyID: "oct"},
		jose.JSONWebKey{Key: otherEC, KeyID: "private", Use: "sig"},
		jose.JSONWebKey{Key: &otherEC.PublicKey, KeyID: "es512", Algorithm: "ES512", Use: "sig"},
	)
	allAlgorithms := verifier(t, authz.SessionFormat{HS256Secret: secret, JWKSURL: p.URL}, nil)
	keysOnly := verifier(t, authz.SessionFormat{JWKSURL: p.URL}, nil)
	secretOnly := verifier(t, authz.SessionFormat{HS256Secret: secret}, nil)

	now := time.Now().Unix()
	signES256 := func(claims any) authz.Secret { return sign(jose.ES256, ecKey, "ec", claims) }
	withClaims := func(change fields) authz.Secret { return signES256(claimsWith(change)) }
	withFirstClaim := func(text string) authz.Secret { // the text is inserted before the other claims
		return signES256([]byte(strings.Replace(string(must(json.Marshal(claimsWith(nil)))), "{", "{"+text+",", 1)))
	}
	header := func(name string, value any) authz.Secret {
		return signWith(ecKey, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "ec").WithHeader(jose.HeaderKey(name), value), claimsWith(nil))
	}
	parts := func(token authz.Secret) []string { return strings.Split(token.Reveal(), ".") }
	b64 := base64.RawURLEncoding.EncodeToString
	joinParts := func(header, payload, signature string) authz.Secret {
		return authz.Secret(header + "." + payload + "." + signature)
	}
	genuine := parts(signES256(claimsWith(nil)))
	der := must(x509.MarshalPKIXPublicKey(&ecKey.PublicKey))
	pemOfKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})

	for name, c := range map[string]struct {
		token authz.Secret
		want  authz.Reason
	}{
		"the algorithm none":                   {joinParts(b64([]byte(`{"alg":"none","typ":"JWT"}`)), genuine[1], ""), authz.ReasonUnsupportedAlgorithm},
		"the algorithm None":                   {joinParts(b64([]byte(`{"alg":"None","typ":"JWT"}`)), genuine[1], ""), authz.ReasonUnsupportedAlgorithm},
		"the algorithm none, with a signature": {joinParts(b64([]byte(`{"alg":"none","kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonUnsupportedAlgorithm},
		"HS256 with the public key, PEM":       {sign(jose.HS256, pemOfKey, "ec", claimsWith(nil)), authz.ReasonUnknown},
		"HS256 with the public key, DER":       {sign(jose.HS256, der, "ec", claimsWith(nil)), authz.ReasonUnknown},
		"HS256 with a published secret":        {sign(jose.HS256, []byte(secret+"!"), "oct", claimsWith(nil)), authz.ReasonUnknown},
		"HS256 with the empty secret":          {joinParts(hs256(t, nil, claimsWith(nil))), authz.ReasonUnknown},
		"the algorithm HS384":                  {sign(jose.HS384, []byte(secret+secret), "", claimsWith(nil)), authz.ReasonUnsupportedAlgorithm},
		"the algorithm HS512":                  {sign(jose.HS512, []byte(secret+secret), "", claimsWith(nil)), authz.ReasonUnsupportedAlgorithm},
		"the algorithm PS256":                  {sign(jose.PS256, rsaKey, "rsa", claimsWith(nil)), authz.ReasonUnsupportedAlgorithm},
		"the algorithm RS512":                  {sign(jose.RS512, rsaKey, "rsa", claimsWith(nil)), authz.ReasonUnsupportedAlgorithm},
		"the algorithm ES384":                  {sign(jose.ES384, wrongEC, "p384", claimsWith(nil)), authz.ReasonUnsupportedAlgorithm},
		"ES256, kid of P-384":                  {sign(jose.ES256, ecKey, "p384", claimsWith(nil)), authz.ReasonUnknown},
		"ES256, kid of RSA":                    {sign(jose.ES256, ecKey, "rsa", claimsWith(nil)), authz.ReasonUnknown},
		"RS256, kid of EC":                     {sign(jose.RS256, rsaKey, "ec", claimsWith(nil)), authz.ReasonUnknown},
		"an RSA key that is too short":         {joinParts(rs256(t, shortRSA, "short", claimsWith(nil))), authz.ReasonUnknown},
		"a published private key":              {sign(jose.ES256, otherEC, "private", claimsWith(nil)), authz.ReasonUnknown},
		"a key for another algorithm":          {sign(jose.ES256, otherEC, "es512", claimsWith(nil)), authz.ReasonUnknown},
		"a key for encryption":                 {sign(jose.ES256, ecKey, "enc", claimsWith(nil)), authz.ReasonUnknown},
		"a signature by another key":           {sign(jose.ES256, otherEC, "ec", claimsWith(nil)), authz.ReasonUnknown},
		"the kid of another key":               {sign(jose.ES256, ecKey, "other", claimsWith(nil)), authz.ReasonUnknown},
		"an unknown kid":                       {sign(jose.ES256, ecKey, "nobody's", claimsWith(nil)), authz.ReasonUnknown},
		"no kid":                               {sign(jose.ES256, ecKey, "", claimsWith(nil)), authz.ReasonMalformed},
		"a critical extension":                 {header("crit", []string{"exp"}), authz.ReasonMalformed},
		"another typ":                          {signWith(ecKey, (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "ec"), claimsWith(nil)), authz.ReasonMalformed},
		"an embedded key":                      {signWith(otherEC, (&jose.SignerOptions{EmbedJWK: true}).WithType("JWT"), claimsWith(nil)), authz.ReasonMalformed},
		"kid that is a number":                 {joinParts(b64([]byte(`{"alg":"ES256","kid":1}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"alg twice":                            {joinParts(b64([]byte(`{"alg":"none","alg":"ES256","kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"alg that is null":                     {joinParts(b64([]byte(`{"alg":null,"kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"Alg instead of alg":                   {joinParts(b64([]byte(`{"Alg":"ES256","kid":"ec"}`)), genuine[1], genuine[2]), authz.ReasonMalformed},
		"no header":                            {joinParts("", genuine[1], genuine[2]), authz.ReasonMalformed},
		"three empty parts":                    {"..", authz.ReasonMalformed},
		"a changed payload":                    {joinParts(genuine[0], parts(withClaims(fields{"sub": "eve"}))[1], genuine[2]), authz.ReasonUnknown},
		"a changed signature":                  {joinParts(genuine[0], genuine[1], parts(withClaims(fields{"sub": "eve"}))[2]), authz.ReasonUnknown},
		"no signature":                         {joinParts(genuine[0], genuine[1], ""), authz.ReasonUnknown},
		"a signature of zeros":                 {joinParts(genuine[0], genuine[1], b64(make([]byte, 64))), authz.ReasonUnknown},
		"a signature in DER":                   {joinParts(genuine[0], genuine[1], b64(must(ecKey.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)))), authz.ReasonUnknown},
		"unused bits of the header":            {joinParts(withUnusedBit(b64([]byte(`{"alg":"ES256","kid":"ec"}`))), genuine[1], genuine[2]), authz.ReasonMalformed},
		"unused bits of the signature":         {joinParts(genuine[0], genuine[1], withUnusedBit(genuine[2])), authz.ReasonMalformed},
		"padding of the header":                {joinParts(genuine[0]+"=", genuine[1], genuine[2]), authz.ReasonMalformed},
		"four parts":                           {joinParts(genuine[0], genuine[1], genuine[2]+"."+genuine[2]), authz.ReasonMalformed},

		"expired":                        {withClaims(fields{"exp": now - 11}), authz.ReasonExpired},
		"expired long ago":               {withClaims(fields{"exp": 1}), authz.ReasonExpired},
		"not yet valid":                  {withClaims(fields{"nbf": now + 15}), authz.ReasonUnknown},
		"no exp":                         {withClaims(fields{"exp": nil}), authz.ReasonMalformed},
		"exp that is text":               {withClaims(fields{"exp": "9999999999"}), authz.ReasonMalformed},
		"exp that is null":               {withClaims(fields{"exp": json.RawMessage("null")}), authz.ReasonMalformed},
		"exp that is too large":          {withClaims(fields{"exp": 1e300}), authz.ReasonMalformed},
		"exp that is negative":           {withClaims(fields{"exp": -1}), authz.ReasonMalformed},
		"EXP instead of exp":             {withClaims(fields{"exp": nil, "EXP": now + 3600}), authz.ReasonMalformed},
		"nbf that is text":               {withClaims(fields{"nbf": "0"}), authz.ReasonMalformed},
		"issued in the future":           {withClaims(fields{"iat": now + 60}), authz.ReasonUnknown},
		"no iat":                         {withClaims(fields{"iat": nil}), authz.ReasonMalformed},
		"wrong issuer":                   {withClaims(fields{"iss": "https://evil.example/auth/v1"}), authz.ReasonUnknown},
		"issuer with a slash":            {withClaims(fields{"iss": supabase.IssuerClaim + "/"}), authz.ReasonUnknown},
		"no issuer":                      {withClaims(fields{"iss": nil}), authz.ReasonMalformed},
		"a list of issuers":              {withClaims(fields{"iss": []string{supabase.IssuerClaim}}), authz.ReasonMalformed},
		"wrong issuer, expired":          {withClaims(fields{"iss": "https://evil.example", "exp": now - 99}), authz.ReasonUnknown},
		"wrong audience":                 {withClaims(fields{"aud": "anon"}), authz.ReasonUnknown},
		"two audiences":                  {withClaims(fields{"aud": []string{"authenticated", "other"}}), authz.ReasonUnknown},
		"the same audience twice":        {withClaims(fields{"aud": []string{"authenticated", "authenticated"}}), authz.ReasonUnknown},
		"no audience":                    {withClaims(fields{"aud": nil}), authz.ReasonMalformed},
		"an empty list of audiences":     {withClaims(fields{"aud": []string{}}), authz.ReasonMalformed},
		"a number as an audience":        {withClaims(fields{"aud": []any{"authenticated", 1}}), authz.ReasonMalformed},
		"anonymous":                      {withClaims(fields{"is_anonymous": true}), authz.ReasonUnknown},
		"anonymous as text":              {withClaims(fields{"is_anonymous": "true"}), authz.ReasonMalformed},
		"anonymous as null":              {withClaims(fields{"is_anonymous": json.RawMessage("null")}), authz.ReasonMalformed},
		"the role service_role":          {withClaims(fields{"role": "service_role"}), authz.ReasonUnknown},
		"the role anon":                  {withClaims(fields{"role": "anon"}), authz.ReasonUnknown},
		"no role":                        {withClaims(fields{"role": nil}), authz.ReasonUnknown},
		"Role instead of role":           {withClaims(fields{"role": nil, "Role": "authenticated"}), authz.ReasonUnknown},
		"no user":                        {withClaims(fields{"sub": nil}), authz.ReasonMalformed},
		"the empty user":                 {withClaims(fields{"sub": ""}), authz.ReasonMalformed},
		"a user with a NUL":              {withClaims(fields{"sub": "a\x00b"}), authz.ReasonMalformed},
		"a user with a line break":       {withClaims(fields{"sub": "a\nb"}), authz.ReasonMalformed},
		"a user with a space at the end": {withClaims(fields{"sub": "ada "}), authz.ReasonMalformed},
		"half a surrogate pair":          {signES256([]byte(strings.Replace(string(must(json.Marshal(claimsWith(nil)))), user, `a\ud800b`, 1))), authz.ReasonMalformed},
		"a user id that is too long":     {withClaims(fields{"sub": strings.Repeat("a", 256)}), authz.ReasonMalformed},
		"no session":                     {withClaims(fields{"session_id": nil}), authz.ReasonMalformed},
		"a number as the session":        {withClaims(fields{"session_id": 1}), authz.ReasonMalformed},
		"sub twice":                      {withFirstClaim(`"sub":"eve"`), authz.ReasonMalformed},
		"exp twice":                      {withFirstClaim(`"exp":9999999999`), authz.ReasonMalformed},
		"exp twice, escaped":             {withFirstClaim(`"e\u0078p":9999999999`), authz.ReasonMalformed},
		"a claim that is not UTF-8":      {withFirstClaim("\"x\":\"\xff\""), authz.ReasonMalformed},
		"claims that are a list":         {signES256([]byte(`["exp"]`)), authz.ReasonMalformed},
		"claims that are null":           {signES256([]byte(`null`)), authz.ReasonMalformed},
		"claims that are not JSON":       {signES256([]byte(`{`)), authz.ReasonMalformed},
		"text after the claims":          {signES256([]byte(string(must(json.Marshal(claimsWith(nil)))) + "{}")), authz.ReasonMalformed},
	} {
		for range 2 { // the second run shows that the token is not cached
			if s, denial, err := verify(t, allAlgorithms, api, c.token); err != nil || denial != c.want || s != (authz.Session{}) {
				t.Errorf("%s: %+v, %q, %v; want %q", name, s, denial, err, c.want)
			}
		}
	}
	for name, c := range map[string]struct {
		v     *session.Verifier
		token authz.Secret
	}{
		"HS256 without a secret":               {keysOnly, sign(jose.HS256, []byte(secret), "", claimsWith(nil))},
		"HS256 with the public key, no secret": {keysOnly, sign(jose.HS256, pemOfKey, "ec", claimsWith(nil))},
		"ES256 without keys":                   {secretOnly, signES256(claimsWith(nil))},
		"RS256 without keys":                   {secretOnly, sign(jose.RS256, rsaKey, "rsa", claimsWith(nil))},
	} {
		if _, denial, err := verify(t, c.v, api, c.token); err != nil || denial != authz.ReasonUnsupportedAlgorithm {
			t.Errorf("%s: %q, %v", name, denial, err)
		}
	}
	for _, v := range []*session.Verifier{allAlgorithms, keysOnly} { // these verifiers accept a valid token
		if _, denial, err := verify(t, v, api, signES256(claimsWith(nil))); err != nil || denial != "" {
			t.Errorf("a valid token: %q, %v", denial, err)
		}
	}
}

// withUnusedBit sets an unused bit at the end of a base64 text.
func withUnusedBit(encoded string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, encoded[len(encoded)-1])
	if len(encoded)%4 == 0 || last&1 != 0 {
		panic("this text has no unused bit, or the bit is already set")
	}
	return encoded[:len(encoded)-1] + string(alphabet[last|1])
}

// hs256 and rs256 return the parts of a token that is signed with a key that go-jose refuses.
func hs256(t *testing.T, key []byte, claims fields) (header, payload, signature string) {
	return signManually(t, fields{"alg": "HS256"}, claims, func(text string) []byte { return hmacSHA256(key, text) })
}

func rs256(t *testing.T, key *rsa.PrivateKey, kid string, claims fields) (header, payload, signature string) {
	return signManually(t, fields{"alg": "RS256", "kid": kid}, claims, func(text string) []byte {
		return must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum(text)))
	})
}

func signManually(t *testing.T, head, claims fields, sign func(string) []byte) (header, payload, signature string) {
	t.Helper()
	header = base64.RawURLEncoding.EncodeToString(must(json.Marshal(head)))
	payload = base64.RawURLEncoding.EncodeToString(must(json.Marshal(claims)))
	return header, payload, base64.RawURLEncoding.EncodeToString(sign(header + "." + payload))
}
