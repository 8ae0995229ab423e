package bootstrap_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keywicket/keywicket/demo/envoyproxy"
	"github.com/keywicket/keywicket/demo/upstream"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/test/wire"
)

// stack is a real Envoy with real upstreams and a fake sidecar. These tests cover Envoy's configuration. The fake can return
// responses that the real sidecar never returns.
type stack struct {
	velaflows, velocity string // listeners
	live, sandbox       *upstream.Server
	console             *upstream.Server // stands for the console
	sidecar             *fakeSidecar
	log                 *log
}

func start(t *testing.T) *stack {
	t.Helper()
	s := &stack{sidecar: &fakeSidecar{addr: "127.0.0.1:0"}, log: &log{}}
	s.sidecar.start(t)
	t.Cleanup(func() { s.sidecar.server.Stop() })
	for name, server := range map[string]**upstream.Server{"live": &s.live, "sandbox": &s.sandbox, "console": &s.console} {
		u, err := upstream.Start(name, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = u.Close() })
		*server = u
	}
	// free keeps all listeners open until it has found three addresses, so that the addresses differ.
	free := func() (addresses [3]string) {
		for i := range addresses {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			addresses[i] = l.Addr().String()
		}
		return addresses
	}
	run := func() (*envoyproxy.Proxy, error) {
		addresses := free()
		s.velaflows, s.velocity = addresses[0], addresses[1]
		config, err := bootstrap.Render(bootstrap.Addresses{
			Admin:     addresses[2],
			Listeners: map[string]string{"velaflows": s.velaflows, "velocity": s.velocity},
			Clusters: map[string]string{
				"keywicket": s.sidecar.addr, "upstream_live": s.live.Addr(), "upstream_sandbox": s.sandbox.Addr(),
				"console": s.console.Addr(),
			},
		})
		if err != nil {
			return nil, err
		}
		return envoyproxy.Start(t.Context(), envoyproxy.Config{Config: config, Dir: t.TempDir(), Log: s.log})
	}
	envoy, err := run()
	if errors.Is(err, syscall.EADDRINUSE) { // another test got the same free port
		envoy, err = run()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := envoy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reached returns the number of requests that reached an upstream or the console.
func (s *stack) reached() int64 { return s.live.Count() + s.sandbox.Count() + s.console.Count() }

// fullResponse is a response whose body has been read.
type fullResponse struct {
	StatusCode int
	Header     http.Header
	body       string
}

// echo returns the request that the upstream received.
func (a fullResponse) echo(t *testing.T) (echo upstream.Echo) {
	t.Helper()
	if a.StatusCode != http.StatusOK {
		t.Fatalf("got %d %s", a.StatusCode, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &echo); err != nil {
		t.Fatal(err)
	}
	return echo
}

// send writes the request unchanged and reads the response. It uses no client library, which would normalise the request.
func send(t *testing.T, addr, requestLine string, headers ...string) fullResponse {
	t.Helper()
	conn := dial(t, addr)
	defer func() { _ = conn.Close() }()
	return conn.send(t, requestLine, headers...)
}

// conn is a connection for several requests.
type conn struct{ *wire.HTTP1 }

func dial(t *testing.T, addr string) conn {
	t.Helper()
	return conn{wire.NewHTTP1(wire.Dial(t, addr))}
}

func (c conn) send(t *testing.T, requestLine string, headers ...string) fullResponse {
	t.Helper()
	lines := append([]string{requestLine + " HTTP/1.1", "host: api.test"}, headers...)
	if _, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return c.read(t)
}

func (c conn) read(t *testing.T) fullResponse {
	t.Helper()
	response, answered := c.Receive(t, http.MethodGet)
	if !answered {
		t.Fatal("the connection is closed")
	}
	return fullResponse{response.Status, response.Header, string(response.Body)}
}

// fakeSidecar replaces the sidecar. The bearer token selects its response.
type fakeSidecar struct {
	addr       string
	server     *grpc.Server
	failedOnce atomic.Bool // the first check with the token "flaky" has failed

	mu       sync.Mutex
	requests []*authv3.CheckRequest
}

// start starts the server. After a server.Stop, start uses the same address again.
func (c *fakeSidecar) start(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.addr = listener.Addr().String()
	c.server = grpc.NewServer()
	authv3.RegisterAuthorizationServer(c.server, c)
	healthpb.RegisterHealthServer(c.server, health.NewServer())
	go func() { _ = c.server.Serve(listener) }()
}

func (c *fakeSidecar) checkCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.requests)
}

func (c *fakeSidecar) lastCheck(t *testing.T) *authv3.AttributeContext {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) == 0 {
		t.Fatal("there was no check")
	}
	return c.requests[len(c.requests)-1].GetAttributes()
}

// denial is the body of the fake's denials. It differs from every body that Envoy writes itself.
const denial = `{"error":{"code":"FORBIDDEN","reason":"missing_scope","decision_id":"d-1"}}` + "\n"

func (c *fakeSidecar) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	c.mu.Lock()
	c.requests = append(c.requests, request)
	c.mu.Unlock()
	api := request.GetAttributes().GetContextExtensions()["api"]
	var bearer string
	for _, h := range request.GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		if h.GetKey() == "authorization" {
			bearer = strings.TrimPrefix(string(h.GetRawValue()), "Bearer ")
		}
	}
	switch bearer {
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	case "slow":
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "flaky":
		if !c.failedOnce.Swap(true) {
			return nil, status.Error(codes.Unavailable, "draining")
		}
	case "401":
		return deny(typev3.StatusCode_Unauthorized), nil
	case "403":
		return deny(typev3.StatusCode_Forbidden), nil
	case "503":
		return deny(typev3.StatusCode_ServiceUnavailable), nil
	case "invalid":
		response := allow(api, "live")
		response.GetOkResponse().Headers = headerOptions("x-keywicket-subject", "a\r\nb")
		return response, nil
	case "bare":
		return &authv3.CheckResponse{
			Status:       &rpcstatus.Status{Code: int32(codes.OK)},
			HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
		}, nil
	case "sandbox":
		return allow(api, "sandbox"), nil
	}
	return allow(api, "live"), nil
}

func allow(api, environment string) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:          &rpcstatus.Status{Code: int32(codes.OK)},
		DynamicMetadata: metadata("OK", "allowed", "environment", environment),
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:         headerOptions("x-keywicket-subject", "token-1", "x-keywicket-api", api, "x-keywicket-environment", environment, "x-else", "no"),
			HeadersToRemove: []string{"authorization", "x-workspace-slug", "x-kept"},
		}},
	}
}

func deny(code typev3.StatusCode) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:          &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
		DynamicMetadata: metadata("FORBIDDEN", "missing_scope"),
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: code},
			Body:   denial,
			Headers: headerOptions(
				"content-type", "application/problem+json", "www-authenticate", `Bearer error="x"`, "retry-after", "7"),
		}},
	}
}

func headerOptions(pairs ...string) (headers []*corev3.HeaderValueOption) {
	for i := 0; i < len(pairs); i += 2 {
		headers = append(headers, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: pairs[i], Value: pairs[i+1]},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return headers
}

func metadata(code, reason string, more ...string) *structpb.Struct {
	fields := map[string]*structpb.Value{}
	for pair := range slices.Chunk(append([]string{"decision_id", "d-1", "subject", "token-1", "code", code, "reason", reason}, more...), 2) {
		fields[pair[0]] = structpb.NewStringValue(pair[1])
	}
	return &structpb.Struct{Fields: fields}
}

// log collects Envoy's output.
type log struct{ syncbuffer.Buffer }

// entry waits for the line of the access log for the request with this path, and returns it.
func (l *log) entry(t *testing.T, path string) map[string]any {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(5 * time.Second); ; {
		for line := range strings.Lines(l.String()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["path"] == path {
				return entry
			}
		}
		select {
		case <-deadline:
			t.Fatalf("no line for %s in %s", path, l)
		case <-tick.C:
		}
	}
}
