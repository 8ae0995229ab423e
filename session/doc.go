// Package session verifies the JWTs of an issuer's sessions, such as Supabase's (RFC 7515, 7517, 7519 and 8725). It checks the
// form, the algorithm, the signature and the claims. It fetches and caches the issuer's public keys. It does not check users
// and revocations: package store/directory does.
package session
