// Package issuer stores the grants, codes and tokens of OAuth 2.0. An [Issuer] serves the authorization server.
//
// The package never stores a code or token. It stores only the SHA-256 of the code or token.
package issuer
