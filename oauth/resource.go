package oauth

import (
	"errors"
	"net/http"
	"strings"
)

// resourcePath is the path of the API's metadata.
const resourcePath = "/.well-known/oauth-protected-resource"

var errIssuerURL = errors.New("url: give the issuer's own URL, such as https://velocity.quest, without a slash at the end; http is only for 127.0.0.1, [::1] and localhost")

// ResourceMetadataURL returns the URL of the metadata of the API at the issuer's URL. The metadata names the issuer (RFC 9728). The
// URL needs no escapes in a header. The error for an invalid URL is the error of [NewServer].
func ResourceMetadataURL(issuer string) (string, error) {
	if !validIssuer(issuer) {
		return "", errIssuerURL
	}
	return issuer + resourcePath, nil
}

// resource is the endpoint of the API's metadata (RFC 9728, section 2). The issuer and the API have the same host. So every address on
// this host is a valid resource, with the same metadata. The path of the metadata ends with the path of the resource (section 3.1), and
// the response contains the address of this resource (section 3.3).
func (s *Server) resource(w http.ResponseWriter, r *http.Request) {
	body := map[string]any{
		"resource":                 s.config.Issuer + strings.TrimPrefix(r.URL.RequestURI(), resourcePath),
		"authorization_servers":    []string{s.config.Issuer},
		"bearer_methods_supported": []string{"header"},
	}
	if scopes := s.scopeNames(); len(scopes) > 0 { // empty lists are omitted (section 3.2)
		body["scopes_supported"] = scopes
	}
	respond(w, http.StatusOK, body)
}

// scopeNames returns the names of the scopes that apps may request.
func (s *Server) scopeNames() []string {
	names := make([]string, len(s.config.Scopes))
	for i, scope := range s.config.Scopes {
		names[i] = scope.Name
	}
	return names
}
