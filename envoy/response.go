package envoy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keywicket/keywicket/authz"
)

// response appends a CheckResponse for Envoy to b, in protobuf's wire format. No other function constructs a response. The status
// of the CheckResponse is OK if and only if the answer is an allow. Envoy treats a CheckResponse without a status as an allow, even
// if it contains a denied response with the HTTP status 403. The parameter `header` contains the headers of the request. An allow
// removes the forged headers among them.
//
// The function writes bytes, because the objects of a CheckResponse would cost more than the decision. reference_test.go constructs
// the objects, and compares them with these bytes.
func response(b []byte, answer *authz.Answer, forwardCredential bool, header authz.Fields) []byte {
	code := codes.PermissionDenied // also for a code that an API declares
	if answer.Allow {
		code = codes.OK
	} else if d, ok := statuses[answer.Code]; ok {
		code = d.grpc
	}
	var scopes string
	if answer.Principal != nil {
		scopes = strings.Join(answer.Principal.Scopes, " ")
	}
	b = appendMessage(b, 1, func(b []byte) []byte { return appendNumber(b, 1, uint64(code)) }) // status
	if code == codes.OK {
		b = appendMessage(b, 3, func(b []byte) []byte { return appendAllowed(b, answer, scopes, forwardCredential, header) }) // ok_response
	} else {
		b = appendMessage(b, 2, func(b []byte) []byte { return appendDenied(b, answer) }) // denied_response
	}
	return appendMessage(b, 4, func(b []byte) []byte { return appendMetadata(b, answer, scopes) }) // dynamic_metadata
}

// appendMessage appends a field that contains a message. The function write appends the content of the message.
func appendMessage(b []byte, field protowire.Number, write func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	const lengthBytes = 2 // for a length of up to 16 KiB, which suffices for most messages
	start := len(b) + lengthBytes
	b = write(append(b, 0, 0))
	size := uint64(len(b) - start)
	for n := lengthBytes; n < protowire.SizeVarint(size); n++ {
		b = append(b, 0)
	}
	body := start - lengthBytes + protowire.SizeVarint(size)
	copy(b[body:], b[start:start+int(size)]) //nolint:gosec // a length
	protowire.AppendVarint(b[:start-lengthBytes], size)
	return b[:body+int(size)] //nolint:gosec // a length
}

// appendText appends a string field. It omits an empty string, which is the default.
func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// appendNumber appends a number field. It omits 0, which is the default.
func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
}

// fieldSize returns the size of a field with n bytes of content, including its tag and its length.
func fieldSize(n int) int { return 1 + protowire.SizeBytes(n) }

// appendLength appends the tag and the length of a field with n bytes of content.
func appendLength(b []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(n)) //nolint:gosec // a length
}

// appendHeader appends a header that replaces all other headers with the same name. It uses field 2, which is the same in an
// OkHttpResponse and a DeniedHttpResponse.
func appendHeader[T string | []byte](b []byte, name string, value T) []byte {
	header := fieldSize(len(name)) + fieldSize(len(value))
	b = appendLength(b, 2, fieldSize(header)+2)
	b = appendLength(b, 1, header)
	b = append(appendLength(b, 1, len(name)), name...)
	b = append(appendLength(b, 2, len(value)), value...)
	return appendNumber(b, 3, uint64(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
}

// headerPrefix is the prefix of the headers that the upstream can trust, because only the sidecar sets them.
const headerPrefix = "x-keywicket-"

// identityHeaders are the headers that describe the principal of an allowed request to the upstream. They have the order of
// identityValues.
var identityHeaders = []string{
	headerPrefix + "subject", headerPrefix + "kind", headerPrefix + "api", headerPrefix + "workspace-id", headerPrefix + "workspace-slug", headerPrefix + "user-id",
	headerPrefix + "scopes", headerPrefix + "aal", headerPrefix + "environment", headerPrefix + "decision-id",
}

// identityValues returns the values of identityHeaders. An empty value means that the header is removed.
func identityValues(answer *authz.Answer, scopes string) [10]string {
	var p authz.Principal
	if answer.Principal != nil {
		p = *answer.Principal
	}
	return [...]string{
		p.ID, string(p.Kind), answer.API, answer.Workspace.ID, answer.Workspace.Slug, p.UserID,
		scopes, p.AAL, string(p.Environment), answer.ID,
	}
}

// checkHeaderValues returns an error if an identity header would contain a line break, which starts another header, or bytes that
// are not UTF-8, which protobuf refuses. keywicket does not store such a value. But another program may write it to the database,
// for example in a user's id, which is free text.
func checkHeaderValues(answer *authz.Answer) error {
	invalid := func(value string) bool { return !httpguts.ValidHeaderFieldValue(value) || !utf8.ValidString(value) }
	for i, value := range identityValues(answer, "") {
		if invalid(value) {
			return fmt.Errorf("the value for %s is not a valid header value", identityHeaders[i])
		}
	}
	if answer.Principal != nil && slices.ContainsFunc(answer.Principal.Scopes, invalid) {
		return errors.New("the value for x-keywicket-scopes is not a valid header value")
	}
	return nil
}

// appendAllowed appends the fields of an OkHttpResponse. It sets or removes every identity header and every header of the API, even
// if the client sent a header with the same name. No header is both set and removed, because in Envoy the removal would take
// precedence.
func appendAllowed(b []byte, answer *authz.Answer, scopes string, forwardCredential bool, header authz.Fields) []byte {
	setOrRemove := func(name, value string) {
		if value == "" {
			b = appendRemoval(b, name)
		} else {
			b = appendHeader(b, name, value)
		}
	}
	for i, value := range identityValues(answer, scopes) {
		setOrRemove(identityHeaders[i], value)
	}
	apiHeaders := answer.UpstreamHeaders
	if h := answer.WorkspaceHeader; h.Name != "" {
		apiHeaders = append(slices.Clip(apiHeaders), h)
	}
	for _, h := range apiHeaders {
		setOrRemove(h.Name, h.Value)
	}
	b = append(b, overridingRemovals...)
	for _, name := range forgedHeaders(header, apiHeaders) {
		b = appendRemoval(b, name)
	}
	if !forwardCredential && !answer.Public {
		b = appendRemoval(b, authz.AuthorizationHeader)
	}
	return b
}

// appendRemoval appends the name of a request header to remove (headers_to_remove of an OkHttpResponse).
func appendRemoval(b []byte, name string) []byte { return appendText(b, 5, name) }

// overridingRemovals is the encoded removal of overridingHeaders, which is the same for every allow.
var overridingRemovals = func() (b []byte) {
	for _, name := range overridingHeaders {
		b = appendRemoval(b, name)
	}
	return b
}()

// appendMetadata appends the fields of a Struct. The Struct contains data of the answer, for access logs and rate limits. It
// contains ids, never a secret.
func appendMetadata(b []byte, answer *authz.Answer, scopes string) []byte {
	b = appendEntry(b, "decision_id", answer.ID)
	b = appendEntry(b, "code", string(answer.Code))
	b = appendEntry(b, "reason", string(answer.Reason))
	appendIfSet := func(name, value string) {
		if value != "" {
			b = appendEntry(b, name, value)
		}
	}
	appendIfSet("cache", string(answer.Cache))
	if p := answer.Principal; p != nil {
		b = appendEntry(b, "subject", p.ID)
		b = appendEntry(b, "kind", string(p.Kind))
		b = appendEntry(b, "environment", string(p.Environment))
		appendIfSet("session_id", p.SessionID)
		appendIfSet("grant_id", p.GrantID)
		appendIfSet("aal", p.AAL)
		b = appendEntry(b, "scopes", scopes)
	}
	if answer.Workspace.Granted {
		b = appendEntry(b, "workspace_id", answer.Workspace.ID)
	}
	return b
}

// appendEntry appends one field of a Struct. The value is a string, even if it is empty.
func appendEntry(b []byte, name, value string) []byte {
	n := fieldSize(len(value))
	b = appendLength(b, 1, fieldSize(len(name))+fieldSize(n))
	b = appendText(b, 1, name)
	b = appendLength(b, 2, n)
	return append(appendLength(b, 3, len(value)), value...)
}
