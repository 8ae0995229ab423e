// Package session verifies the JWTs of an issuer's sessions, such as Supabase's (RFC 7515, 7517, 7519 and 8725). It checks the
// form, the algorithm, the signature and the claims of a token. It fetches and caches the issuer's public keys. It does not check
// whether the user exists and whether the session is revoked: the package store/directory checks this.
package session
