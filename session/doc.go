// Package session verifies the JWTs of an issuer's sessions, such as Supabase's: the form, the algorithm, the signature
// against keys that are fetched and kept, and the claims (RFC 7515, 7517, 7519 and 8725). Who the user is, and whether the
// session was revoked, is the directory's to tell.
package session
