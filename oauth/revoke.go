package oauth

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/issuer"
)

// revoke is the revocation endpoint (RFC 7009). If the token is a refresh token, the whole grant is revoked. If the token is an
// access token, only this token is revoked. For an unknown token, the endpoint returns no error (section 2.2). The endpoint
// ignores token_type_hint.
func (s *Server) revoke(r *http.Request, p parameters, c client) (any, error) {
	token, err := p.required("token")
	if err != nil {
		return nil, err
	}
	grant, err := s.grants.Revoke(r.Context(), authz.Secret(token), c.ID)
	switch {
	case errors.Is(err, issuer.ErrGrant):
		return nil, invalidGrant() // the token belongs to another app (section 2.1)
	case err != nil:
		return nil, err
	case grant != "":
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "a token was revoked", slog.String("grant_id", grant), slog.String("client_id", c.ID))
	}
	return struct{}{}, nil
}
