package oauth

import (
	"errors"
	"net/http"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/issuer"
)

// introspection is the response of RFC 7662, section 2.2. For an inactive token, the response contains only the field "active",
// which is false.
type introspection struct {
	Active    bool   `json:"active"`
	Scope     string `json:"scope,omitempty"`
	ClientID  string `json:"client_id,omitempty"`
	Subject   string `json:"sub,omitempty"`
	TokenType string `json:"token_type,omitempty"`
	ExpiresAt int64  `json:"exp,omitempty"`
	IssuedAt  int64  `json:"iat,omitempty"`
	Issuer    string `json:"iss,omitempty"`
}

// introspect is the introspection endpoint. The app must authenticate with a secret. Otherwise anybody could use the endpoint to
// search for valid tokens (RFC 7662, section 2.1). For a token of another app, the response is the same as for an unknown token:
// inactive.
func (s *Server) introspect(r *http.Request, p parameters, c client) (any, error) {
	if !c.authenticated {
		return nil, invalidClient()
	}
	token, err := p.required("token")
	if err != nil {
		return nil, err
	}
	found, err := s.grants.Introspect(r.Context(), authz.Secret(token))
	switch {
	case errors.Is(err, issuer.ErrGrant) || err == nil && found.Client != c.ID:
		return introspection{}, nil
	case err != nil:
		return nil, err
	}
	return introspection{
		Active: true, Scope: strings.Join(found.Scopes, " "), ClientID: found.Client, Subject: found.User, TokenType: "Bearer",
		ExpiresAt: found.ExpiresAt.Unix(), IssuedAt: found.CreatedAt.Unix(), Issuer: s.config.Issuer,
	}, nil
}
