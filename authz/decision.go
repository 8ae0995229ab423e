package authz

import (
	"fmt"
	"strings"
)

// Code is what the client is told: the error codes of the API documents, REQUEST_TOO_LARGE and UNAVAILABLE.
type Code string

// The codes of a denial.
const (
	CodeUnauthorized          Code = "UNAUTHORIZED"            // 401: velaflows, "Error Responses"
	CodeForbidden             Code = "FORBIDDEN"               // 403: likewise
	CodeWorkspaceAccessDenied Code = "WORKSPACE_ACCESS_DENIED" // 403: likewise
	CodeRequestTooLarge       Code = "REQUEST_TOO_LARGE"       // 431: the request's headers are too large to be checked
	CodeUnavailable           Code = "UNAVAILABLE"             // 503: no decision could be made
)

// Reason says which of a code's causes it was.
type Reason string

// The reasons, under their codes.
const (
	ReasonMissing   Reason = "missing" // UNAUTHORIZED
	ReasonMalformed Reason = "malformed"
	ReasonUnknown   Reason = "unknown"
	ReasonExpired   Reason = "expired"
	ReasonRevoked   Reason = "revoked"

	// The next ones are about session tokens.
	ReasonUnsupportedAlgorithm Reason = "unsupported_algorithm"  // the signature's algorithm is not one that the API takes
	ReasonAppToken             Reason = "app_token"              // the token was given to an app
	ReasonSecondFactorRequired Reason = "second_factor_required" // the user has to sign in with a second factor

	ReasonWorkspaceRequired Reason = "workspace_required" // WORKSPACE_ACCESS_DENIED
	ReasonWorkspaceMismatch Reason = "workspace_mismatch"

	ReasonNoRoute      Reason = "no_route" // FORBIDDEN
	ReasonMissingScope Reason = "missing_scope"

	ReasonTooLarge Reason = "too_large" // REQUEST_TOO_LARGE

	ReasonUnavailable Reason = "unavailable" // UNAVAILABLE
)

var codeOf = map[Reason]Code{
	ReasonMissing:              CodeUnauthorized,
	ReasonMalformed:            CodeUnauthorized,
	ReasonUnknown:              CodeUnauthorized,
	ReasonExpired:              CodeUnauthorized,
	ReasonRevoked:              CodeUnauthorized,
	ReasonUnsupportedAlgorithm: CodeUnauthorized,
	ReasonAppToken:             CodeUnauthorized,
	ReasonSecondFactorRequired: CodeUnauthorized,
	ReasonWorkspaceRequired:    CodeWorkspaceAccessDenied,
	ReasonWorkspaceMismatch:    CodeWorkspaceAccessDenied,
	ReasonNoRoute:              CodeForbidden,
	ReasonMissingScope:         CodeForbidden,
	ReasonTooLarge:             CodeRequestTooLarge,
	ReasonUnavailable:          CodeUnavailable,
}

// Decision is what a policy says of an input. The zero value denies, and is not valid.
type Decision struct {
	Allow bool
	// Code and Reason are empty exactly when Allow is set.
	Code   Code
	Reason Reason
	// RequiredScopes are those of the route, all of them needed; Route is its method and pattern. Both are empty when
	// no route matched.
	RequiredScopes []string
	Route          string
}

// Unavailable is the decision when none can be made. An error ends here, never in an allow.
var Unavailable = Decision{Code: CodeUnavailable, Reason: ReasonUnavailable}

// TooLarge is the decision on a request that is larger than a PEP's adapter checks.
var TooLarge = Decision{Code: CodeRequestTooLarge, Reason: ReasonTooLarge}

func (d Decision) validate() error {
	if d.Allow {
		if d.Code != "" || d.Reason != "" {
			return fmt.Errorf("it allows, with the code %q and the reason %q", d.Code, d.Reason)
		}
		return nil
	}
	for _, scope := range d.RequiredScopes {
		if !ValidScope(scope) {
			return fmt.Errorf("it requires %q, which is no scope", scope)
		}
	}
	if code, ok := codeOf[d.Reason]; !ok || code != d.Code {
		return fmt.Errorf("it denies with the code %q and the reason %q, which do not belong together", d.Code, d.Reason)
	}
	return nil
}

// ValidScope reports whether s can be a scope: RFC 6749, section 3.3, without the comma, which separates scopes on the
// command line. Scopes travel in one header, with blanks between them, and in a quoted string of another.
func ValidScope(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte(`",\`, s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}

// Answer is a decision with what the PEP needs to carry it out.
type Answer struct {
	Decision
	// ID names this decision in the answer, the logs and the upstream's headers: 26 random base32 characters.
	ID  string
	API string
	// Public says that the route is open to everybody; Principal is nil then.
	Public bool
	// Principal is set as soon as the credential was found good, whatever was decided.
	Principal *Principal
	Workspace Workspace
	// WorkspaceHeader is the API's header that names a workspace, with the granted workspace as its value. An empty value
	// means that none was granted: the PEP then removes the header. Empty without an API.
	WorkspaceHeader HeaderValue
	// Detail tells an operator why a credential was denied, where the reason does not. It is for the log alone. Of a
	// credential it holds an algorithm's name, and of one that the issuer has signed its iss and aud; it is bounded.
	Detail string
	// Cache says where the credential was looked up; empty: nowhere.
	Cache CacheResult
}

// HeaderValue is one header, by its lower-case name.
type HeaderValue struct{ Name, Value string }
