package envoy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"

	"github.com/keywicket/keywicket/authz"
)

// statuses maps a code to the HTTP status of the denial, and to the gRPC status in the CheckResponse. Envoy sends a gRPC client the
// gRPC status that corresponds to the HTTP status.
var statuses = map[authz.Code]struct {
	http typev3.StatusCode
	grpc codes.Code
}{
	authz.CodeUnauthorized:          {typev3.StatusCode_Unauthorized, codes.Unauthenticated},
	authz.CodeForbidden:             {typev3.StatusCode_Forbidden, codes.PermissionDenied},
	authz.CodeWorkspaceAccessDenied: {typev3.StatusCode_Forbidden, codes.PermissionDenied},
	authz.CodeRequestTooLarge:       {typev3.StatusCode_RequestHeaderFieldsTooLarge, codes.ResourceExhausted},
	authz.CodeUnavailable:           {typev3.StatusCode_ServiceUnavailable, codes.Unavailable},
}

// messages maps a built-in reason to the message for the client.
var messages = map[authz.Reason]string{
	authz.ReasonMissing:              "Send a token in the Authorization header, after the word Bearer.",
	authz.ReasonMalformed:            "The Authorization header does not contain one well-formed token.",
	authz.ReasonUnknown:              "The token is not known.",
	authz.ReasonExpired:              "The token has expired.",
	authz.ReasonRevoked:              "The token was revoked.",
	authz.ReasonUnsupportedAlgorithm: "The token is signed with an algorithm that is not accepted here.",
	authz.ReasonAppToken:             "The token was issued to an app. It is not accepted as the user's own session.",
	authz.ReasonSecondFactorRequired: "Sign in with a second factor.",
	authz.ReasonWorkspaceRequired:    "Send a workspace in the API's workspace header: its id or its slug, as the API expects.",
	authz.ReasonWorkspaceMismatch:    "The token has no access to the workspace in the API's workspace header. Check whether the API expects an id or a slug.",
	authz.ReasonNoRoute:              "No token may use this method and path.",
	authz.ReasonMissingScope:         "The token may not use this route. The route requires all scopes in required_scopes.",
	authz.ReasonTooLarge:             "The request is too large to be checked: send fewer or shorter headers.",
	authz.ReasonUnavailable:          "Access could not be decided. Try again.",
}

// appendDenied appends the fields of a DeniedHttpResponse.
func appendDenied(b []byte, answer *authz.Answer) []byte {
	b = appendMessage(b, 1, func(b []byte) []byte { return appendNumber(b, 1, uint64(httpStatus(answer))) }) //nolint:gosec // 400 to 599
	b = appendHeader(b, "content-type", "application/json")
	var buffer [512]byte // on the stack; large enough for almost every challenge
	if challenge := appendChallenge(buffer[:0], answer); len(challenge) > 0 {
		b = appendHeader(b, "www-authenticate", challenge)
	}
	retryAfter := answer.RetryAfter
	if answer.Code == authz.CodeUnavailable {
		retryAfter = 1
	}
	if retryAfter > 0 {
		b = appendHeader(b, "retry-after", strconv.Itoa(retryAfter))
	}
	return appendMessage(b, 3, func(b []byte) []byte { return appendBody(b, answer) })
}

// httpStatus returns the HTTP status of a denial. Envoy also sends statuses that are not in its enum, such as 418.
func httpStatus(answer *authz.Answer) typev3.StatusCode {
	declared := typev3.StatusCode(answer.Status) //nolint:gosec // 400 to 499
	return cmp.Or(declared, statuses[answer.Code].http, typev3.StatusCode_Forbidden)
}

// appendChallenge appends the value of the WWW-Authenticate header (RFC 6750, section 3). The challenge has no error code if the
// request had no credential (section 3.1). A session without a required second factor gets the challenge of RFC 9470, section 3.
// Every 401 has a challenge (RFC 9110, section 15.5.2). A 403 has a challenge for a missing scope, and for a route that no token
// may use.
//
// If OAuth 2.0 apps can get tokens for the API, every challenge also contains the scopes of the route, and the URL of the API's
// metadata (RFC 9728, section 5.1). With both, an app that knows only the API's address can ask its user for access.
func appendChallenge(b []byte, answer *authz.Answer) []byte {
	insufficientScope := false
	switch answer.Reason {
	case authz.ReasonMissing:
		b = append(b, `Bearer realm="keywicket"`...)
	case authz.ReasonSecondFactorRequired:
		b = append(b, `Bearer realm="keywicket", error="insufficient_user_authentication", `+
			`error_description="a second factor is required", acr_values="`+authz.AAL2+`"`...)
	case authz.ReasonMissingScope, authz.ReasonNoRoute:
		insufficientScope = true
		b = append(b, `Bearer error="insufficient_scope"`...)
	default:
		if httpStatus(answer) != typev3.StatusCode_Unauthorized {
			return b
		}
		b = append(b, `Bearer realm="keywicket", error="invalid_token"`...)
	}
	if insufficientScope || answer.ResourceMetadata != "" {
		b = appendScopes(b, answer)
	}
	if answer.ResourceMetadata != "" {
		b = append(append(append(b, `, resource_metadata="`...), answer.ResourceMetadata...), '"')
	}
	return b
}

// appendScopes appends the attribute `scope` of a challenge. It contains scopes that a token needs together. One scope of any_of
// suffices, so the attribute contains only the first scope of any_of. For a route without scopes, appendScopes appends nothing.
func appendScopes(b []byte, answer *authz.Answer) []byte {
	separator, end := `, scope="`, ""
	for _, scopes := range [...][]string{answer.RequiredScopes, answer.AnyOf[:min(1, len(answer.AnyOf))]} {
		for _, scope := range scopes {
			b = append(append(b, separator...), scope...)
			separator, end = " ", `"`
		}
	}
	return append(b, end...)
}

// appendBody appends the JSON body of a denial.
func appendBody(b []byte, answer *authz.Answer) []byte {
	message := cmp.Or(answer.Message, messages[answer.Reason])
	missingScope := answer.Reason == authz.ReasonMissingScope
	if missingScope && len(answer.AnyOf) > 0 {
		message = "The token may not use this route. The route requires all scopes in required_scopes and one of any_of."
	}
	b = appendQuoted(append(b, `{"error":{"code":`...), string(answer.Code))
	b = appendQuoted(append(b, `,"reason":`...), string(answer.Reason))
	b = appendQuoted(append(b, `,"message":`...), message)
	if missingScope {
		b = appendList(b, `,"required_scopes":[`, answer.RequiredScopes)
		b = appendList(b, `,"any_of":[`, answer.AnyOf)
	}
	b = appendQuoted(append(b, `,"decision_id":`...), answer.ID)
	return append(b, "}}\n"...)
}

// appendList appends a JSON member with an array of strings. The parameter `prefix` is the text before the first string. For an
// empty list, appendList appends nothing.
func appendList(b []byte, prefix string, texts []string) []byte {
	if len(texts) == 0 {
		return b
	}
	b = append(b, prefix...)
	for i, s := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendQuoted(b, s)
	}
	return append(b, ']')
}

// appendQuoted appends a JSON string. Most strings need no escapes, so they need no call of json.Marshal.
func appendQuoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			escaped, err := json.Marshal(s)
			if err != nil {
				panic(fmt.Sprintf("a string cannot be written as JSON: %v", err))
			}
			return append(b, escaped...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
