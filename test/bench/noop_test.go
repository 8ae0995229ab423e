package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

const (
	// noopVariable is an environment variable. If it is set, this test binary is an ext_authz server that decides nothing. The
	// value is the address.
	noopVariable = "KEYWICKET_BENCH_NOOP"
	// answerVariable names a file with the server's CheckResponse. Default: an allow without headers.
	answerVariable = "KEYWICKET_BENCH_ANSWER"
)

// noop returns the same answer to every check. It shows the cost of gRPC without a decision: unmodified grpc-go, the
// generated types, and no options.
type noop struct {
	authv3.UnimplementedAuthorizationServer
	answer *authv3.CheckResponse
}

func (n noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return n.answer, nil
}

// serveNoop serves until SIGTERM.
func serveNoop(address string) error {
	n := noop{answer: &authv3.CheckResponse{Status: &rpcstatus.Status{}}}
	if file := os.Getenv(answerVariable); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(text, n.answer); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	network, address := networkOf(address)
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, n)
	healthv1.RegisterHealthServer(server, health.NewServer())
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	context.AfterFunc(stop, server.Stop)
	return server.Serve(listener)
}

// networkOf parses host:port or unix:///path.
func networkOf(address string) (network, at string) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return "unix", path
	}
	return "tcp", address
}
