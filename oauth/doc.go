// Package oauth is the OAuth 2.0 authorization server (RFC 6749, with PKCE, RFC 7636, and the best practice of RFC 9700). It
// handles the authorization requests of apps, the consent of users, and the resulting tokens. The sidecar uses only the tokens.
package oauth
