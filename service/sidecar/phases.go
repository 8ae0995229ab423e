package sidecar

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/keywicket/keywicket/envoy"
)

// lameDuck sets the health service to NOT_SERVING, so that load balancers send no more checks. Then it waits for the duration d.
// A second SIGINT or SIGTERM ends the wait. The sidecar answers checks during the wait.
func lameDuck(server *envoy.Server, d time.Duration, log *slog.Logger) {
	secondSignal, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server.SetServing(false)
	if d == 0 {
		return
	}
	log.Info("stop signal received: checks are still answered for "+d.String(), "to_skip", "send the signal again")
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-secondSignal.Done():
		log.Info("second stop signal received: draining now")
	}
}
