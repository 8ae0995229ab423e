package oauth

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

// revoke is the revocation endpoint (RFC 7009). A refresh token ends the grant, an access token itself; one that is not there
// is no error (section 2.2). The hint is not needed.
func (s *Server) revoke(r *http.Request, p parameters, c client) (any, error) {
	token, err := p.required("token")
	if err != nil {
		return nil, err
	}
	if err := s.grants.Revoke(r.Context(), authz.Secret(token), c.ID); errors.Is(err, store.ErrGrant) {
		return nil, invalidGrant() // another app's (section 2.1)
	} else if err != nil {
		return nil, err
	}
	s.log.LogAttrs(r.Context(), slog.LevelInfo, "a token was revoked, if it was there", slog.String("client_id", c.ID))
	return struct{}{}, nil
}
