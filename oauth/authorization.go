package oauth

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/oauth/redirecturi"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/issuer"
)

// authorization is an app's authorization request (RFC 6749, section 4.1.1; RFC 7636, section 4.3).
type authorization struct {
	client      issuer.Client
	redirectURI string
	state       string
	challenge   string
	scopes      []Scope
}

// mistake is an error that must not be sent to the app (RFC 6749, section 4.1.2.1). Possible reasons: the app is unknown, the
// redirect URI is missing, repeated or not registered, or the query is malformed. The user sees the error, and is not redirected.
type mistake struct{ why string }

func (m *mistake) Error() string { return m.why }

// authorization reads the request. The returned error is a [mistake] for the user, a [refusal] (an error for the app), or a failure
// of the server. With a refusal, the returned authorization contains the fields that the redirect to the app needs.
func (s *Server) authorization(r *http.Request) (authorization, error) {
	var a authorization
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return a, &mistake{"The address of this page is malformed. Go back to the app, and start again."}
	}
	if len(query["client_id"]) != 1 || len(query["redirect_uri"]) != 1 {
		return a, &mistake{"The app must send its client_id and its redirect_uri, each exactly once."}
	}
	a.client, err = s.app(r, query.Get("client_id"))
	if errors.Is(err, database.ErrNotFound) {
		return a, &mistake{"The app is not registered here."}
	}
	if err != nil {
		return a, err
	}
	a.redirectURI = query.Get("redirect_uri")
	if !slices.ContainsFunc(a.client.RedirectURIs, func(registered string) bool {
		return redirecturi.Matches(registered, a.redirectURI, a.client.Development)
	}) {
		return a, &mistake{"The app has not registered its redirect_uri."}
	}
	return s.readRequest(a, query)
}

// readRequest reads the other parameters. The app and the redirect URI are already known, so an error in these other parameters is
// a [refusal], which a redirect sends to the app.
func (s *Server) readRequest(a authorization, query url.Values) (authorization, error) {
	if len(query["state"]) == 1 {
		a.state = query.Get("state")
	}
	for _, name := range []string{"response_type", "scope", "state", "code_challenge", "code_challenge_method", "request", "request_uri"} {
		if len(query[name]) > 1 {
			return a, invalidRequest(name + " occurs twice")
		}
	}
	for _, name := range []string{"request", "request_uri"} {
		if query.Get(name) != "" {
			return a, &refusal{Code: name + "_not_supported"} // OpenID Connect Core, section 3.1.2.6
		}
	}
	switch query.Get("response_type") {
	case "code":
	case "":
		return a, invalidRequest("response_type is missing")
	default:
		return a, &refusal{Code: "unsupported_response_type", Description: "response_type must be code"}
	}
	a.challenge = query.Get("code_challenge")
	switch {
	case a.challenge == "":
		return a, invalidRequest("code_challenge is missing (RFC 7636)")
	case query.Get("code_challenge_method") != "S256":
		return a, invalidRequest("code_challenge_method must be S256")
	case !challengeForm.MatchString(a.challenge):
		return a, invalidRequest("code_challenge is not 43 characters of base64url")
	}
	requested := scopesIn(query.Get("scope"))
	if len(requested) == 0 {
		requested = a.client.Scopes // the default (RFC 6749, section 3.3)
	}
	for _, name := range requested {
		i := slices.IndexFunc(s.config.Scopes, func(scope Scope) bool { return scope.Name == name })
		if i < 0 {
			return a, &refusal{Code: "invalid_scope", Description: "a scope is unknown, or apps cannot request it"}
		}
		if !slices.Contains(a.scopes, s.config.Scopes[i]) {
			a.scopes = append(a.scopes, s.config.Scopes[i])
		}
	}
	if len(a.scopes) == 0 {
		return a, &refusal{Code: "invalid_scope", Description: "scope is missing, and the app has registered no scopes"}
	}
	return a, nil
}

// scopesIn splits a list of scopes (RFC 6749, section 3.3). It accepts more than one space between two scopes.
func scopesIn(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ' ' })
}

func (a authorization) scopeNames() []string {
	names := make([]string, len(a.scopes))
	for i, scope := range a.scopes {
		names[i] = scope.Name
	}
	return names
}

// needsWorkspaces reports whether the request contains a scope for the content of workspaces. The user must then grant at least
// one workspace.
func (a authorization) needsWorkspaces() bool {
	return slices.ContainsFunc(a.scopes, func(s Scope) bool { return s.Workspace })
}

// redirectTo returns the URL to which the user is redirected. Its query contains the response to the app (RFC 6749, section
// 4.1.2), the state, and the parameter "iss" (RFC 9207).
func (s *Server) redirectTo(a authorization, response map[string]string) string {
	query := url.Values{}
	for name, value := range response {
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
	return a.redirectURI + separator + query.Encode() // appending is correct, because a redirect URI has no fragment
}
