// Package issuer stores the grants, codes and tokens of OAuth 2.0. An [Issuer] serves the authorization server.
//
// It never stores a code or token itself, only its SHA-256.
package issuer
