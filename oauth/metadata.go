package oauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// validIssuer is RFC 8414, section 2, and RFC 9207, section 2: https, and neither a query nor a fragment. http is for trying out,
// on this machine. There is no path: the metadata would be elsewhere then (RFC 8414, section 3.1), and so would the cookies.
func validIssuer(address string) bool {
	u, err := url.Parse(address)
	ofScheme := map[string]string{"https": "443", "http": "80"}
	return err == nil && secureEnough(u) && address == u.Scheme+"://"+u.Host &&
		u.Host == strings.ToLower(u.Host) && u.Port() != ofScheme[u.Scheme] // as browsers write an origin
}

// validSignIn says that users can be sent there, and that a parameter can be added.
func validSignIn(address string) bool {
	u, err := url.Parse(address)
	if err != nil || !secureEnough(u) || u.User != nil || u.Fragment != "" {
		return false
	}
	_, err = url.ParseQuery(u.RawQuery)
	return err == nil
}

func secureEnough(u *url.URL) bool {
	return validHost(u) && (u.Scheme == "https" || u.Scheme == "http" && slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname()))
}

// metadata is the server's description of itself (RFC 8414, section 2).
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	issuer := s.config.Issuer
	scopes := make([]string, len(s.config.Scopes))
	for i, scope := range s.config.Scopes {
		scopes[i] = scope.Name
	}
	methods := []string{"none", "client_secret_basic", "client_secret_post"}
	told := map[string]any{
		"issuer":                                         issuer,
		"authorization_endpoint":                         issuer + consentPath,
		"token_endpoint":                                 issuer + tokenPath,
		"revocation_endpoint":                            issuer + revokePath,
		"introspection_endpoint":                         issuer + introspectPath,
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"code_challenge_methods_supported":               []string{"S256"},
		"token_endpoint_auth_methods_supported":          methods,
		"revocation_endpoint_auth_methods_supported":     methods,
		"introspection_endpoint_auth_methods_supported":  methods[1:],
		"authorization_response_iss_parameter_supported": true,
	}
	if len(scopes) > 0 { // what has no elements is left out (section 3.2)
		told["scopes_supported"] = scopes
	}
	respond(w, http.StatusOK, told)
}
