// Package oauth is the OAuth 2.0 authorization server (RFC 6749). It requires PKCE (RFC 7636) and follows the best practice of
// RFC 9700. It handles the authorization requests of apps, the consent of users, and the resulting tokens. The sidecar checks
// these tokens without the authorization server.
package oauth
