// Package session verifies the JWTs of an issuer's sessions, such as Supabase's (RFC 7515, 7517, 7519 and 8725). It checks
// the form, the algorithm, the claims, and the signature against keys that it fetches and keeps. The directory
// decides who the user is, and whether the session was revoked.
package session
