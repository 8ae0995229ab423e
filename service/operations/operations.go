// Package operations serves the metrics of a process and two probes: whether the process runs, and whether it is ready.
package operations

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/keywicket/keywicket/session"
)

// readyTimeout is the maximum time for which a probe waits for the database.
const readyTimeout = time.Second

// Readiness returns whether a process should receive requests. If ready is false, reasons contains the causes. reasons can also
// contain warnings, even if ready is true.
type Readiness func(context.Context) (ready bool, reasons []string)

// NewReadiness returns the readiness of a process that needs a database and verifies sessions. When the context `running` is
// canceled, the process is no longer ready. The parameter `database` is a function that returns an error if the database is not
// usable. The parameter `notices` is a function that returns warnings about a reachable database; it may be nil.
func NewReadiness(
	running context.Context, database func(context.Context) error, notices func() []string, v *session.Verifier,
) Readiness {
	return func(ctx context.Context) (ready bool, reasons []string) {
		if running.Err() != nil {
			return false, []string{"it received a stop signal"}
		}
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		ready = true
		reasons, sessionErr := v.Ready()
		databaseErr := database(ctx)
		if databaseErr == nil && notices != nil { // if the database is unreachable, notices would repeat the cause in databaseErr
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

// A starting sidecar checks its readiness every 50 ms for the first 5 s, and then every second. The longer interval limits the
// load on the database, because other sidecars query the same database.
const (
	firstReadyInterval = 50 * time.Millisecond
	laterReadyInterval = time.Second
	firstReadyPhase    = 5 * time.Second
)

// Await waits until the process is ready, and returns true. If the context is canceled, Await returns false. Without Await, the
// health service would report a sidecar without a database connection as healthy, and load balancers would send checks to it.
func (r Readiness) Await(ctx context.Context) bool {
	wait, started := firstReadyInterval, time.Now()
	for {
		if ok, _ := r(ctx); ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		if time.Since(started) > firstReadyPhase {
			wait = laterReadyInterval
		}
	}
}

// Handler returns the handler of /livez, /readyz and /metrics. /livez succeeds while the process runs. /readyz succeeds while
// look-ups work and the process has received no stop signal. Its response contains reasons and warnings. A sidecar that is not
// ready still answers checks. While look-ups fail, it allows public routes, and answers other routes with 503.
func Handler(r Readiness, metrics http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, map[string]any{"live": true})
	})
	mux.HandleFunc("GET /readyz", r.serveReadyz)
	mux.Handle("GET /metrics", metrics)
	return mux
}

// serveReadyz is the handler of /readyz. The status is 200 if the process is ready, and 503 if it is not.
func (r Readiness) serveReadyz(w http.ResponseWriter, q *http.Request) {
	status := http.StatusOK
	ready, reasons := r(q.Context())
	if !ready {
		status = http.StatusServiceUnavailable
	}
	if reasons == nil {
		reasons = []string{}
	}
	respond(w, status, map[string]any{"ready": ready, "reasons": reasons})
}

// Serve serves until the context is canceled, and then returns nil.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
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
