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

// readyTimeout bounds what a probe waits for the database.
const readyTimeout = time.Second

// readiness says whether a process should be given work, and gives reasons or warnings.
type readiness func(context.Context) (ready bool, reasons []string)

// readinessOf is of a process that needs a database and verifies sessions, until the context stop ends. The notices are about a
// database that does its work; nil: there are none.
func readinessOf(
	stop context.Context, database func(context.Context) error, notices func() []string, v *session.Verifier,
) readiness {
	return func(ctx context.Context) (ready bool, reasons []string) {
		if stop.Err() != nil {
			return false, []string{"it was told to stop"}
		}
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		ready = true
		reasons, unverified := v.Ready()
		unreached := database(ctx)
		if unreached == nil && notices != nil { // otherwise both have one cause
			reasons = append(notices(), reasons...)
		}
		for _, err := range []error{unreached, unverified} {
			if err != nil {
				ready, reasons = false, append(reasons, err.Error())
			}
		}
		return ready, reasons
	}
}

// operations answers orchestrators and scrapers. /livez says that the process runs; /readyz also that look-ups can be
// answered and that it was not told to stop, with the reason otherwise, and what else is not as it should be. A sidecar that
// is not ready still answers checks: public routes are open, the others get a 503 while look-ups fail.
func operations(r readiness, m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]any{"live": true})
	})
	mux.HandleFunc("GET /readyz", r.answer)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

// answer answers /readyz.
func (r readiness) answer(w http.ResponseWriter, q *http.Request) {
	status := http.StatusOK
	ready, reasons := r(q.Context())
	if !ready {
		status = http.StatusServiceUnavailable
	}
	respond(w, status, map[string]any{"ready": ready, "reasons": orEmpty(reasons)})
}

// serveOperations serves until the context ends.
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
	_ = json.NewEncoder(w).Encode(body) // the prober went away
}
