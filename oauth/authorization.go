package oauth

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/store"
)

// authorization is what an app asks a user for (RFC 6749, section 4.1.1; RFC 7636, section 4.3).
type authorization struct {
	client      store.Client
	redirectURI string
	state       string
	challenge   string
	scopes      []Scope
}

// mistake is an error that must not go to the app: the app is unknown, or its redirect URI is not registered (RFC 6749,
// section 4.1.2.1). The user sees the error, and is never redirected.
type mistake struct{ why string }

func (m *mistake) Error() string { return m.why }

// authorization reads the request. Its error is a [mistake], a [refusal] for the app, or a failure of the server. With a
// refusal, it fills the fields that are needed to answer the app.
func (s *Server) authorization(r *http.Request) (authorization, error) {
	var a authorization
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return a, &mistake{"The address is not one that an app could have made."}
	}
	if len(query["client_id"]) != 1 || len(query["redirect_uri"]) != 1 {
		return a, &mistake{"The app has to say once who it is, and once where to go back to."}
	}
	a.client, err = s.app(r, query.Get("client_id"))
	if errors.Is(err, store.ErrNotFound) {
		return a, &mistake{"There is no such app."}
	}
	if err != nil {
		return a, err
	}
	a.redirectURI = query.Get("redirect_uri")
	if !slices.ContainsFunc(a.client.RedirectURIs, func(registered string) bool { return RedirectURIMatches(registered, a.redirectURI) }) {
		return a, &mistake{"The app has not registered the address that it wants to go back to."}
	}
	return s.asked(a, query)
}

// asked reads what can be refused to the app itself.
func (s *Server) asked(a authorization, query url.Values) (authorization, error) {
	if len(query["state"]) == 1 {
		a.state = query.Get("state")
	}
	for name, values := range query {
		if len(values) > 1 {
			return a, invalidRequest("a parameter is there twice")
		}
		if (name == "request" || name == "request_uri") && values[0] != "" {
			return a, &refusal{Code: name + "_not_supported"} // OpenID Connect Core, section 3.1.2.6
		}
	}
	if query.Get("response_type") != "code" {
		return a, &refusal{Code: "unsupported_response_type", Description: "response_type is code"}
	}
	a.challenge = query.Get("code_challenge")
	switch {
	case a.challenge == "":
		return a, invalidRequest("code_challenge is missing (RFC 7636)")
	case query.Get("code_challenge_method") != "S256":
		return a, invalidRequest("code_challenge_method is S256")
	case !challengeForm.MatchString(a.challenge):
		return a, invalidRequest("code_challenge is not 43 characters of base64url")
	}
	for _, name := range scopesIn(query.Get("scope")) {
		i := slices.IndexFunc(s.config.Scopes, func(scope Scope) bool { return scope.Name == name })
		if i < 0 {
			return a, &refusal{Code: "invalid_scope", Description: "a scope is not one that an app can ask for"}
		}
		if !slices.Contains(a.scopes, s.config.Scopes[i]) {
			a.scopes = append(a.scopes, s.config.Scopes[i])
		}
	}
	if len(a.scopes) == 0 {
		return a, &refusal{Code: "invalid_scope", Description: "scope is missing"}
	}
	return a, nil
}

// scopesIn reads a list (RFC 6749, section 3.3). More blanks than one do no harm.
func scopesIn(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ' ' })
}

func (a authorization) names() []string {
	names := make([]string, len(a.scopes))
	for i, scope := range a.scopes {
		names[i] = scope.Name
	}
	return names
}

// ofWorkspaces says that a scope is about what is in workspaces, some of which have to be granted then.
func (a authorization) ofWorkspaces() bool {
	return slices.ContainsFunc(a.scopes, func(s Scope) bool { return s.Workspace })
}

// back is where the user's browser is sent with the answer (RFC 6749, section 4.1.2), which says whose it is (RFC 9207).
func (s *Server) back(a authorization, answer map[string]string) string {
	query := url.Values{}
	for name, value := range answer {
		if value != "" {
			query.Set(name, value)
		}
	}
	if a.state != "" {
		query.Set("state", a.state)
	}
	query.Set("iss", s.config.Issuer)
	separator := "?"
	if strings.Contains(a.redirectURI, "?") {
		separator = "&"
	}
	return a.redirectURI + separator + query.Encode() // which has no fragment
}
