package envoy_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
)

// Some load balancers do not read the health status, and the others react late. So a server whose status is NOT_SERVING still
// answers checks.
func TestChecksAreAnsweredWhileHealthIsNotServing(t *testing.T) {
	r := serve(t, envoy.Config{}, found, principalsOnly)
	for _, c := range []struct {
		serving bool
		want    healthv1.HealthCheckResponse_ServingStatus
	}{
		{false, healthv1.HealthCheckResponse_NOT_SERVING}, {true, healthv1.HealthCheckResponse_SERVING}, {false, healthv1.HealthCheckResponse_NOT_SERVING},
	} {
		r.server.SetServing(c.serving)
		if h, err := r.health.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || h.GetStatus() != c.want {
			t.Errorf("health: %v, %v, want %v", h, err, c.want)
		}
		if got := check(t, r, validRequest); codes.Code(got.GetStatus().GetCode()) != codes.OK {
			t.Errorf("serving %v: got %v", c.serving, got)
		}
	}
}

func TestStopWaitsForActiveChecks(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := serve(t, envoy.Config{Drain: 30 * time.Second}, func(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
		close(entered)
		<-release
		return found(ctx, l)
	}, principalsOnly)
	if h, err := r.health.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("health: %v, %v", h, err)
	}
	answered := make(chan *authv3.CheckResponse, 1)
	go func() { answered <- check(t, r, validRequest) }()
	watching, stopWatching := context.WithCancel(t.Context())
	defer stopWatching()
	watch, err := r.health.Watch(watching, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	r.stop()
	for h, err := watch.Recv(); h.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING; h, err = watch.Recv() {
		if err != nil {
			t.Fatalf("the draining server did not report NOT_SERVING: %v", err)
		}
	}
	stopWatching() // the server waits for this stream too
	close(release)
	if got := <-answered; codes.Code(got.GetStatus().GetCode()) != codes.OK {
		t.Errorf("the active check got %v", got)
	}
	if err := <-r.stopped; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// gRPC itself waits two minutes for a connection whose client has not completed the handshake.
func TestStopDoesNotWaitForIdleConnections(t *testing.T) {
	for sent, drain := range map[string]time.Duration{"": time.Hour, "PRI * HT": 10 * time.Millisecond} {
		r := serve(t, envoy.Config{Drain: drain}, found, principalsOnly)
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		check(t, r, validRequest) // the server accepts connections in order, so it has accepted c before this one
		r.stop()
		select {
		case err := <-r.stopped:
			if err != nil {
				t.Errorf("Serve returned %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("the server waits for a connection that has sent %q", sent)
		}
	}
}

func TestStopDoesNotWaitForever(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	r := serve(t, envoy.Config{Drain: 10 * time.Millisecond}, func(context.Context, authz.Lookup) (authz.LookupResult, error) {
		close(entered)
		<-release
		return authz.LookupResult{}, errors.New("too late")
	}, principalsOnly)
	failed := make(chan error, 1)
	go func() {
		_, err := r.client.Check(context.Background(), validRequest)
		failed <- err
	}()
	<-entered
	r.stop()
	if err := <-failed; err == nil {
		t.Error("a check was answered after the drain period")
	}
	close(release)
	if err := <-r.stopped; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}
