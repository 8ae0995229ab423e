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

// Code is the error code for the client. It is one of the constants below, or a code that an API declares in its denials.
type Code string

// The codes of a denial.
const (
	CodeUnauthorized          Code = "UNAUTHORIZED"            // HTTP status 401; see "Error Responses" in VelaFlows' API document
	CodeForbidden             Code = "FORBIDDEN"               // HTTP status 403; see "Error Responses" in VelaFlows' API document
	CodeWorkspaceAccessDenied Code = "WORKSPACE_ACCESS_DENIED" // HTTP status 403; see "Error Responses" in VelaFlows' API document
	CodeRequestTooLarge       Code = "REQUEST_TOO_LARGE"       // HTTP status 431; the request's headers are too large for a check
	CodeUnavailable           Code = "UNAVAILABLE"             // HTTP status 503; no decision is possible
)

// Reason is the cause of a denial, more specific than its code.
type Reason string

// The reasons of the built-in codes. The comment at the first reason of each group is the code of the group.
const (
	ReasonMissing   Reason = "missing" // UNAUTHORIZED
	ReasonMalformed Reason = "malformed"
	ReasonUnknown   Reason = "unknown"
	ReasonExpired   Reason = "expired"
	ReasonRevoked   Reason = "revoked"

	// The next three reasons are for session tokens; their code is UNAUTHORIZED too.
	ReasonUnsupportedAlgorithm Reason = "unsupported_algorithm"  // the API does not accept the algorithm of the signature
	ReasonAppToken             Reason = "app_token"              // the token was issued to an app
	ReasonSecondFactorRequired Reason = "second_factor_required" // the user must sign in with a second factor

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

// Decision is the result of a policy for an input. The zero value is a denial without a code, which is invalid.
type Decision struct {
	Allow bool
	// Code and Reason are empty exactly when Allow is set.
	Code   Code
	Reason Reason
	// RequiredScopes are the scopes of the route. A request needs all of them. Route is the method and the path pattern of the
	// route. RequiredScopes and Route are empty if no route matches.
	RequiredScopes []string
	Route          string
	// AnyOf lists more scopes of the route. A request needs at least one of them, in addition to RequiredScopes. If AnyOf is empty,
	// a request needs only RequiredScopes.
	AnyOf []string
	// Headers maps the lower-case names of headers for the upstream to their values. Only an allow has headers. Each name must be
	// one of the API's upstream_headers.
	Headers map[string]string
	// RetryAfter is the Retry-After header for the client, in seconds. 0: no header is sent. Only a denial that the API declares
	// can have this header.
	RetryAfter int
}

// Unavailable is the decision after an error: no decision was possible. An error never leads to an allow.
var Unavailable = Decision{Code: CodeUnavailable, Reason: ReasonUnavailable}

// TooLarge is the decision for a request that exceeds an adapter's size limit.
var TooLarge = Decision{Code: CodeRequestTooLarge, Reason: ReasonTooLarge}

// validate returns an error if the decision is inconsistent. It also returns an error if the decision sets a header that is not in
// the API's upstream_headers. The pair of code and reason must be built in, or the API must declare the pair. The caller writes
// "the policy's decision is invalid: " before the error. In the errors, "it" and "its" refer to the decision.
func (d *Decision) validate(api *API) error {
	if d.RetryAfter < 0 || d.RetryAfter > int(maxRetryAfter.Seconds()) {
		return fmt.Errorf("its retry_after is %d, not 1 to %d seconds", d.RetryAfter, int(maxRetryAfter.Seconds()))
	}
	if d.Allow {
		if d.Code != "" || d.Reason != "" || d.RetryAfter != 0 {
			return fmt.Errorf("it is an allow, but has the code %q, the reason %q and retry_after %d", d.Code, d.Reason, d.RetryAfter)
		}
		return d.validateHeaders(api)
	}
	if len(d.Headers) > 0 {
		return errors.New("it is a denial, but has headers for the upstream")
	}
	for _, scopes := range [...][]string{d.RequiredScopes, d.AnyOf} {
		for _, scope := range scopes {
			if !ValidScope(scope) {
				return fmt.Errorf("it requires %q, which is not a valid scope", scope)
			}
		}
	}
	if code, ok := codeOf[d.Reason]; ok && code == d.Code {
		if d.RetryAfter != 0 {
			return fmt.Errorf("it has a retry_after, but its reason %s is built in and has no retry_after", d.Reason)
		}
		return nil
	}
	if _, ok := api.denial(d.Code, d.Reason); !ok {
		return fmt.Errorf("it has the code %s and the reason %s, which are not a valid pair: "+
			"the pair is not built in, and the API's denials do not list it", quoteIfValid(codeForm, string(d.Code)), quoteIfValid(reasonForm, string(d.Reason)))
	}
	return nil
}

// quoteIfValid quotes a code, a reason or a header name for the log. If the text does not match the parameter `form`, quoteIfValid
// returns only the length of the text, because the text may be a secret from the request.
func quoteIfValid(form *regexp.Regexp, text string) string {
	if !form.MatchString(text) {
		return fmt.Sprintf("(malformed, %d bytes)", len(text))
	}
	return strconv.Quote(text)
}

var headerForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`) // names that an error may quote

// validateHeaders validates the headers for the upstream. Its errors contain no value: a value may be personal data.
func (d *Decision) validateHeaders(api *API) error {
	for name, value := range d.Headers {
		switch {
		case !slices.Contains(api.UpstreamHeaders, name):
			return fmt.Errorf("it sets the header %s, which the API's upstream_headers do not list", quoteIfValid(headerForm, name))
		case !httpguts.ValidHeaderFieldValue(value) || !utf8.ValidString(value):
			return fmt.Errorf("its value for %s is not a valid header value", name)
		}
	}
	return nil
}

// ValidScope reports whether s is a valid scope (RFC 6749, section 3.3). In addition, a comma is not allowed, because it separates
// scopes on the command line. Headers contain scopes in a quoted string, with spaces between them, so a scope has no space, quote
// or backslash.
func ValidScope(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte(`",\`, s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}

// Answer is a decision, with the data that the PEP (policy enforcement point, such as Envoy) needs to enforce the decision.
type Answer struct {
	Decision
	// ID identifies this decision in the response to the PEP, in the logs, and in the headers for the upstream. It has 26 random
	// base32 characters, from [NewID].
	ID string
	// API is the name of the request's API; empty: the API is unknown.
	API string
	// ResourceMetadata is the URL of the API's OAuth 2.0 metadata (RFC 9728); empty: no OAuth 2.0 app can get a token for the API.
	ResourceMetadata string
	// Public means that the route is open without a credential. If Public is set, Principal is nil.
	Public bool
	// Principal is set if the credential is valid, whether the request is allowed or denied.
	Principal *Principal
	Workspace Workspace
	// WorkspaceHeader is the API's workspace header, with the granted workspace as its value. An empty value means that no
	// workspace was granted, and the PEP removes the header. Both name and value are empty if the API is unknown.
	WorkspaceHeader HeaderValue
	// UpstreamHeaders are the upstream_headers of all APIs, with the values that the policy of the request's API has set. The PEP
	// removes a header with an empty value.
	UpstreamHeaders []HeaderValue
	// Status (an HTTP status) and Message are set for a denial that the API declares. For every other answer, Status is 0 and
	// Message is empty.
	Status  int
	Message string
	// Detail explains a denial to an operator if the reason alone does not explain it. Detail is for the log only, and its length
	// is bounded. Detail may contain the name of a credential's algorithm. For a credential that the issuer signed, Detail may
	// contain the claims iss and aud.
	Detail string
	// Cache says where the result of the look-up came from, such as the cache or the database. It is empty if there was
	// no look-up, or if the look-up failed.
	Cache CacheResult
}

// HeaderValue is one header. Its name is in lower case.
type HeaderValue struct{ Name, Value string }

// idLength is the length of an Answer's ID: 26 characters of five bits each.
const idLength = 26

// NewID returns an ID for an Answer. An ID must be unique, but is not a secret. So math/rand/v2 is good enough. This package needs
// no system call for each ID.
func NewID() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" // base32, RFC 4648
	var id [idLength]byte
	var bits uint64
	for i := range id {
		if i%12 == 0 { // 12 characters use 60 bits
			bits = rand.Uint64() //nolint:gosec // ChaCha8, seeded by the system
		}
		id[i] = alphabet[bits%32]
		bits /= 32
	}
	return string(id[:])
}
