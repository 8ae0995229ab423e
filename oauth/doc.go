// Package oauth is the authorization server of OAuth 2.0: which apps may ask, what users grant them, and the tokens that come
// of it (RFC 6749, with PKCE, RFC 7636, and the practice of RFC 9700). The sidecar knows only the tokens.
package oauth
