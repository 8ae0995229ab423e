// Package session verifies the JWTs of an issuer's sessions, such as Supabase's (RFC 7515, 7517, 7519 and 8725). It checks the
// form, the algorithm, the signature and the claims. It fetches the public keys and keeps them. The directory decides who the
// user is, and whether the session was revoked.
package session
