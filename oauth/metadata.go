package oauth

import "net/http"

// metadata is what the server tells of itself (RFC 8414, section 2).
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	url := s.config.Issuer
	scopes := make([]string, len(s.config.Scopes))
	for i, scope := range s.config.Scopes {
		scopes[i] = scope.Name
	}
	methods := []string{"none", "client_secret_basic", "client_secret_post"}
	respond(w, http.StatusOK, map[string]any{
		"issuer":                                         url,
		"authorization_endpoint":                         url + consentPath,
		"token_endpoint":                                 url + tokenPath,
		"revocation_endpoint":                            url + revokePath,
		"introspection_endpoint":                         url + introspectPath,
		"scopes_supported":                               scopes,
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"code_challenge_methods_supported":               []string{"S256"},
		"token_endpoint_auth_methods_supported":          methods,
		"revocation_endpoint_auth_methods_supported":     methods,
		"introspection_endpoint_auth_methods_supported":  methods[1:],
		"authorization_response_iss_parameter_supported": true,
	})
}
