package envoy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/keywicket/keywicket/authz"
)

const (
	// MaxMessage is the maximum size of a CheckRequest, in bytes. A CheckRequest contains the headers of a request, never the body.
	// Envoy's max_request_headers_kb must be set to a smaller size than MaxMessage.
	MaxMessage = 256 << 10
	// maxReceived is the maximum size of a message that gRPC accepts, in bytes. It must exceed the largest message that Envoy can
	// send: Envoy's own limit for headers is 8 MiB. gRPC refuses a larger message before this server can count and log it, and
	// Envoy may be configured to treat this error as an allow.
	maxReceived = 16 << 20
	// Each worker keeps a stack of 16 KiB, or of 64 KiB after it has evaluated a policy.
	streamWorkers = 64
	receiveWindow = 1 << 20 // bytes
	// Envoy pings every 30 s (deploy/envoy). A client that pings much more often is not Envoy.
	minPingInterval = 10 * time.Second
)

// Config configures a Server.
type Config struct {
	// ForwardCredential keeps the Authorization header on an allowed request. Default: the header is removed.
	ForwardCredential bool
	// Drain is the maximum time for active checks after the context of [Server.Serve] is canceled. Default: 5 s.
	Drain time.Duration
	// AllowSample is a number n: the server logs one of n allows at level info, and the others at level debug. 0: it logs all
	// allows at level debug.
	AllowSample int
	// The server calls Observe with every answer, for metrics. The only exception is the 503 after a panic. Default: no function.
	Observe func(authz.Answer)
}

// Server is the ext_authz service and gRPC's health service.
type Server struct {
	config     Config
	authorizer *authz.Authorizer
	log        *slog.Logger
	health     *health.Server
	allows     atomic.Uint64
}

// NewServer returns a server, and fills the defaults of its configuration. The log's handler must not retain a record, because the
// server reuses the record's attributes. The server's health is SERVING until [Server.SetServing] changes it.
func NewServer(c Config, a *authz.Authorizer, log *slog.Logger) *Server {
	if c.Drain == 0 {
		c.Drain = 5 * time.Second
	}
	if c.Observe == nil {
		c.Observe = func(authz.Answer) {}
	}
	return &Server{config: c, authorizer: a, log: log, health: health.NewServer()}
}

// SetServing sets the status of the health service: SERVING or NOT_SERVING. While the status is NOT_SERVING, a load balancer that
// reads the status sends new checks to other sidecars. The server still answers all checks that arrive.
func (s *Server) SetServing(serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
}

// Serve serves until the context is canceled. After that, Serve sets the server's health to NOT_SERVING, accepts no more
// connections, and asks the clients of existing connections to disconnect. It returns nil when the active checks are answered, or
// after Config.Drain. Callers must call Serve only once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	listener := newListener(l)
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxReceived),
		grpc.ForceServerCodecV2(newCodec()),
		// A new goroutine per check would have to grow its stack each time; a worker keeps its stack. If all workers are busy,
		// checks still get their own goroutines.
		grpc.NumStreamWorkers(streamWorkers),
		// With large static windows, gRPC does not send pings in both directions to estimate the best size.
		grpc.StaticStreamWindowSize(receiveWindow),
		grpc.StaticConnWindowSize(receiveWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
	)
	healthv1.RegisterHealthServer(server, s.health)
	server.RegisterService(&service, s)

	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.health.Shutdown()
		forceStop := time.AfterFunc(s.config.Drain, func() {
			listener.closeAll()
			server.Stop()
		})
		defer forceStop.Stop()
		listener.closeUnused()
		server.GracefulStop()
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
		return nil
	}
	return err
}

// answer decides one check, and appends the CheckResponse to b. It never returns an error: Envoy may be configured to treat an
// error as an allow (failure_mode_allow). Envoy never treats a denied response as an allow.
func (s *Server) answer(ctx context.Context, r *request, b []byte) (out []byte) {
	begin := len(b)
	defer func() {
		if p := recover(); p != nil {
			s.log.ErrorContext(ctx, "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			out = response(b[:begin], &authz.Answer{ID: authz.NewID(), Decision: authz.Unavailable}, false, nil)
		}
	}()
	answer, err := s.decide(ctx, r)
	s.config.Observe(answer)
	s.logDecision(ctx, r.method, &answer, err)
	return response(b, &answer, s.config.ForwardCredential, r.header())
}

// decide returns the answer to a check, and the error for the log. The answer is complete even after an error.
func (s *Server) decide(ctx context.Context, r *request) (authz.Answer, error) {
	if r.size > MaxMessage {
		return authz.Answer{
			ID: authz.NewID(), Decision: authz.TooLarge,
			Detail: fmt.Sprintf("the CheckRequest has %d bytes; at most %d are checked", r.size, MaxMessage),
		}, nil
	}
	if err := r.read(); err != nil {
		return authz.Answer{ID: authz.NewID(), Decision: authz.Unavailable}, err
	}
	checkCtx := withLimit(ctx)
	defer checkCtx.cancel()
	answer, err := s.authorizer.Check(checkCtx, r.authzRequest(ctx))
	if err == nil {
		if err = checkHeaderValues(&answer); err != nil {
			answer = authz.Answer{ID: answer.ID, API: answer.API, Decision: authz.Unavailable}
		}
	}
	return answer, err
}

// sampleAllow reports whether to log this allow at level info. It selects the first allow, and after that one of every AllowSample
// allows.
func (s *Server) sampleAllow() bool {
	n := uint64(max(0, s.config.AllowSample))
	return n > 0 && s.allows.Add(1)%n == 1%n
}

// logDecision logs an answer. It logs the pattern of the route, not the path, because the client chooses the text of a path.
func (s *Server) logDecision(ctx context.Context, method string, answer *authz.Answer, cause error) {
	level := slog.LevelInfo
	switch {
	case cause != nil:
		level = slog.LevelError
	case answer.Allow && !s.sampleAllow():
		level = slog.LevelDebug
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	attributes := attributePool.Get().(*[]slog.Attr) //nolint:forcetypeassert // the pool contains nothing else
	defer attributePool.Put(attributes)
	line := appendLogAttributes((*attributes)[:0], method, answer)
	if cause != nil {
		line = append(line, slog.Any("error", cause))
	}
	*attributes = line
	// A handler writes the attributes of a group without a name as if they were the record's own. The group avoids an allocation,
	// because a record itself has space for a few attributes only. The code calls the handler directly, because the methods of the
	// logger would also look up the caller's position in the source.
	record := slog.NewRecord(time.Now(), level, "decision", 0)
	record.AddAttrs(slog.Attr{Value: slog.GroupValue(line...)})
	_ = s.log.Handler().Handle(ctx, record)
}

// attributePool contains slices of attributes, which later log lines reuse.
var attributePool = sync.Pool{New: func() any { return new([]slog.Attr) }}

// appendLogAttributes appends the log attributes of an answer.
func appendLogAttributes(line []slog.Attr, method string, answer *authz.Answer) []slog.Attr {
	line = append(line,
		slog.String("decision_id", answer.ID),
		slog.String("api", answer.API),
		slog.String("method", method),
		slog.String("route", answer.Route),
		slog.Bool("allow", answer.Allow),
		slog.String("code", string(answer.Code)),
		slog.String("reason", string(answer.Reason)),
		slog.String("cache", string(answer.Cache)))
	if p := answer.Principal; p != nil {
		line = append(line, slog.String("subject", p.ID), slog.String("kind", string(p.Kind)))
		if p.SessionID != "" {
			line = append(line, slog.String("session_id", p.SessionID))
		}
		if p.GrantID != "" {
			line = append(line, slog.String("grant_id", p.GrantID))
		}
	}
	if answer.Workspace.Granted {
		line = append(line, slog.String("workspace_id", answer.Workspace.ID))
	}
	if answer.Detail != "" {
		line = append(line, slog.String("detail", answer.Detail))
	}
	return line
}
