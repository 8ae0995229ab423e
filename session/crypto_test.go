package session_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

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

// coordinates are those of the first key, as a JWK has them.
func coordinates() string {
	text := string(must((&jose.JSONWebKey{Key: &ecKey.PublicKey}).MarshalJSON()))
	return text[strings.Index(text, `"x"`) : len(text)-1]
}
