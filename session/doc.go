// Package session verifies the JWTs of an issuer's sessions, such as Supabase's (RFC 7515, 7517, 7519 and 8725). It checks the
// form, the algorithm, the signature and the claims. It fetches and caches the issuer's public keys. This package does not know
// users and revocations: the directory stores them.
package session
