package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/keywicket/keywicket/envoy"
)

// Intervals of the readiness check of a starting sidecar: 50 ms for the first 5 s, then 1 s. The database may be down, and other
// sidecars query it too.
const (
	firstReadyInterval = 50 * time.Millisecond
	laterReadyInterval = time.Second
	firstReadyPhase    = 5 * time.Second
)

// awaitReady waits until the process is ready and returns true, or returns false when the context ends. Without it, a load balancer
// that uses the health service would send checks to a sidecar without a database connection.
func awaitReady(ctx context.Context, ready readiness) bool {
	wait, began := firstReadyInterval, time.Now()
	for {
		if ok, _ := ready(ctx); ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		if time.Since(began) > firstReadyPhase {
			wait = laterReadyInterval
		}
	}
}

// lameDuck sets the health service to NOT_SERVING, so that load balancers send no more checks. Then it waits for d, or until a second
// SIGINT or SIGTERM. The sidecar answers checks during the wait.
func lameDuck(server *envoy.Server, d time.Duration, log *slog.Logger) {
	again, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server.SetServing(false)
	if d == 0 {
		return
	}
	log.Info("told to stop: answering for another "+d.String(), "to_skip", "send the signal again")
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-again.Done():
		log.Info("told to stop again: draining now")
	}
}
