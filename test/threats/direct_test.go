package threats

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/wire"
)

func TestDirectChecks(t *testing.T) {
	home := harness.CreateWorkspace(t, deployment.Stack)
	_, key := deployment.CreateToken(t, "sk_live_", registry.NewToken{Name: t.Name(), Scopes: []string{"admin:all"}, Workspace: home.ID})
	conn, err := grpc.NewClient(deployment.Stack.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	pdp := authv3.NewAuthorizationClient(conn)

	health, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}

	contact := &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/api/v1/contacts/7", Host: "api.example"}
	request := func(h *authv3.AttributeContext_HttpRequest, path string, headers ...*corev3.HeaderValue) *authv3.AttributeContext_HttpRequest {
		return &authv3.AttributeContext_HttpRequest{
			Method: h.GetMethod(), Path: path, Host: h.GetHost(), HeaderMap: &corev3.HeaderMap{Headers: headers},
		}
	}
	bearer := &corev3.HeaderValue{Key: "authorization", RawValue: []byte("Bearer " + key)}
	workspace := &corev3.HeaderValue{Key: "x-workspace-id", Value: home.ID}
	withJoinedHeaders := func(headers map[string]string) *authv3.AttributeContext_HttpRequest {
		return &authv3.AttributeContext_HttpRequest{Method: "GET", Path: contact.GetPath(), Headers: headers}
	}
	velaflows := map[string]string{"api": "velaflows"}
	type check struct {
		name       string
		http       *authv3.AttributeContext_HttpRequest
		extensions map[string]string
		want       string
	}
	checks := []check{
		{"unnecessary escapes", request(contact, "/%61pi/v1/contacts/%37", bearer, workspace), velaflows, "allow"},
		{"unnecessary escapes in a public route", request(contact, "/%68ealthz"), velaflows, "allow"},
		{"dot segments in the query", request(contact, "/api/v1/contacts/7?a=/../b", bearer, workspace), velaflows, "allow"},
		{"joined headers", withJoinedHeaders(map[string]string{"authorization": "Bearer " + key, "x-workspace-id": home.ID}), velaflows, "allow"},
		{"two tokens, joined in one header", withJoinedHeaders(map[string]string{"authorization": "Bearer " + key + ",Bearer " + key, "x-workspace-id": home.ID}), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"the same token twice", request(contact, contact.GetPath(), bearer, bearer, workspace), velaflows, "401 UNAUTHORIZED malformed"},
		{"an empty token and a valid token", request(contact, contact.GetPath(), &corev3.HeaderValue{Key: "authorization"}, bearer, workspace), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"the same token in two headers whose names differ in case", request(contact, contact.GetPath(), bearer, &corev3.HeaderValue{Key: "Authorization", Value: "Bearer " + key}, workspace), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"a token with a byte that is not UTF-8", request(contact, contact.GetPath(), &corev3.HeaderValue{Key: "authorization", RawValue: []byte("Bearer " + key + "\xff")}, workspace), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"the same workspace twice", request(contact, contact.GetPath(), bearer, workspace, workspace), velaflows, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch"},
		{"an unknown API", request(contact, contact.GetPath(), bearer, workspace), map[string]string{"api": "zoo"}, "503 UNAVAILABLE unavailable"},
		{"no API", request(contact, contact.GetPath(), bearer, workspace), nil, "503 UNAVAILABLE unavailable"},
		{"a public route without an API", request(contact, "/healthz"), nil, "503 UNAVAILABLE unavailable"},
		{"no headers", nil, velaflows, "401 UNAUTHORIZED missing"},
	}
	for _, path := range HostilePaths {
		name := path[:min(len(path), 60)]
		checks = append(checks,
			check{name, request(contact, path), velaflows, "401 UNAUTHORIZED missing"},
			check{name, request(contact, path, bearer, workspace), velaflows, "403 FORBIDDEN no_route"})
	}
	for _, c := range checks {
		answer, err := pdp.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: c.http}, ContextExtensions: c.extensions,
		}})
		if err != nil {
			t.Errorf("%q: %v", c.name, err)
			continue
		}
		if got := wire.OutcomeOf(t, answer); got != c.want {
			t.Errorf("%q: %s, not %s", c.name, got, c.want)
		}
	}

	// The sidecar denies a message that is larger than the limit for a check.
	answer, err := pdp.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request:           &authv3.AttributeContext_Request{Http: request(contact, "/"+strings.Repeat("a", 1<<20), bearer, workspace)},
		ContextExtensions: velaflows,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := wire.OutcomeOf(t, answer); got != "431 REQUEST_TOO_LARGE too_large" {
		t.Errorf("a request of 1 MiB: %s", got)
	}
}
