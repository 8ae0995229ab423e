package oauth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"regexp"
)

// verifierForm is the form of a code_verifier (RFC 7636, section 4.1).
var verifierForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// challengeForm is the form of an S256 challenge (section 4.2): base64url of 32 bytes. The server refuses the method "plain": a
// plain challenge is the verifier itself, so the challenge would reveal the verifier to anybody who sees the request (RFC 9700,
// section 2.1.1).
var challengeForm = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// verifierMatches reports whether the challenge was computed from the verifier (section 4.6).
func verifierMatches(verifier, challenge string) bool {
	if !verifierForm.MatchString(verifier) || !challengeForm.MatchString(challenge) {
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	computed := base64.RawURLEncoding.EncodeToString(sum[:])
	return subtle.ConstantTimeCompare([]byte(computed), []byte(challenge)) == 1
}
