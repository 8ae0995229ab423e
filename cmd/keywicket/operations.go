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
	"github.com/keywicket/keywicket/store"
)

// readyTimeout bounds what a probe waits for the database.
const readyTimeout = time.Second

// operations answers orchestrators and scrapers. /livez says that the process runs; /readyz also that look-ups can be
// answered, with the reason if they cannot, and what else is not as it should be. A sidecar that is not ready still answers
// checks: public routes are open, the others get a 503.
func operations(d *store.Directory, v *session.Verifier, m *metrics) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]any{"live": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		readiness(w, d.Ready(ctx), d.Notices(), v)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

// readiness answers /readyz: with the reason of the database, and what is to be said of it and of the sessions.
func readiness(w http.ResponseWriter, database error, notices []string, v *session.Verifier) {
	status := http.StatusOK
	reasons, unverified := v.Ready()
	if database == nil { // otherwise it is what the notices come from
		reasons = append(notices, reasons...)
	}
	for _, err := range []error{database, unverified} {
		if err != nil {
			reasons, status = append(reasons, err.Error()), http.StatusServiceUnavailable
		}
	}
	respond(w, status, map[string]any{"ready": status == http.StatusOK, "reasons": orEmpty(reasons)})
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
