// Package supabase is a session issuer for tests. It creates its tokens with go-jose, which shares no code with the verifier
// under test. If a function cannot create its result, it panics.
package supabase

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Issuer is a running issuer. It publishes its keys "ec" and "rsa", and shares Secret with the sidecar.
type Issuer struct {
	*httptest.Server
	EC     *ecdsa.PrivateKey
	RSA    *rsa.PrivateKey
	Secret string

	fetches atomic.Int64
	mu      sync.Mutex
	keys    []jose.JSONWebKey
	handler http.HandlerFunc // answers all requests; nil: the issuer answers with its keys
}

// IssuerClaim is the claim iss of the issuer's tokens.
const IssuerClaim = "https://auth.example/auth/v1"

// Start creates keys and serves them. The caller must call Close.
func Start() *Issuer {
	i := &Issuer{EC: NewEC(), RSA: must(rsa.GenerateKey(rand.Reader, 2048)), Secret: "shared " + rand.Text() + rand.Text()}
	i.Publish(PublicJWK("ec", &i.EC.PublicKey), PublicJWK("rsa", &i.RSA.PublicKey))
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		i.mu.Lock()
		handler, set := i.handler, jose.JSONWebKeySet{Keys: i.keys}
		i.mu.Unlock()
		if handler != nil {
			handler(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(set)
	}))
	return i
}

// Environ returns environment variables that make a sidecar accept the issuer's sessions for Velocity.
func (i *Issuer) Environ() []string {
	const session = "KEYWICKET_APIS_VELOCITY_SESSION_"
	return []string{session + "ISSUER=" + IssuerClaim, session + "JWKS_URL=" + i.URL, session + "HS256_SECRET=" + i.Secret}
}

// Fetches returns how often the keys were fetched.
func (i *Issuer) Fetches() int64 { return i.fetches.Load() }

// Publish replaces the published keys.
func (i *Issuer) Publish(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// SetHandler makes the issuer serve requests with the handler instead of the keys. With nil, the issuer serves the keys
// again.
func (i *Issuer) SetHandler(handler http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handler = handler
}

// Token returns a token of the user, signed with the key "ec". Without changes to its claims, the token is valid.
func (i *Issuer) Token(user string, change Fields) string {
	return Sign(jose.ES256, i.EC, "ec", Claims(user, change))
}

// PublicJWK returns a public key in the form (a JWK) in which an issuer publishes the key.
func PublicJWK(id string, key any) jose.JSONWebKey {
	alg := jose.ES256
	if _, ok := key.(*rsa.PublicKey); ok {
		alg = jose.RS256
	}
	return jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(alg), Use: "sig"}
}

// NewEC creates a key for ES256.
func NewEC() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// Fields are the fields of a JSON object.
type Fields = map[string]any

// SessionID is the claim session_id in the result of Claims.
const SessionID = "0b5a2b3c-1111-2222-3333-444455556666"

// Claims returns the claims of a Supabase access token. The parameter `change` replaces claims; a claim with the value nil is
// removed.
func Claims(user string, change Fields) Fields {
	now := time.Now().Unix()
	c := Fields{
		"iss": IssuerClaim, "aud": "authenticated", "exp": now + 3600, "iat": now, "sub": user, "role": "authenticated",
		"session_id": SessionID, "aal": "aal1", "email": "ada@example.com", "phone": "", "is_anonymous": false,
		"amr": []Fields{{"method": "password", "timestamp": now}},
	}
	maps.Copy(c, change)
	for name, value := range c {
		if value == nil {
			delete(c, name)
		}
	}
	return c
}

// Sign creates a token. An empty kid is omitted. A payload of type []byte is signed unchanged.
func Sign(alg jose.SignatureAlgorithm, key any, kid string, payload any) string {
	options := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	return SignWith(alg, key, options, payload)
}

// SignWith creates a token with the given header options.
func SignWith(alg jose.SignatureAlgorithm, key any, options *jose.SignerOptions, payload any) string {
	text, ok := payload.([]byte)
	if !ok {
		text = must(json.Marshal(payload))
	}
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options))
	return must(must(signer.Sign(text)).CompactSerialize())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
