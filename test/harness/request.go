package harness

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/demo/upstream"
	"github.com/keywicket/keywicket/test/product"
)

// Request is a request as a client sends it.
type Request struct {
	API    string // velaflows or velocity
	Method string
	Path   string
	Header [][2]string // in order; a name may occur twice
}

// NewRequest returns a request to the API. The parameter `line` is a method and a path. If token or workspace is empty, the
// request does not have this header.
func NewRequest(api, line, token, workspace string, more ...[2]string) Request {
	method, path, _ := strings.Cut(line, " ")
	r := Request{API: api, Method: method, Path: path, Header: more}
	if token != "" {
		r.Header = append(r.Header, [2]string{"Authorization", "Bearer " + token})
	}
	if workspace != "" {
		r.Header = append(r.Header, [2]string{product.WorkspaceHeaders[api], workspace})
	}
	return r
}

// Conversations is a route of VelaFlows that needs the scope inbox:read.
const Conversations = "GET /api/v1/inbox/conversations"

// Unavailable is the outcome of a check that the sidecar could not decide.
const Unavailable = "UNAVAILABLE unavailable"

// Response is the result of a request. If the test decided the request in its own process, only the outcome and the required
// scopes are set.
type Response struct {
	Outcome        string // "allow", or code and reason: "FORBIDDEN missing_scope"
	RequiredScopes []string

	Status int
	Header http.Header
	Body   string
	Echo   upstream.Echo // of an allowed request
}

// challenges maps an outcome to the value of WWW-Authenticate. %s represents the required scopes. WORKSPACE_ACCESS_DENIED
// has no challenge.
var challenges = map[string]string{
	"UNAUTHORIZED missing":    `Bearer realm="keywicket"`,
	"UNAUTHORIZED malformed":  `Bearer realm="keywicket", error="invalid_token"`,
	"UNAUTHORIZED unknown":    `Bearer realm="keywicket", error="invalid_token"`,
	"UNAUTHORIZED expired":    `Bearer realm="keywicket", error="invalid_token"`,
	"UNAUTHORIZED revoked":    `Bearer realm="keywicket", error="invalid_token"`,
	"FORBIDDEN missing_scope": `Bearer error="insufficient_scope", scope="%s"`,
	"FORBIDDEN no_route":      `Bearer error="insufficient_scope"`,
}

var statuses = map[string]int{"allow": 200, "UNAUTHORIZED": 401, "FORBIDDEN": 403, "WORKSPACE_ACCESS_DENIED": 403}

// HasOutcome returns an error if the response differs from the documented response for the outcome. Through Envoy, only a
// response with the reason missing_scope contains the required scopes.
func (a Response) HasOutcome(outcome string, required ...string) error {
	if outcome != "FORBIDDEN missing_scope" {
		required = nil
	}
	returned := a.RequiredScopes
	inProcess := a.Header == nil
	if inProcess && required == nil {
		returned = nil // in process, every response contains the required scopes
	}
	switch {
	case a.Outcome != outcome:
		return fmt.Errorf("%s, not %s", a.Outcome, outcome)
	case !slices.Equal(returned, required):
		return fmt.Errorf("%s: the required scopes are %q, not %q", outcome, returned, required)
	case inProcess:
		return nil
	}
	code, _, _ := strings.Cut(outcome, " ")
	challenge := strings.ReplaceAll(challenges[outcome], "%s", strings.Join(required, " "))
	switch {
	case a.Status != statuses[code]:
		return fmt.Errorf("%s has the status %d, not %d", outcome, a.Status, statuses[code])
	case a.Header.Get("Content-Type") != "application/json":
		return fmt.Errorf("%s has the type %q", outcome, a.Header.Get("Content-Type"))
	case a.Header.Get("WWW-Authenticate") != challenge:
		return fmt.Errorf("%s: WWW-Authenticate is %q, not %q", outcome, a.Header.Get("WWW-Authenticate"), challenge)
	}
	return nil
}
