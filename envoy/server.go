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
	// MaxMessage is how large a CheckRequest may be, in bytes. It holds a request's headers, never its body; Envoy's
	// max_request_headers_kb should stay below.
	MaxMessage = 256 << 10
	// What gRPC takes must be more than Envoy can send: gRPC refuses a larger message before it is counted and logged, and
	// Envoy may be configured to take that for an allow. Envoy's own limit for headers is 8 MiB.
	maxReceived = 16 << 20
	// Each keeps a stack of 16 KiB, or of 64 KiB once it has evaluated a policy.
	streamWorkers = 64
	receiveWindow = 1 << 20 // bytes
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
	// Observe is told every answer but one after a panic, for metrics. Default: nobody is.
	Observe func(authz.Answer)
}

// Server is the ext_authz service, with gRPC's health service beside it.
type Server struct {
	config     Config
	authorizer *authz.Authorizer
	log        *slog.Logger
	health     *health.Server
	allows     atomic.Uint64
}

// NewServer fills the configuration's defaults. The log's handler must not keep a record: attributes are used again. The server's health is SERVING until [Server.SetServing] says otherwise.
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
		grpc.ForceServerCodecV2(newCodec()),
		// A goroutine per check would grow its stack anew each time; a worker keeps it. Checks beyond the workers still get
		// goroutines of their own.
		grpc.NumStreamWorkers(streamWorkers),
		// With windows that are large enough gRPC need not find out how large they should be, by pings in both directions.
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

// answer decides one check, and appends the CheckResponse to b. It never fails: Envoy might be configured to take an error for an
// allow (failure_mode_allow), but never a denied response.
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
	s.record(ctx, r.method, &answer, err)
	return response(b, &answer, s.config.ForwardCredential, r.header())
}

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
	limited := withLimit(ctx)
	defer limited.cancel()
	answer, err := s.authorizer.Check(limited, r.forAuthorizer(ctx))
	if err == nil {
		if err = expressible(&answer); err != nil {
			answer = authz.Answer{ID: answer.ID, API: answer.API, Decision: authz.Unavailable}
		}
	}
	return answer, err
}

// sampled picks the first allow, and then one of every AllowSample.
func (s *Server) sampled() bool {
	n := uint64(max(0, s.config.AllowSample))
	return n > 0 && s.allows.Add(1)%n == 1%n
}

// record logs the pattern of the route, not the path: a path is the client's own text.
func (s *Server) record(ctx context.Context, method string, answer *authz.Answer, cause error) {
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
	attributes := lineAttributes.Get().(*[]slog.Attr) //nolint:forcetypeassert // the pool holds nothing else
	defer lineAttributes.Put(attributes)
	line := appendLine((*attributes)[:0], method, answer)
	if cause != nil {
		line = append(line, slog.Any("error", cause))
	}
	*attributes = line
	// A handler writes the attributes of a group without a name as if they were the record's own. The record itself has room for a
	// few, and would allocate for more. The logger's methods would look up the caller's place in the source.
	record := slog.NewRecord(time.Now(), level, "decision", 0)
	record.AddAttrs(slog.Attr{Value: slog.GroupValue(line...)})
	_ = s.log.Handler().Handle(ctx, record)
}

// lineAttributes are kept from one line of the log to the next.
var lineAttributes = sync.Pool{New: func() any { return new([]slog.Attr) }}

// appendLine appends what the log tells of an answer.
func appendLine(line []slog.Attr, method string, answer *authz.Answer) []slog.Attr {
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
