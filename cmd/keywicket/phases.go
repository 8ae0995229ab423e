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

// A sidecar that starts asks itself whether it is ready: every 50 ms at first. After 5 s it asks every second, because the
// database may be down, and other sidecars ask it too.
const (
	readyOften  = 50 * time.Millisecond
	readySeldom = time.Second
	oftenFor    = 5 * time.Second
)

// awaitReady waits until the process is ready, or the context ends. A load balancer that asks the health service would
// otherwise send checks to a sidecar that has no connection to its database yet.
func awaitReady(ctx context.Context, ready readiness) bool {
	wait, began := readyOften, time.Now()
	for {
		if ok, _ := ready(ctx); ok {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		if time.Since(began) > oftenFor {
			wait = readySeldom
		}
	}
}

// lameDuck tells load balancers to send no more checks, and waits until they have noticed: for the duration, or until the
// process is told to stop a second time. Meanwhile checks are answered as before.
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
