package session_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/session"
)

// verify calls v.Verify and returns the parts of the result.
func verify(t testing.TB, v *session.Verifier, api string, token authz.Secret) (authz.Session, authz.Reason, error) {
	answer, err := v.Verify(t.Context(), api, token)
	return answer.Session, answer.Denial, err
}

var discard = slog.New(slog.DiscardHandler)

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func sum(text string) []byte {
	s := sha256.Sum256([]byte(text))
	return s[:]
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
