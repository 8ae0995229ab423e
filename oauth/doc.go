// Package oauth is the OAuth 2.0 authorization server: app authorization requests, user consent, and the resulting tokens
// (RFC 6749, with PKCE, RFC 7636, and the practice of RFC 9700). The sidecar knows only the tokens.
package oauth
