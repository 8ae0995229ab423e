package session_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/session"
)

func Example() {
	const issuer, shared = "https://issuer.example/auth/v1", "a shared secret of at least 32 bytes"
	verifier, err := session.New(session.Config{APIs: map[string]authz.API{
		"velocity": {Session: authz.SessionFormat{Issuer: issuer, HS256Secret: shared}},
	}}, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	defer verifier.Close()

	now := time.Now()
	claims := jwt.MapClaims{ // the claims of a Supabase token
		"iss": issuer, "aud": "authenticated", "role": "authenticated", "sub": "ada", "session_id": "session-1", "aal": "aal1",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for _, secret := range []string{shared, "a secret that the issuer does not have"} {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			panic(err)
		}
		verified, err := verifier.Verify(context.Background(), "velocity", authz.Secret(token))
		if err != nil {
			panic(err) // the result is unknown: the verifier could not fetch the keys
		}
		fmt.Printf("user %q, session %q, %q, denial %q\n", verified.Session.UserID, verified.Session.ID, verified.AAL, verified.Denial)
	}
	// Output:
	// user "ada", session "session-1", "aal1", denial ""
	// user "", session "", "", denial "unknown"
}
