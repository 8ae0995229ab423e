package envoy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keywicket/keywicket/authz"
)

// response is the only constructor of a CheckResponse: the status is OK when the answer allows, and at no other time.
// Envoy takes a response without a status for an allow, even beside a denied response of 403.
// The headers are those of the request; forged ones are removed from what is allowed.
func response(answer authz.Answer, forwardCredential bool, header map[string][]string) *authv3.CheckResponse {
	code := codes.PermissionDenied // also for a code that an API declares
	if answer.Allow {
		code = codes.OK
	} else if d, ok := denials[answer.Code]; ok {
		code = d.grpc
	}
	check := &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(code)},
		DynamicMetadata: dynamicMetadata(answer),
	}
	if code == codes.OK {
		check.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: allowed(answer, forwardCredential, header)}
	} else {
		check.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: denied(answer)}
	}
	return check
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

type field struct{ name, value string }

// identity is what the upstream is told of an allowed request. Empty: nothing to tell.
func identity(answer authz.Answer) [10]field {
	var p authz.Principal
	if answer.Principal != nil {
		p = *answer.Principal
	}
	return [...]field{
		{prefix + "subject", p.ID},
		{prefix + "kind", string(p.Kind)},
		{prefix + "api", answer.API},
		{prefix + "workspace-id", answer.Workspace.ID},
		{prefix + "workspace-slug", answer.Workspace.Slug},
		{prefix + "user-id", p.UserID},
		{prefix + "scopes", strings.Join(p.Scopes, " ")},
		{prefix + "aal", p.AAL},
		{prefix + "environment", string(p.Environment)},
		{prefix + "decision-id", answer.ID},
	}
}

// expressible refuses values that would end a header and start another, and those that are no UTF-8, for which gRPC would
// answer with an error of its own. The store has none, unless its database lets them in; a user's id is free text.
func expressible(answer authz.Answer) error {
	for _, f := range identity(answer) {
		if !httpguts.ValidHeaderFieldValue(f.value) || !utf8.ValidString(f.value) {
			return fmt.Errorf("the value for %s cannot stand in a header", f.name)
		}
	}
	return nil
}

// allowed sets every identity header and the API's own headers, or removes it, whatever the client sent under its name. None
// is in both lists: in Envoy a removal beats a set.
func allowed(answer authz.Answer, forwardCredential bool, header map[string][]string) *authv3.OkHttpResponse {
	ok := &authv3.OkHttpResponse{}
	set := func(name, value string) {
		if value == "" {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		} else {
			ok.Headers = append(ok.Headers, overwrite(name, value))
		}
	}
	for _, f := range identity(answer) {
		set(f.name, f.value)
	}
	ofAPI := answer.UpstreamHeaders
	if h := answer.WorkspaceHeader; h.Name != "" {
		ofAPI = append(slices.Clone(ofAPI), h)
	}
	for _, h := range ofAPI {
		set(h.Name, h.Value)
	}
	ok.HeadersToRemove = append(ok.HeadersToRemove, overriding...)
	ok.HeadersToRemove = append(ok.HeadersToRemove, forged(header, ofAPI)...)
	if !forwardCredential && !answer.Public {
		ok.HeadersToRemove = append(ok.HeadersToRemove, authz.AuthorizationHeader)
	}
	return ok
}

type body struct {
	Error bodyError `json:"error"`
}

type bodyError struct {
	Code           authz.Code   `json:"code"`
	Reason         authz.Reason `json:"reason"`
	Message        string       `json:"message"`
	RequiredScopes []string     `json:"required_scopes,omitempty"`
	AnyOf          []string     `json:"any_of,omitempty"`
	DecisionID     string       `json:"decision_id"`
}

func denied(answer authz.Answer) *authv3.DeniedHttpResponse {
	e := bodyError{
		Code: answer.Code, Reason: answer.Reason, Message: cmp.Or(answer.Message, messages[answer.Reason]), DecisionID: answer.ID,
	}
	if answer.Reason == authz.ReasonMissingScope {
		e.RequiredScopes, e.AnyOf = answer.RequiredScopes, answer.AnyOf
		if len(e.AnyOf) > 0 {
			e.Message = "The token may not use this route: all of required_scopes and one of any_of are needed."
		}
	}
	text, err := json.Marshal(body{e})
	if err != nil {
		panic(fmt.Sprintf("strings cannot be written as JSON: %v", err))
	}
	headers := []*corev3.HeaderValueOption{overwrite("content-type", "application/json")}
	if challenge := challenge(answer); challenge != "" {
		headers = append(headers, overwrite("www-authenticate", challenge))
	}
	if answer.Code == authz.CodeUnavailable {
		answer.RetryAfter = 1
	}
	if answer.RetryAfter > 0 {
		headers = append(headers, overwrite("retry-after", strconv.Itoa(answer.RetryAfter)))
	}
	return &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: httpStatus(answer)},
		Headers: headers,
		Body:    string(text) + "\n",
	}
}

// httpStatus is that of a denial. Envoy's enum lacks some statuses, such as 418, but Envoy sends them.
func httpStatus(answer authz.Answer) typev3.StatusCode {
	declared := typev3.StatusCode(answer.Status) //nolint:gosec // 400 to 499
	return cmp.Or(declared, denials[answer.Code].http, typev3.StatusCode_Forbidden)
}

// challenge is the WWW-Authenticate header of RFC 6750, section 3: without an error code when no credential was
// presented (section 3.1). A session that lacks the second factor gets the challenge of RFC 9470, section 3. Every 401 has a
// challenge (RFC 9110, section 15.5.2). A 403 has one for a missing scope, and where no token may use the route.
func challenge(answer authz.Answer) string {
	switch answer.Reason {
	case authz.ReasonMissing:
		return `Bearer realm="keywicket"`
	case authz.ReasonSecondFactorRequired:
		return `Bearer realm="keywicket", error="insufficient_user_authentication", ` +
			`error_description="a second factor is required", acr_values="` + authz.AAL2 + `"`
	case authz.ReasonMissingScope, authz.ReasonNoRoute:
		// The attribute scope lists what is needed together. Of the scopes of which one is enough, the first stands for all.
		scopes := slices.Concat(answer.RequiredScopes, answer.AnyOf[:min(1, len(answer.AnyOf))])
		if len(scopes) == 0 {
			return `Bearer error="insufficient_scope"`
		}
		return fmt.Sprintf(`Bearer error="insufficient_scope", scope="%s"`, strings.Join(scopes, " "))
	}
	if httpStatus(answer) == typev3.StatusCode_Unauthorized {
		return `Bearer realm="keywicket", error="invalid_token"`
	}
	return ""
}

// dynamicMetadata is what access logs and rate limits may know of an answer, whatever it is: ids, never a secret.
func dynamicMetadata(answer authz.Answer) *structpb.Struct {
	fields := map[string]*structpb.Value{
		"decision_id": structpb.NewStringValue(answer.ID),
		"code":        structpb.NewStringValue(string(answer.Code)),
		"reason":      structpb.NewStringValue(string(answer.Reason)),
	}
	if answer.Cache != "" {
		fields["cache"] = structpb.NewStringValue(string(answer.Cache))
	}
	if p := answer.Principal; p != nil {
		fields["subject"] = structpb.NewStringValue(p.ID)
		fields["kind"] = structpb.NewStringValue(string(p.Kind))
		fields["environment"] = structpb.NewStringValue(string(p.Environment))
		for name, id := range map[string]string{"session_id": p.SessionID, "grant_id": p.GrantID, "aal": p.AAL} {
			if id != "" {
				fields[name] = structpb.NewStringValue(id)
			}
		}
		fields["scopes"] = structpb.NewStringValue(strings.Join(p.Scopes, " "))
	}
	if answer.Workspace.Granted {
		fields["workspace_id"] = structpb.NewStringValue(answer.Workspace.ID)
	}
	return &structpb.Struct{Fields: fields}
}

func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
