package envoy_test

import (
	"context"
	"log/slog"
	"net"
	"syscall"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/policies"
)

// noop answers every check with an allow: what gRPC and the client cost without anybody deciding.
type noop struct {
	authv3.UnimplementedAuthorizationServer
}

func (noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
}

// BenchmarkCheck measures a check over gRPC on loopback, with the built-in policy and a directory that has the answer at
// hand, beside a server that decides nothing. cpu-µs/op is the whole process's time, the client's included: compare the
// two, not one with another machine's.
func BenchmarkCheck(b *testing.B) {
	engine, err := policies.Load(b.Context(), policies.Config{})
	if err != nil {
		b.Fatal(err)
	}
	scoped := func(ctx context.Context, l authz.Lookup) (authz.Found, error) {
		f, err := found(ctx, l)
		f.Principal.API, f.Principal.Scopes = l.API, []string{"inbox:read", "crm:read"}
		return f, err
	}
	a, err := authz.New(authz.Config{APIs: map[string]authz.API{"velaflows": {
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-id", By: authz.ByID, Required: true},
		Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_"}},
	}}}, lookup(scoped), engine)
	if err != nil {
		b.Fatal(err)
	}
	ask := raw([2]string{"authorization", "Bearer " + key}, [2]string{"x-workspace-id", "64f1a2b3c4d5e6f7a8b9c0d1"})
	ask.Attributes.Request.Http.Path = "/api/v1/inbox/conversations/7/messages"

	b.Run("noop", func(b *testing.B) {
		server := grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, noop{})
		measure(b, ask, server.Serve)
		server.Stop()
	})
	b.Run("keywicket", func(b *testing.B) {
		ctx, stop := context.WithCancel(b.Context())
		server := envoy.NewServer(envoy.Config{}, a, slog.New(slog.DiscardHandler))
		measure(b, ask, func(l net.Listener) error { return server.Serve(ctx, l) })
		stop()
	})
}

func measure(b *testing.B, ask *authv3.CheckRequest, serve func(net.Listener) error) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := authv3.NewAuthorizationClient(conn)
	if r, err := client.Check(b.Context(), ask); err != nil || r.GetStatus().GetCode() != 0 {
		b.Fatal(r, err)
	}
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	for b.Loop() {
		if _, err := client.Check(b.Context(), ask); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-µs/op")
}

// cpu is the process's time in user and system mode, in microseconds.
func cpu(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	micros := func(t syscall.Timeval) float64 { return float64(t.Sec)*1e6 + float64(t.Usec) }
	return micros(u.Utime) + micros(u.Stime)
}
