package envoy_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/internal/syncbuffer"
)

// The types lookup and decide replace the directory and the policy, so that a test can make each of them fail. Tests with the real
// directory and policy are in test/.
type lookup func(context.Context, authz.Lookup) (authz.LookupResult, error)

func (f lookup) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	return f(ctx, l)
}

type decide func(authz.Input) authz.Decision

func (decide) Needs(string) authz.PolicyNeeds { return authz.PolicyNeeds{Source: true} }

func (f decide) Decide(_ context.Context, in authz.Input) (authz.Decision, error) { return f(in), nil }

func found(context.Context, authz.Lookup) (authz.LookupResult, error) {
	return authz.LookupResult{
		Principal: authz.Principal{ID: "t1", Kind: authz.KindWorkspaceToken, Environment: authz.Live},
		Workspace: authz.Membership{ID: "64f1a2b3c4d5e6f7a8b9c0d1", Slug: "acme"},
	}, nil
}

func principalsOnly(in authz.Input) authz.Decision {
	if in.Principal != nil {
		return authz.Decision{Allow: true}
	}
	return authz.Decision{Code: authz.CodeUnauthorized, Reason: in.Denial}
}

type runningServer struct {
	server  *envoy.Server
	client  authv3.AuthorizationClient
	health  healthv1.HealthClient
	log     *syncbuffer.Buffer
	address string
	stop    context.CancelFunc
	stopped chan error
}

func serve(t *testing.T, c envoy.Config, l lookup, d decide) *runningServer {
	t.Helper()
	a, err := authz.New(authz.Config{APIs: map[string]authz.API{"velaflows": {
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-id", By: authz.ByID},
		Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_"}},
	}}}, l, d)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &runningServer{log: &syncbuffer.Buffer{}, address: listener.Addr().String(), stopped: make(chan error, 1)}
	log := slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.server = envoy.NewServer(c, a, log)
	go func() { r.stopped <- r.server.Serve(ctx, listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = conn.Close() })
	r.client, r.health = authv3.NewAuthorizationClient(conn), healthv1.NewHealthClient(conn)
	return r
}

const key = "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0"

func requestWithHeaders(headers ...[2]string) *authv3.CheckRequest {
	m := &corev3.HeaderMap{}
	for _, h := range headers {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
	}
	return checkRequest(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/thing", HeaderMap: m})
}

func checkRequest(http *authv3.AttributeContext_HttpRequest) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request:           &authv3.AttributeContext_Request{Http: http},
		ContextExtensions: map[string]string{"api": "velaflows"},
	}}
}

var validRequest = requestWithHeaders([2]string{"authorization", "Bearer " + key})

func check(t *testing.T, r *runningServer, request *authv3.CheckRequest) *authv3.CheckResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	response, err := r.client.Check(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func TestCheck(t *testing.T) {
	r := serve(t, envoy.Config{}, found, principalsOnly)
	authorization := [2]string{"authorization", "Bearer " + key}
	for name, c := range map[string]struct {
		request *authv3.CheckRequest
		want    codes.Code
	}{
		"raw headers":          {validRequest, codes.OK},
		"name in upper case":   {requestWithHeaders([2]string{"Authorization", "Bearer " + key}), codes.OK},
		"repeated":             {requestWithHeaders(authorization, authorization), codes.Unauthenticated},
		"repeated, both cases": {requestWithHeaders(authorization, [2]string{"AUTHORIZATION", "Bearer " + key}), codes.Unauthenticated},
		"joined headers": {checkRequest(&authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/thing", Headers: map[string]string{"authorization": "Bearer " + key},
		}), codes.OK},
		"no headers":       {requestWithHeaders(), codes.Unauthenticated},
		"an empty message": {&authv3.CheckRequest{}, codes.Unavailable},
		"no HTTP":          {checkRequest(nil), codes.Unauthenticated},
		"not ASCII":        {requestWithHeaders([2]string{"authorization", "Bearer " + key + "\xff"}), codes.Unauthenticated},
	} {
		if got := check(t, r, c.request); codes.Code(got.GetStatus().GetCode()) != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// Each failure must lead to a denied response with status 503. An RPC error would not be safe: with failure_mode_allow, Envoy
// treats it as an allow.
func TestEveryFailureIsADenied503(t *testing.T) {
	t.Parallel()
	waitForDeadline := func(ctx context.Context, _ authz.Lookup) (authz.LookupResult, error) {
		<-ctx.Done()
		return authz.LookupResult{}, ctx.Err()
	}
	foundWithLineBreak := func(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
		f, err := found(ctx, l)
		f.Principal.UserID = "ada\r\nx-admin: 1"
		return f, err
	}
	for name, r := range map[string]*runningServer{
		"error of the directory": serve(t, envoy.Config{}, func(context.Context, authz.Lookup) (authz.LookupResult, error) {
			return authz.LookupResult{}, errors.New("connection refused")
		}, principalsOnly),
		"panic in the directory": serve(t, envoy.Config{}, func(context.Context, authz.Lookup) (authz.LookupResult, error) {
			panic("boom")
		}, principalsOnly),
		"panic in the policy":  serve(t, envoy.Config{}, found, func(authz.Input) authz.Decision { panic("boom") }),
		"panic in the metrics": serve(t, envoy.Config{Observe: func(authz.Answer) { panic("boom") }}, found, principalsOnly),
		"no answer in time":    serve(t, envoy.Config{}, waitForDeadline, principalsOnly),
		"no decision":          serve(t, envoy.Config{}, found, func(authz.Input) authz.Decision { return authz.Decision{} }),
		"header injection":     serve(t, envoy.Config{}, foundWithLineBreak, principalsOnly),
	} {
		got := check(t, r, validRequest)
		if codes.Code(got.GetStatus().GetCode()) != codes.Unavailable || got.GetDeniedResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%s: got %v", name, got)
		}
		if got.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue() == "" {
			t.Errorf("%s: the answer has no id", name)
		}
		if log := r.log.String(); !strings.Contains(log, `"level":"ERROR"`) || strings.Contains(log, key) {
			t.Errorf("%s: log %s", name, log)
		}
	}
}

// A message over the limit is denied, counted and logged. It does not matter which field is large. Envoy can be configured to send
// headers of at most 8 MiB. A message of exactly the limit's size is checked.
func TestMessageOverTheLimitIsDenied(t *testing.T) {
	observed := make(chan authz.Answer, 1)
	r := serve(t, envoy.Config{Observe: func(a authz.Answer) { observed <- a }}, found, principalsOnly)
	authorization := [2]string{"authorization", "Bearer " + key}
	withFiller := func(n int) *authv3.CheckRequest {
		return requestWithHeaders(authorization, [2]string{"x-filler", strings.Repeat("a", n)})
	}
	largest := withFiller(envoy.MaxMessage - 400)
	for proto.Size(largest) < envoy.MaxMessage {
		largest = withFiller(len(largest.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders()[1].GetRawValue()) + 1)
	}
	manyHeaders := make([][2]string, 20_000)
	for i := range manyHeaders {
		manyHeaders[i] = [2]string{"x-filler", "some value"}
	}
	for name, c := range map[string]struct {
		request *authv3.CheckRequest
		denied  bool
	}{
		"the largest":             {largest, false},
		"one byte over the limit": {withFiller(len(largest.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders()[1].GetRawValue()) + 1), true},
		"a long credential":       {requestWithHeaders([2]string{"authorization", "Bearer " + strings.Repeat("a", 1<<20)}), true},
		"many headers":            {requestWithHeaders(append(manyHeaders, authorization)...), true},
		"a long path":             {checkRequest(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/" + strings.Repeat("a", 1<<20)}), true},
		"a long method":           {checkRequest(&authv3.AttributeContext_HttpRequest{Method: strings.Repeat("A", 1<<20), Path: "/thing"}), true},
		"a body":                  {checkRequest(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/thing", RawBody: make([]byte, 1<<20)}), true},
		"8 MiB":                   {withFiller(8 << 20), true},
	} {
		response := check(t, r, c.request)
		a := <-observed
		if !c.denied {
			if response.GetOkResponse() == nil || !a.Allow {
				t.Errorf("%s: %v", name, response)
			}
			continue
		}
		denied := response.GetDeniedResponse()
		if denied.GetStatus().GetCode() != 431 || !strings.Contains(denied.GetBody(), `"code":"REQUEST_TOO_LARGE","reason":"too_large"`) ||
			a.Code != authz.CodeRequestTooLarge {
			t.Errorf("%s: %v, observed %+v", name, response, a)
		}
		if line := r.log.String(); !strings.Contains(line, a.ID) || !strings.Contains(line, "at most 262144 are checked") || strings.Contains(line, strings.Repeat("a", 100)) {
			t.Errorf("%s: logged %.1000s", name, line)
		}
	}
}

// Any value from the directory leads to an answer, not to an RPC error, which Envoy may be configured to treat as an allow.
func TestIdentityWithInvalidCharactersIsADenied503(t *testing.T) {
	for _, id := range []string{"jos\xe9", "a\r\nb"} {
		r := serve(t, envoy.Config{}, func(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
			f, err := found(ctx, l)
			f.Principal.UserID = id
			return f, err
		}, func(in authz.Input) authz.Decision {
			if in.Method == "POST" && in.Principal != nil {
				return authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonNoRoute}
			}
			return principalsOnly(in)
		})
		for _, method := range []string{"GET", "POST"} {
			q := proto.Clone(validRequest).(*authv3.CheckRequest)
			q.Attributes.Request.Http.Method = method
			if got := check(t, r, q).GetDeniedResponse().GetStatus().GetCode(); got != 503 {
				t.Errorf("%q: %d", id, got)
			}
		}
	}
}

// If a proxy sends both raw and joined headers, the raw headers apply, because they have one entry per value.
func TestRawHeadersTakePrecedenceOverJoinedHeaders(t *testing.T) {
	r := serve(t, envoy.Config{}, found, principalsOnly)
	q := requestWithHeaders([2]string{"x-else", "1"})
	q.Attributes.Request.Http.Headers = map[string]string{"authorization": "Bearer " + key}
	if got := check(t, r, q).GetDeniedResponse().GetStatus().GetCode(); got != 401 {
		t.Errorf("got %d", got)
	}
}

// The client's address comes from the metadata that Envoy's configuration sets. Without this metadata, the peer address of the
// connection is used. The client's address never comes from a header of the request.
func TestSourceOfARequest(t *testing.T) {
	var seen authz.Source
	r := serve(t, envoy.Config{}, found, func(in authz.Input) authz.Decision { seen = in.Source; return principalsOnly(in) })
	const metadataKey = "x-keywicket-client-address"
	for name, c := range map[string]struct {
		metadata []string
		want     string
	}{
		"absent":         {nil, "10.0.0.1"},
		"one value":      {[]string{metadataKey, "203.0.113.7"}, "203.0.113.7"},
		"two values":     {[]string{metadataKey, "203.0.113.7", metadataKey, "203.0.113.8"}, ""},
		"not an address": {[]string{metadataKey, "-"}, ""},
	} {
		request := requestWithHeaders([2]string{"authorization", "Bearer " + key}, [2]string{metadataKey, "6.6.6.6"}, [2]string{"x-forwarded-for", "6.6.6.6"})
		request.Attributes.Source = &authv3.AttributeContext_Peer{
			Principal: "spiffe://acme/billing",
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "10.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 1},
			}}},
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), c.metadata...), 10*time.Second)
		response, err := r.client.Check(ctx, request)
		cancel()
		if err != nil || response.GetOkResponse() == nil || seen.Address != c.want || seen.Principal != "spiffe://acme/billing" {
			t.Errorf("%s: %v %v, the policy read %+v", name, response, err, seen)
		}
	}
}

// An undeclared header or denial leads to a 503. Only the log contains the cause. Neither the log nor the response contains the
// header's value.
func TestUndeclaredAnswerIsADenied503(t *testing.T) {
	for name, c := range map[string]struct {
		decision authz.Decision
		cause    string
	}{
		"a code and reason": {authz.Decision{Code: "PAYMENT_REQUIRED", Reason: "plan_too_small"}, "PAYMENT_REQUIRED"},
		"a header":          {authz.Decision{Allow: true, Headers: map[string]string{"x-plan": "confidential"}}, "x-plan"},
	} {
		r := serve(t, envoy.Config{}, found, func(in authz.Input) authz.Decision {
			if in.Principal == nil {
				return principalsOnly(in)
			}
			return c.decision
		})
		response := check(t, r, validRequest)
		body := response.GetDeniedResponse().GetBody()
		if response.GetStatus().GetCode() != int32(codes.Unavailable) || strings.Contains(body, c.cause) || !strings.Contains(body, "UNAVAILABLE") {
			t.Errorf("%s: %v", name, response)
		}
		if log := r.log.String(); !strings.Contains(log, c.cause) || strings.Contains(log, "confidential") {
			t.Errorf("%s: the log is %s", name, log)
		}
	}
}
