package envoy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
)

// noKeys is a directory without keys.
type noKeys struct{}

func (noKeys) Lookup(context.Context, authz.Lookup) (authz.LookupResult, error) {
	return authz.LookupResult{Denial: authz.ReasonUnknown}, nil
}

// healthOnly is a policy with one public route.
type healthOnly struct{}

func (healthOnly) Needs(string) authz.PolicyNeeds { return authz.PolicyNeeds{} }

func (healthOnly) Decide(_ context.Context, in authz.Input) (authz.Decision, error) {
	if in.Path == "/healthz" {
		return authz.Decision{Allow: true, Route: "GET /healthz"}, nil
	}
	return authz.Decision{Code: authz.CodeUnauthorized, Reason: in.Denial}, nil
}

func Example() {
	authorizer, err := authz.New(authz.Config{DefaultAPI: "velocity", APIs: map[string]authz.API{"velocity": {
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
		Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceKey, Prefix: "vel_"}},
	}}}, noKeys{}, healthOnly{})
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	server := envoy.NewServer(envoy.Config{}, authorizer, slog.New(slog.DiscardHandler))
	go func() { stopped <- server.Serve(ctx, listener) }()

	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	for _, path := range []string{"/healthz", "/api/issues"} {
		response, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: path}},
		}})
		if err != nil {
			panic(err)
		}
		fmt.Println(path, "allow:", response.GetOkResponse() != nil, "status:", int(response.GetDeniedResponse().GetStatus().GetCode()))
	}
	_ = conn.Close()
	stop()
	fmt.Println("stopped:", <-stopped)
	// Output:
	// /healthz allow: true status: 0
	// /api/issues allow: false status: 401
	// stopped: <nil>
}
