package envoy

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keywicket/keywicket/authz"
)

// This file reads a CheckRequest and constructs a CheckResponse with the generated types of go-control-plane. The tests compare the
// results with those of request.go, response.go and denied.go.

// referenceRequest returns the request of a CheckRequest. Absent fields stay empty.
func referenceRequest(ctx context.Context, check *authv3.CheckRequest) authz.Request {
	attributes := check.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	extensions := attributes.GetContextExtensions()
	return authz.Request{
		API:     extensions[apiExtension],
		Method:  http.GetMethod(),
		Path:    http.GetPath(),
		Host:    http.GetHost(),
		Header:  referenceHeader(http),
		Context: fieldsOf(extensions),
		Source: authz.Connection{
			Address:     referenceAddress(ctx, attributes.GetSource()),
			Principal:   attributes.GetSource().GetPrincipal(),
			Certificate: attributes.GetSource().GetCertificate(),
		},
	}
}

func referenceAddress(ctx context.Context, source *authv3.AttributeContext_Peer) string {
	values := metadata.ValueFromIncomingContext(ctx, clientAddressKey)
	switch len(values) {
	case 0:
		return source.GetAddress().GetSocketAddress().GetAddress()
	case 1:
		return values[0]
	}
	return ""
}

func referenceHeader(http *authv3.AttributeContext_HttpRequest) authz.Fields {
	raw := http.GetHeaderMap().GetHeaders()
	var values authz.Fields
	for _, h := range raw {
		value := h.GetValue()
		if len(h.GetRawValue()) > 0 {
			value = string(h.GetRawValue())
		}
		addField(&values, h.GetKey(), value)
	}
	if len(raw) == 0 {
		for name, value := range http.GetHeaders() {
			addField(&values, name, value)
		}
	}
	return values
}

func addField(values *authz.Fields, name, value string) {
	*values = append(*values, authz.HeaderValue{Name: strings.ToLower(name), Value: value})
}

func fieldsOf(m map[string]string) (fields authz.Fields) {
	for name, value := range m {
		fields = append(fields, authz.HeaderValue{Name: name, Value: value})
	}
	return fields
}

// referenceResponse returns the CheckResponse for an answer, built with the types of go-control-plane.
func referenceResponse(answer *authz.Answer, forwardCredential bool, header authz.Fields) *authv3.CheckResponse {
	code := codes.PermissionDenied // also for a code that an API declares
	if answer.Allow {
		code = codes.OK
	} else if d, ok := statuses[answer.Code]; ok {
		code = d.grpc
	}
	check := &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(code)},
		DynamicMetadata: referenceMetadata(answer),
	}
	if code == codes.OK {
		check.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: referenceAllowed(answer, forwardCredential, header)}
	} else {
		check.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: referenceDenied(answer)}
	}
	return check
}

func referenceAllowed(answer *authz.Answer, forwardCredential bool, header authz.Fields) *authv3.OkHttpResponse {
	ok := &authv3.OkHttpResponse{}
	set := func(name, value string) {
		if value == "" {
			ok.HeadersToRemove = append(ok.HeadersToRemove, name)
		} else {
			ok.Headers = append(ok.Headers, overwrite(name, value))
		}
	}
	var scopes string
	if answer.Principal != nil {
		scopes = strings.Join(answer.Principal.Scopes, " ")
	}
	for i, value := range identityValues(answer, scopes) {
		set(identityHeaders[i], value)
	}
	apiHeaders := answer.UpstreamHeaders
	if h := answer.WorkspaceHeader; h.Name != "" {
		apiHeaders = append(slices.Clone(apiHeaders), h)
	}
	for _, h := range apiHeaders {
		set(h.Name, h.Value)
	}
	ok.HeadersToRemove = append(ok.HeadersToRemove, overridingHeaders...)
	ok.HeadersToRemove = append(ok.HeadersToRemove, forgedHeaders(header, apiHeaders)...)
	if !forwardCredential && !answer.Public {
		ok.HeadersToRemove = append(ok.HeadersToRemove, authz.AuthorizationHeader)
	}
	return ok
}

type referenceBody struct {
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

func referenceDenied(answer *authz.Answer) *authv3.DeniedHttpResponse {
	e := bodyError{
		Code: answer.Code, Reason: answer.Reason, Message: cmp.Or(answer.Message, messages[answer.Reason]), DecisionID: answer.ID,
	}
	if answer.Reason == authz.ReasonMissingScope {
		e.RequiredScopes, e.AnyOf = answer.RequiredScopes, answer.AnyOf
		if len(e.AnyOf) > 0 {
			e.Message = "The token may not use this route. The route requires all scopes in required_scopes and one of any_of."
		}
	}
	text, err := json.Marshal(referenceBody{e})
	if err != nil {
		panic(err)
	}
	headers := []*corev3.HeaderValueOption{overwrite("content-type", "application/json")}
	if challenge := challenge(answer); challenge != "" {
		headers = append(headers, overwrite("www-authenticate", challenge))
	}
	retryAfter := answer.RetryAfter
	if answer.Code == authz.CodeUnavailable {
		retryAfter = 1
	}
	if retryAfter > 0 {
		headers = append(headers, overwrite("retry-after", strconv.Itoa(retryAfter)))
	}
	return &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: httpStatus(answer)},
		Headers: headers,
		Body:    string(text) + "\n",
	}
}

func referenceMetadata(answer *authz.Answer) *structpb.Struct {
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

// checkedResponse encodes the answer with the function `response`, and returns the decoded message. If the message differs from the
// result of referenceResponse, checkedResponse fails the test.
func checkedResponse(t testing.TB, answer authz.Answer, forwardCredential bool, header authz.Fields) *authv3.CheckResponse {
	t.Helper()
	check := &authv3.CheckResponse{}
	if err := proto.Unmarshal(response(nil, &answer, forwardCredential, header), check); err != nil {
		t.Fatalf("%+v: %v", answer, err)
	}
	if want := referenceResponse(&answer, forwardCredential, header); !proto.Equal(check, want) {
		t.Fatalf("the response is\n%v\nnot\n%v", check, want)
	}
	return check
}

// challenge returns the text that appendChallenge appends.
func challenge(answer *authz.Answer) string {
	text := challengeWithoutMetadata(answer)
	if text == "" || answer.ResourceMetadata == "" {
		return text
	}
	scopes := slices.Concat(answer.RequiredScopes, answer.AnyOf[:min(1, len(answer.AnyOf))])
	if len(scopes) > 0 && !strings.Contains(text, "scope=") {
		text += `, scope="` + strings.Join(scopes, " ") + `"`
	}
	return text + `, resource_metadata="` + answer.ResourceMetadata + `"`
}

func challengeWithoutMetadata(answer *authz.Answer) string {
	switch answer.Reason {
	case authz.ReasonMissing:
		return `Bearer realm="keywicket"`
	case authz.ReasonSecondFactorRequired:
		return `Bearer realm="keywicket", error="insufficient_user_authentication", ` +
			`error_description="a second factor is required", acr_values="` + authz.AAL2 + `"`
	case authz.ReasonMissingScope, authz.ReasonNoRoute:
		// The attribute `scope` of the challenge contains scopes that a token needs together. One scope of any_of suffices, so the
		// attribute contains only the first scope of any_of.
		scopes := slices.Concat(answer.RequiredScopes, answer.AnyOf[:min(1, len(answer.AnyOf))])
		if len(scopes) == 0 {
			return `Bearer error="insufficient_scope"`
		}
		return `Bearer error="insufficient_scope", scope="` + strings.Join(scopes, " ") + `"`
	}
	if httpStatus(answer) == typev3.StatusCode_Unauthorized {
		return `Bearer realm="keywicket", error="invalid_token"`
	}
	return ""
}
