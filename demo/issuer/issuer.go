// Package issuer stands for Supabase in the demo: it signs the tokens of sessions with a key of its own, and serves the
// public half.
package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const keysPath = "/auth/v1/.well-known/jwks.json"

// Server is a running issuer.
type Server struct {
	http *http.Server
	base string
	key  *ecdsa.PrivateKey
	id   string // of the key
}

// Start makes a key, and listens on addr, such as 127.0.0.1:0 for a free port.
func Start(addr string) (*Server, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the issuer's key: %w", err)
	}
	s := &Server{key: key, id: rand.Text()}
	public, err := jwkset.NewJWKFromKey(&key.PublicKey, jwkset.JWKOptions{
		Metadata: jwkset.JWKMetadataOptions{ALG: jwkset.AlgES256, KID: s.id, USE: jwkset.UseSig},
	})
	if err != nil {
		return nil, fmt.Errorf("publish the issuer's key: %w", err)
	}
	keys, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{public.Marshal()}})
	if err != nil {
		return nil, fmt.Errorf("publish the issuer's key: %w", err)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the issuer cannot listen on %s: %w", addr, errors.Unwrap(err))
	}
	s.base = "http://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+keysPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(keys)
	})
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.http.Serve(listener) }() // returns at Close
	return s, nil
}

// Close ends the server.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

// Environ has the sidecar take the issuer's sessions.
func (s *Server) Environ() []string {
	return []string{
		"KEYWICKET_APIS_VELOCITY_SESSION_ISSUER=" + s.base + "/auth/v1",
		"KEYWICKET_APIS_VELOCITY_SESSION_JWKS_URL=" + s.base + keysPath,
	}
}

// Token is one of a session that begins now, as Supabase would write it. It is good for so long.
func (s *Server) Token(user, session string, lifetime time.Duration) (string, error) {
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": s.base + "/auth/v1", "aud": "authenticated", "sub": user, "role": "authenticated", "session_id": session,
		"iat": now.Unix(), "exp": now.Add(lifetime).Unix(), "aal": "aal1", "is_anonymous": false,
		"amr": []map[string]any{{"method": "password", "timestamp": now.Unix()}},
	})
	token.Header["kid"] = s.id
	return token.SignedString(s.key)
}
