package envoy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keywicket/keywicket/authz"
)

// response is the only constructor of an answer to Envoy: it appends a CheckResponse in protobuf's wire format. The status is
// OK when the answer allows, and at no other time. Envoy takes a response without a status for an allow, even beside a denied
// response of 403. The headers are those of the request; forged ones are removed from what is allowed.
//
// It writes bytes, because making the objects of a CheckResponse first costs more than the decision. reference_test.go makes
// the objects, and compares.
func response(b []byte, answer *authz.Answer, forwardCredential bool, header authz.Fields) []byte {
	code := codes.PermissionDenied // also for a code that an API declares
	if answer.Allow {
		code = codes.OK
	} else if d, ok := denials[answer.Code]; ok {
		code = d.grpc
	}
	var scopes string
	if answer.Principal != nil {
		scopes = strings.Join(answer.Principal.Scopes, " ")
	}
	b = appendMessage(b, 1, func(b []byte) []byte { return appendNumber(b, 1, uint64(code)) }) // status
	if code == codes.OK {
		b = appendMessage(b, 3, func(b []byte) []byte { return allowed(b, answer, scopes, forwardCredential, header) }) // ok_response
	} else {
		b = appendMessage(b, 2, func(b []byte) []byte { return denied(b, answer) }) // denied_response
	}
	return appendMessage(b, 4, func(b []byte) []byte { return dynamicMetadata(b, answer, scopes) }) // dynamic_metadata
}

// appendMessage appends a field that holds a message. write appends the message itself.
func appendMessage(b []byte, field protowire.Number, write func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	const room = 2 // for the length of up to 16 KiB, which most messages have
	start := len(b) + room
	b = write(append(b, 0, 0))
	size := uint64(len(b) - start)
	for n := room; n < protowire.SizeVarint(size); n++ {
		b = append(b, 0)
	}
	body := start - room + protowire.SizeVarint(size)
	copy(b[body:], b[start:start+int(size)]) //nolint:gosec // a length
	protowire.AppendVarint(b[:start-room], size)
	return b[:body+int(size)] //nolint:gosec // a length
}

// appendText appends a field that holds a text; an empty one is the default, and left out.
func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// appendNumber appends a field that holds a number; 0 is the default, and left out.
func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

// fieldSize is what a field takes that has n bytes, a tag and a length.
func fieldSize(n int) int { return 1 + protowire.SizeBytes(n) }

// appendLength appends the beginning of a field that has n bytes.
func appendLength(b []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(n)) //nolint:gosec // a length
}

// appendHeader appends a header in field 2 that replaces any other of its name, in an OkHttpResponse and a DeniedHttpResponse alike.
func appendHeader[T string | []byte](b []byte, name string, value T) []byte {
	header := fieldSize(len(name)) + fieldSize(len(value))
	b = appendLength(b, 2, fieldSize(header)+2)
	b = appendLength(b, 1, header)
	b = append(appendLength(b, 1, len(name)), name...)
	b = append(appendLength(b, 2, len(value)), value...)
	return appendNumber(b, 3, uint64(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
}

// denials: code → what Envoy answers the client, and a gRPC client (gRPC's own mapping of the HTTP status).
var denials = map[authz.Code]struct {
	http typev3.StatusCode
	grpc codes.Code
}{
	authz.CodeUnauthorized:          {typev3.StatusCode_Unauthorized, codes.Unauthenticated},
	authz.CodeForbidden:             {typev3.StatusCode_Forbidden, codes.PermissionDenied},
	authz.CodeWorkspaceAccessDenied: {typev3.StatusCode_Forbidden, codes.PermissionDenied},
	authz.CodeRequestTooLarge:       {typev3.StatusCode_RequestHeaderFieldsTooLarge, codes.ResourceExhausted},
	authz.CodeUnavailable:           {typev3.StatusCode_ServiceUnavailable, codes.Unavailable},
}

var messages = map[authz.Reason]string{
	authz.ReasonMissing:              "Send a token in the Authorization header, after the word Bearer.",
	authz.ReasonMalformed:            "The Authorization header does not hold one well-formed token.",
	authz.ReasonUnknown:              "The token is not known.",
	authz.ReasonExpired:              "The token has expired.",
	authz.ReasonRevoked:              "The token was revoked.",
	authz.ReasonUnsupportedAlgorithm: "The token is signed with an algorithm that is not accepted here.",
	authz.ReasonAppToken:             "The token was issued to an app. It is not accepted as the user's own session.",
	authz.ReasonSecondFactorRequired: "Sign in with a second factor.",
	authz.ReasonWorkspaceRequired:    "Name the workspace in the API's workspace header.",
	authz.ReasonWorkspaceMismatch:    "The token has no access to the requested workspace.",
	authz.ReasonNoRoute:              "No token may use this method and path.",
	authz.ReasonMissingScope:         "The token may not use this route: all of its required scopes are needed.",
	authz.ReasonTooLarge:             "The request is too large to be checked: send fewer or shorter headers.",
	authz.ReasonUnavailable:          "Access could not be decided. Try again.",
}

// prefix of the headers that the upstream trusts, because only the sidecar sets them.
const prefix = "x-keywicket-"

// identity are the headers that tell the upstream of an allowed request, in the order of identityOf.
var identity = []string{
	prefix + "subject", prefix + "kind", prefix + "api", prefix + "workspace-id", prefix + "workspace-slug", prefix + "user-id",
	prefix + "scopes", prefix + "aal", prefix + "environment", prefix + "decision-id",
}

// identityOf are the values of these headers. Empty: nothing to tell.
func identityOf(answer *authz.Answer, scopes string) [10]string {
	var p authz.Principal
	if answer.Principal != nil {
		p = *answer.Principal
	}
	return [...]string{
		p.ID, string(p.Kind), answer.API, answer.Workspace.ID, answer.Workspace.Slug, p.UserID,
		scopes, p.AAL, string(p.Environment), answer.ID,
	}
}

// expressible refuses values with line breaks, which would start another header, and values that are not UTF-8, which protobuf
// refuses. The store has none, unless its database lets them in; a user's id is free text.
func expressible(answer *authz.Answer) error {
	refused := func(value string) bool { return !httpguts.ValidHeaderFieldValue(value) || !utf8.ValidString(value) }
	for i, value := range identityOf(answer, "") {
		if refused(value) {
			return fmt.Errorf("the value for %s cannot stand in a header", identity[i])
		}
	}
	if answer.Principal != nil && slices.ContainsFunc(answer.Principal.Scopes, refused) {
		return errors.New("the value for x-keywicket-scopes cannot stand in a header")
	}
	return nil
}

// allowed appends the fields of an OkHttpResponse. It sets every identity header and the API's own headers, or removes it,
// whatever the client sent under its name. None is in both lists: in Envoy a removal beats a set.
func allowed(b []byte, answer *authz.Answer, scopes string, forwardCredential bool, header authz.Fields) []byte {
	own := func(name, value string) {
		if value == "" {
			b = appendRemoval(b, name)
		} else {
			b = appendHeader(b, name, value)
		}
	}
	for i, value := range identityOf(answer, scopes) {
		own(identity[i], value)
	}
	ofAPI := answer.UpstreamHeaders
	if h := answer.WorkspaceHeader; h.Name != "" {
		ofAPI = append(slices.Clip(ofAPI), h)
	}
	for _, h := range ofAPI {
		own(h.Name, h.Value)
	}
	b = append(b, removed...)
	for _, name := range forged(header, ofAPI) {
		b = appendRemoval(b, name)
	}
	if !forwardCredential && !answer.Public {
		b = appendRemoval(b, authz.AuthorizationHeader)
	}
	return b
}

// appendRemoval appends the name of a header that the request loses: headers_to_remove of an OkHttpResponse.
func appendRemoval(b []byte, name string) []byte { return appendText(b, 5, name) }

// removed are the overriding headers, as they are removed each time.
var removed = func() (b []byte) {
	for _, name := range overriding {
		b = appendRemoval(b, name)
	}
	return b
}()

// denied appends the fields of a DeniedHttpResponse.
func denied(b []byte, answer *authz.Answer) []byte {
	b = appendMessage(b, 1, func(b []byte) []byte { return appendNumber(b, 1, uint64(httpStatus(answer))) }) //nolint:gosec // 400 to 599
	b = appendHeader(b, "content-type", "application/json")
	var room [128]byte
	if challenge := appendChallenge(room[:0], answer); len(challenge) > 0 {
		b = appendHeader(b, "www-authenticate", challenge)
	}
	retryAfter := answer.RetryAfter
	if answer.Code == authz.CodeUnavailable {
		retryAfter = 1
	}
	if retryAfter > 0 {
		b = appendHeader(b, "retry-after", strconv.Itoa(retryAfter))
	}
	return appendMessage(b, 3, func(b []byte) []byte { return body(b, answer) })
}

// body appends the JSON text that a client is answered.
func body(b []byte, answer *authz.Answer) []byte {
	told := cmp.Or(answer.Message, messages[answer.Reason])
	missing := answer.Reason == authz.ReasonMissingScope
	if missing && len(answer.AnyOf) > 0 {
		told = "The token may not use this route: all of required_scopes and one of any_of are needed."
	}
	b = appendQuoted(append(b, `{"error":{"code":`...), string(answer.Code))
	b = appendQuoted(append(b, `,"reason":`...), string(answer.Reason))
	b = appendQuoted(append(b, `,"message":`...), told)
	if missing {
		b = appendList(b, `,"required_scopes":[`, answer.RequiredScopes)
		b = appendList(b, `,"any_of":[`, answer.AnyOf)
	}
	b = appendQuoted(append(b, `,"decision_id":`...), answer.ID)
	return append(b, "}}\n"...)
}

// appendList appends a member that holds texts, if there are any.
func appendList(b []byte, begin string, texts []string) []byte {
	if len(texts) == 0 {
		return b
	}
	b = append(b, begin...)
	for i, s := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendQuoted(b, s)
	}
	return append(b, ']')
}

// appendQuoted appends a text as a string of JSON. Most hold nothing that has to be escaped.
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

// httpStatus is that of a denial. Envoy's enum lacks some statuses, such as 418, but Envoy sends them.
func httpStatus(answer *authz.Answer) typev3.StatusCode {
	declared := typev3.StatusCode(answer.Status) //nolint:gosec // 400 to 499
	return cmp.Or(declared, denials[answer.Code].http, typev3.StatusCode_Forbidden)
}

// appendChallenge appends the WWW-Authenticate header of RFC 6750, section 3: without an error code when no credential was
// presented (section 3.1). A session that lacks the second factor gets the challenge of RFC 9470, section 3. Every 401 has a
// challenge (RFC 9110, section 15.5.2). A 403 has one for a missing scope, and where no token may use the route.
func appendChallenge(b []byte, answer *authz.Answer) []byte {
	switch answer.Reason {
	case authz.ReasonMissing:
		return append(b, `Bearer realm="keywicket"`...)
	case authz.ReasonSecondFactorRequired:
		return append(b, `Bearer realm="keywicket", error="insufficient_user_authentication", `+
			`error_description="a second factor is required", acr_values="`+authz.AAL2+`"`...)
	case authz.ReasonMissingScope, authz.ReasonNoRoute:
		b = append(b, `Bearer error="insufficient_scope"`...)
		// The attribute scope lists what is needed together. Of the scopes of which one is enough, the first stands for all.
		separator, end := `, scope="`, ""
		for _, scopes := range [...][]string{answer.RequiredScopes, answer.AnyOf[:min(1, len(answer.AnyOf))]} {
			for _, scope := range scopes {
				b = append(append(b, separator...), scope...)
				separator, end = " ", `"`
			}
		}
		return append(b, end...)
	}
	if httpStatus(answer) == typev3.StatusCode_Unauthorized {
		return append(b, `Bearer realm="keywicket", error="invalid_token"`...)
	}
	return b
}

// dynamicMetadata appends the fields of a Struct: what access logs and rate limits may know of an answer, whatever it is. Ids,
// never a secret.
func dynamicMetadata(b []byte, answer *authz.Answer, scopes string) []byte {
	b = appendEntry(b, "decision_id", answer.ID)
	b = appendEntry(b, "code", string(answer.Code))
	b = appendEntry(b, "reason", string(answer.Reason))
	known := func(name, value string) {
		if value != "" {
			b = appendEntry(b, name, value)
		}
	}
	known("cache", string(answer.Cache))
	if p := answer.Principal; p != nil {
		b = appendEntry(b, "subject", p.ID)
		b = appendEntry(b, "kind", string(p.Kind))
		b = appendEntry(b, "environment", string(p.Environment))
		known("session_id", p.SessionID)
		known("grant_id", p.GrantID)
		known("aal", p.AAL)
		b = appendEntry(b, "scopes", scopes)
	}
	if answer.Workspace.Granted {
		b = appendEntry(b, "workspace_id", answer.Workspace.ID)
	}
	return b
}

// appendEntry appends one field of a Struct. The value is a text, also where it is empty.
func appendEntry(b []byte, name, value string) []byte {
	n := fieldSize(len(value))
	b = appendLength(b, 1, fieldSize(len(name))+fieldSize(n))
	b = appendText(b, 1, name)
	b = appendLength(b, 2, n)
	return append(appendLength(b, 3, len(value)), value...)
}
