// Package issuer stores the grants, codes and tokens of OAuth 2.0. The authorization server (package oauth) reads and writes them
// through an [Issuer].
//
// The package stores only the SHA-256 of a code or token, and never the code or token itself.
package issuer
