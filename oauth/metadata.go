package oauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/oauth/redirecturi"
)

// validIssuer reports whether the address is valid for an issuer: an https URL without a query or a fragment (RFC 8414, section
// 2; RFC 9207, section 2). An http URL is allowed only with a loopback address, for local development. A path is not
// allowed, because it would change the path of the metadata (RFC 8414, section 3.1) and the path of the cookies.
func validIssuer(address string) bool {
	u, err := url.Parse(address)
	defaultPort := map[string]string{"https": "443", "http": "80"}
	return err == nil && httpsOrLocal(u) && address == u.Scheme+"://"+u.Host &&
		u.Host == strings.ToLower(u.Host) && u.Port() != defaultPort[u.Scheme] // the form that browsers use in the Origin header
}

// validSignIn reports whether users can be redirected to the address, and whether the server can add parameters to the address.
func validSignIn(address string) bool {
	u, err := url.Parse(address)
	if err != nil || !httpsOrLocal(u) || u.User != nil || u.Fragment != "" {
		return false
	}
	_, err = url.ParseQuery(u.RawQuery)
	return err == nil
}

// httpsOrLocal reports whether the URL is an https URL, or an http URL on a loopback address.
func httpsOrLocal(u *url.URL) bool {
	return redirecturi.ValidHost(u) && (u.Scheme == "https" || u.Scheme == "http" && slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname()))
}

// metadata is the endpoint of the server's metadata (RFC 8414, section 2).
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	issuer := s.config.Issuer
	methods := []string{"none", "client_secret_basic", "client_secret_post"}
	body := map[string]any{
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
	if scopes := s.scopeNames(); len(scopes) > 0 { // empty lists are omitted (section 3.2)
		body["scopes_supported"] = scopes
	}
	respond(w, http.StatusOK, body)
}
