package envoy

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/authz"
)

const (
	// A check ends by itself before Envoy gives up on it, so that the client gets the product's own 503. Envoy sends its timeout
	// with each check (0.5 s in deploy/envoy). checkTimeout applies if the caller sends none. longestCheck is the maximum.
	checkTimeout = 400 * time.Millisecond
	longestCheck = 10 * time.Second
	// MaxMessage is how large a CheckRequest may be, in bytes. It holds a request's headers, never its body; Envoy's
	// max_request_headers_kb should stay below.
	MaxMessage = 256 << 10
	// What gRPC takes must be more than Envoy can send: gRPC refuses a larger message before it is counted and logged, and
	// Envoy may be configured to take that for an allow. Envoy's own limit for headers is 8 MiB.
	maxReceived = 16 << 20
	// Envoy pings every 30 s (deploy/envoy); what pings much more often is not Envoy.
	minPingInterval = 10 * time.Second
)

// Config of a Server.
type Config struct {
	// ForwardCredential leaves the Authorization header on an allowed request. Default: it is removed.
	ForwardCredential bool
	// Drain is how long checks under way may take after the server was told to stop. Default: 5 s.
	Drain time.Duration
	// AllowSample is how many allows there are to one that is logged at info; the others are logged at debug. 0: all of them.
	AllowSample int
	// Observe is told every answer, for metrics. Default: nobody is.
	Observe func(authz.Answer)
}

// Server is the ext_authz service, with gRPC's health service beside it.
type Server struct {
	authv3.UnimplementedAuthorizationServer

	config     Config
	authorizer *authz.Authorizer
	log        *slog.Logger
	health     *health.Server
	allows     atomic.Uint64
}

// NewServer fills the configuration's defaults. The server's health is SERVING until [Server.SetServing] says otherwise.
func NewServer(c Config, a *authz.Authorizer, log *slog.Logger) *Server {
	if c.Drain == 0 {
		c.Drain = 5 * time.Second
	}
	if c.Observe == nil {
		c.Observe = func(authz.Answer) {}
	}
	return &Server{config: c, authorizer: a, log: log, health: health.NewServer()}
}

// SetServing sets what the health service answers: SERVING or NOT_SERVING. A load balancer that asks it sends new checks
// elsewhere while it is NOT_SERVING. Those that come all the same are answered as before.
func (s *Server) SetServing(serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
}

// Serve answers on the listener until the context ends. Then its health is NOT_SERVING, it takes no more connections, tells
// those that there are to go away, and returns nil once the checks under way are answered. It serves once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	listener := newListener(l)
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxReceived),
		// A policy's evaluation recurses deeply. A goroutine per check would grow its stack anew each time, which was a
		// third of a check's cost; a worker keeps it. Checks beyond the workers still get goroutines of their own.
		grpc.NumStreamWorkers(uint32(2*runtime.GOMAXPROCS(0))), //nolint:gosec // a small number
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
	)
	healthv1.RegisterHealthServer(server, s.health)
	authv3.RegisterAuthorizationServer(server, s)

	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.health.Shutdown()
		hard := time.AfterFunc(s.config.Drain, func() {
			listener.closeAll()
			server.Stop()
		})
		defer hard.Stop()
		listener.closeSilent()
		server.GracefulStop()
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
		return nil
	}
	return err
}

// Check implements the ext_authz service. It never returns an error: Envoy might be configured to take one for an
// allow (failure_mode_allow), but never a denied response.
func (s *Server) Check(ctx context.Context, check *authv3.CheckRequest) (out *authv3.CheckResponse, _ error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out = response(authz.Answer{ID: rand.Text(), Decision: authz.Unavailable}, false, nil)
		}
	}()
	if size := proto.Size(check); size > MaxMessage {
		answer := authz.Answer{
			ID: rand.Text(), Decision: authz.TooLarge, Detail: fmt.Sprintf("the CheckRequest has %d bytes; at most %d are checked", size, MaxMessage),
		}
		s.config.Observe(answer)
		s.record(ctx, "", answer, nil) // its method may be what is too large
		return response(answer, false, nil), nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeLimit(ctx))
	defer cancel()
	r := request(ctx, check)
	answer, err := s.authorizer.Check(ctx, r)
	if err == nil {
		if err = expressible(answer); err != nil {
			answer = authz.Answer{ID: answer.ID, API: answer.API, Decision: authz.Unavailable}
		}
	}
	s.config.Observe(answer)
	s.record(ctx, r.Method, answer, err)
	return response(answer, s.config.ForwardCredential, r.Header), nil
}

// timeLimit leaves the caller a fifth of its time to get the answer.
func timeLimit(ctx context.Context) time.Duration {
	deadline, told := ctx.Deadline()
	if !told {
		return checkTimeout
	}
	return min(time.Until(deadline), longestCheck*5/4) * 4 / 5
}

// sampled picks the first allow, and then one of every AllowSample.
func (s *Server) sampled() bool {
	n := uint64(max(0, s.config.AllowSample))
	return n > 0 && s.allows.Add(1)%n == 1%n
}

// record logs the pattern of the route, not the path: a path is the client's own text.
func (s *Server) record(ctx context.Context, method string, answer authz.Answer, cause error) {
	level := slog.LevelInfo
	switch {
	case cause != nil:
		level = slog.LevelError
	case answer.Allow && !s.sampled():
		level = slog.LevelDebug
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	attributes := []slog.Attr{
		slog.String("decision_id", answer.ID),
		slog.String("api", answer.API),
		slog.String("method", method),
		slog.String("route", answer.Route),
		slog.Bool("allow", answer.Allow),
		slog.String("code", string(answer.Code)),
		slog.String("reason", string(answer.Reason)),
		slog.String("cache", string(answer.Cache)),
	}
	if p := answer.Principal; p != nil {
		attributes = append(attributes, slog.String("subject", p.ID), slog.String("kind", string(p.Kind)))
		if p.SessionID != "" {
			attributes = append(attributes, slog.String("session_id", p.SessionID))
		}
		if p.GrantID != "" {
			attributes = append(attributes, slog.String("grant_id", p.GrantID))
		}
	}
	if answer.Workspace.Granted {
		attributes = append(attributes, slog.String("workspace_id", answer.Workspace.ID))
	}
	if answer.Detail != "" {
		attributes = append(attributes, slog.String("detail", answer.Detail))
	}
	if cause != nil {
		attributes = append(attributes, slog.Any("error", cause))
	}
	s.log.LogAttrs(ctx, level, "decision", attributes...)
}
