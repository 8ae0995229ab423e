package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keywicket/keywicket/session"
)

// readyTimeout is the maximum wait of a probe for the database.
const readyTimeout = time.Second

// readiness returns whether a process should receive requests. The reasons say why not, or are warnings.
type readiness func(context.Context) (ready bool, reasons []string)

// newReadiness returns the readiness of a process that needs a database and verifies sessions. The process is not ready after the
// context running ends. notices are warnings about a reachable database; nil means none.
func newReadiness(
	running context.Context, database func(context.Context) error, notices func() []string, v *session.Verifier,
) readiness {
	return func(ctx context.Context) (ready bool, reasons []string) {
		if running.Err() != nil {
			return false, []string{"it was told to stop"}
		}
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		ready = true
		reasons, sessionErr := v.Ready()
		databaseErr := database(ctx)
		if databaseErr == nil && notices != nil { // notices of an unreachable database have the same cause
			reasons = append(notices(), reasons...)
		}
		for _, err := range []error{databaseErr, sessionErr} {
			if err != nil {
				ready, reasons = false, append(reasons, err.Error())
			}
		}
		return ready, reasons
	}
}

// operations returns the handler of /livez, /readyz and /metrics. /livez succeeds while the process runs. /readyz succeeds while
// look-ups work and the process has received no signal to stop; it returns reasons and warnings. A sidecar that is not ready still
// answers checks: public routes stay open, other routes get a 503 while look-ups fail.
func operations(r readiness, m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]any{"live": true})
	})
	mux.HandleFunc("GET /readyz", r.serveReadyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

// serveReadyz is the handler of /readyz: 200 if the process is ready, otherwise 503.
func (r readiness) serveReadyz(w http.ResponseWriter, q *http.Request) {
	status := http.StatusOK
	ready, reasons := r(q.Context())
	if !ready {
		status = http.StatusServiceUnavailable
	}
	respond(w, status, map[string]any{"ready": ready, "reasons": orEmpty(reasons)})
}

// serveOperations serves until the context ends, and then returns nil.
func serveOperations(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the client disconnected
}
