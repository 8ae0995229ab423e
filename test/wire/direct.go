package wire

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// OutcomeOf returns the outcome of an answer. As in Envoy, the outcome depends on the answer's status. The rest of the
// answer must agree with the status.
func OutcomeOf(t *testing.T, answer *authv3.CheckResponse) string {
	t.Helper()
	denied := answer.GetDeniedResponse()
	if answer.GetStatus() == nil || (answer.GetStatus().GetCode() == int32(codes.OK)) != (answer.GetOkResponse() != nil) ||
		(denied == nil) != (answer.GetOkResponse() != nil) {
		t.Fatalf("the status and the rest of the answer differ: %v", answer)
	}
	if denied == nil {
		return "allow"
	}
	grpcCodes := map[int32]codes.Code{
		401: codes.Unauthenticated, 403: codes.PermissionDenied, 431: codes.ResourceExhausted, 503: codes.Unavailable,
	}
	httpCode := int32(denied.GetStatus().GetCode())
	if codes.Code(answer.GetStatus().GetCode()) != grpcCodes[httpCode] {
		t.Errorf("the gRPC status is %v, but the HTTP status is %d", answer.GetStatus(), httpCode)
	}
	var body struct{ Error struct{ Code, Reason string } }
	if err := json.Unmarshal([]byte(denied.GetBody()), &body); err != nil {
		t.Fatalf("%v in %s", err, denied.GetBody())
	}
	return fmt.Sprint(httpCode, " ", body.Error.Code, " ", body.Error.Reason)
}

// Direct is a Conn without Envoy. It sends each request unchanged to the sidecar's own port, like a policy enforcement point
// (PEP) that does not normalise requests.
type Direct struct{ *grpc.ClientConn }

// Send implements Conn.
func (c Direct) Send(t *testing.T, m Request) Response {
	t.Helper()
	headers := &corev3.HeaderMap{}
	for _, h := range m.Header {
		headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
	}
	answer, err := authv3.NewAuthorizationClient(c).Check(t.Context(), &authv3.CheckRequest{
		Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: cmp.Or(m.Method, "GET"), Path: m.Target, Host: cmp.Or(m.Host, "api.test"), HeaderMap: headers, Body: m.Body,
			}},
			ContextExtensions: map[string]string{"api": cmp.Or(m.API, "velaflows")},
		},
	})
	if err != nil {
		return Response{Outcome: "rpc " + status.Code(err).String(), alive: true}
	}
	s := Response{Outcome: OutcomeOf(t, answer), alive: true}
	if ok := answer.GetOkResponse(); ok != nil {
		s.Echo.Headers = map[string][]string{}
		for _, h := range m.Header {
			name := strings.ToLower(h[0])
			s.Echo.Headers[name] = append(s.Echo.Headers[name], h[1])
		}
		for _, h := range ok.GetHeaders() {
			s.Echo.Headers[h.GetHeader().GetKey()] = []string{h.GetHeader().GetValue()}
		}
		for _, name := range ok.GetHeadersToRemove() { // Envoy removes these headers, even if the answer also sets them
			delete(s.Echo.Headers, name)
		}
	}
	return s
}
