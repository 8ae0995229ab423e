package oauth

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/store/issuer"
)

// tokens is a successful response (RFC 6749, section 5.1).
type tokens struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`

	repeated bool // the refresh token was used again within [Config.ReuseWindow]
}

// token is the token endpoint (RFC 6749, section 3.2).
func (s *Server) token(r *http.Request) (any, error) {
	p, err := readParameters(r)
	if err != nil {
		return nil, err
	}
	grantType, err := p.required("grant_type")
	if err != nil {
		return nil, err
	}
	handler, ok := map[string]func(*http.Request, parameters, client) (issuer.TokenPair, error){
		"authorization_code": s.exchange, "refresh_token": s.refresh,
	}[grantType]
	if !ok {
		return nil, unsupportedGrantType()
	}
	c, err := s.client(r, p)
	if err != nil {
		return nil, err
	}
	issued, err := handler(r, p, c)
	switch {
	case errors.Is(err, issuer.ErrReused):
		s.log.LogAttrs(r.Context(), slog.LevelWarn, "a code or refresh token was used a second time, so its grant was revoked: somebody may have stolen the code or token",
			slog.String("grant_id", issued.Grant), slog.String("client_id", c.ID), slog.String("grant_type", grantType), slog.String("address", ratelimit.Address(r)))
		return nil, reuseError()
	case errors.Is(err, issuer.ErrGrant):
		return nil, invalidGrant()
	case err != nil:
		return nil, err
	}
	if issued.Repeated {
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "a refresh token was used again within issuer.reuse_window, so tokens were issued",
			slog.String("grant_id", issued.Grant), slog.String("client_id", c.ID), slog.String("address", ratelimit.Address(r)))
	} else {
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "tokens were issued",
			slog.String("grant_id", issued.Grant), slog.String("client_id", c.ID), slog.String("grant_type", grantType))
	}
	return tokens{
		repeated:    issued.Repeated,
		AccessToken: issued.Access.Reveal(), TokenType: "Bearer", ExpiresIn: int(issuer.AccessLifetime.Seconds()),
		RefreshToken: issued.Refresh.Reveal(), Scope: strings.Join(issued.Scopes, " "),
	}, nil
}

// exchange issues tokens for a code (RFC 6749, section 4.1.3; RFC 7636, section 4.6). After a request with the wrong client,
// redirect URI or verifier, the code counts as used, because somebody may have stolen the code.
func (s *Server) exchange(r *http.Request, p parameters, c client) (issuer.TokenPair, error) {
	code, err := p.required("code")
	if err != nil {
		return issuer.TokenPair{}, err
	}
	redirectURI, err := p.required("redirect_uri")
	if err != nil {
		return issuer.TokenPair{}, err
	}
	verifier, err := p.required("code_verifier")
	if err != nil {
		return issuer.TokenPair{}, err
	}
	return s.grants.Exchange(r.Context(), authz.Secret(code), s.config.Format, func(issued issuer.Code) error {
		if issued.Client != c.ID || issued.RedirectURI != redirectURI || !verifierMatches(verifier, issued.Challenge) {
			return invalidGrant()
		}
		return nil
	})
}

// refresh issues tokens for a refresh token, with the same scopes or fewer (RFC 6749, section 6).
func (s *Server) refresh(r *http.Request, p parameters, c client) (issuer.TokenPair, error) {
	token, err := p.required("refresh_token")
	if err != nil {
		return issuer.TokenPair{}, err
	}
	scope, err := p.optional("scope")
	if err != nil {
		return issuer.TokenPair{}, err
	}
	request := issuer.RefreshRequest{Token: authz.Secret(token), Client: c.ID, Format: s.config.Format, ReuseWindow: s.config.ReuseWindow}
	return s.grants.Refresh(r.Context(), request, func(granted []string) ([]string, error) {
		requested := scopesIn(scope)
		if len(requested) == 0 {
			return granted, nil
		}
		for _, scope := range requested {
			if !slices.Contains(granted, scope) {
				return nil, invalidScope()
			}
		}
		slices.Sort(requested)
		return slices.Compact(requested), nil
	})
}
