package authz

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
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
	// AnyOf are scopes of the route of which one is needed, beside RequiredScopes. Empty: none is.
	AnyOf []string
	// Headers are for the upstream, of an allow: lower-case name → value. The names are the API's upstream_headers.
	Headers map[string]string
	// RetryAfter is sent to the client, in seconds; 0: none is. Only of a denial that the API declares.
	RetryAfter int
}

// Unavailable is the decision when none can be made. An error ends here, never in an allow.
var Unavailable = Decision{Code: CodeUnavailable, Reason: ReasonUnavailable}

// TooLarge is the decision on a request that is larger than a PEP's adapter checks.
var TooLarge = Decision{Code: CodeRequestTooLarge, Reason: ReasonTooLarge}

// validate holds a decision against what the API declares.
func (d *Decision) validate(api *API) error {
	if d.RetryAfter < 0 || d.RetryAfter > int(maxRetryAfter.Seconds()) {
		return fmt.Errorf("its retry_after is %d, not 1 to %d seconds", d.RetryAfter, int(maxRetryAfter.Seconds()))
	}
	if d.Allow {
		if d.Code != "" || d.Reason != "" || d.RetryAfter != 0 {
			return fmt.Errorf("it allows, with the code %q, the reason %q and retry_after %d", d.Code, d.Reason, d.RetryAfter)
		}
		return d.validateHeaders(api)
	}
	if len(d.Headers) > 0 {
		return errors.New("it denies, with headers for the upstream")
	}
	for _, scopes := range [...][]string{d.RequiredScopes, d.AnyOf} {
		for _, scope := range scopes {
			if !ValidScope(scope) {
				return fmt.Errorf("it requires %q, which is no scope", scope)
			}
		}
	}
	if code, ok := codeOf[d.Reason]; ok && code == d.Code {
		if d.RetryAfter != 0 {
			return fmt.Errorf("it denies with the reason %s, which is built in and has no retry_after", d.Reason)
		}
		return nil
	}
	if _, ok := api.denial(d.Code, d.Reason); !ok {
		return fmt.Errorf("it denies with the code %s and the reason %s, which do not belong together: "+
			"they are not built in, and the API's denials do not have them", word(codeForm, string(d.Code)), word(reasonForm, string(d.Reason)))
	}
	return nil
}

// word quotes a code or a reason for the log. What has another form may be a part of the request, and secret.
func word(form *regexp.Regexp, text string) string {
	if !form.MatchString(text) {
		return fmt.Sprintf("of another form, with %d bytes", len(text))
	}
	return strconv.Quote(text)
}

// validateHeaders does not say a value in its error: it may tell of the user.
func (d *Decision) validateHeaders(api *API) error {
	for name, value := range d.Headers {
		switch {
		case !slices.Contains(api.UpstreamHeaders, name):
			return fmt.Errorf("it sets the header %s, which the API's upstream_headers do not have", word(headerForm, name))
		case !httpguts.ValidHeaderFieldValue(value) || !utf8.ValidString(value):
			return fmt.Errorf("its value for %s cannot stand in a header", name)
		}
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
	// ID names this decision in the answer, the logs and the upstream's headers: 26 random base32 characters, of [NewID].
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
	// UpstreamHeaders are all that a policy of any API may set, with what it has set. The PEP removes those with an empty value.
	UpstreamHeaders []HeaderValue
	// Status, an HTTP status, and Message are those of a denial that the API declares; otherwise 0 and empty.
	Status  int
	Message string
	// Detail tells an operator why a credential was denied, where the reason does not. It is for the log alone. Of a
	// credential it holds an algorithm's name, and of one that the issuer has signed its iss and aud; it is bounded.
	Detail string
	// Cache says where the credential was looked up; empty: nowhere.
	Cache CacheResult
}

// HeaderValue is one header, by its lower-case name.
type HeaderValue struct{ Name, Value string }

// idLength is that of an Answer's ID: 26 characters of five bits.
const idLength = 26

// NewID makes an Answer's ID. It is unique and no secret, so the generator that asks the system for each one is not needed.
func NewID() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" // base32, RFC 4648
	var id [idLength]byte
	var bits uint64
	for i := range id {
		if i%12 == 0 { // 12 characters take 60 bits
			bits = rand.Uint64() //nolint:gosec // ChaCha8, seeded by the system
		}
		id[i] = alphabet[bits%32]
		bits /= 32
	}
	return string(id[:])
}
