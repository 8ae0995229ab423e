package reliability

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/wire"
)

// The sidecar gets the signal to stop while it handles a check. The check waits for the database, because a lock delays its
// query. The sidecar must still answer this check. All of this must happen within 0.4 s, which is the time limit of a check.
func TestSidecarDrains(t *testing.T) {
	s := harness.StartRaceStack(t, demo.Config{Environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}})
	home := harness.CreateWorkspace(t, s)
	key := harness.IssueToken(t, s, "sk_live_", home.ID, "inbox:read")
	client := harness.NewClient(t, s, 1)
	db := harness.OpenDatabase(t, s)
	lock, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback() }()
	if _, err := lock.ExecContext(t.Context(), `LOCK TABLE keywicket.tokens IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}

	stopped := make(chan error, 1)
	go func() {
		stopped <- errors.Join(
			harness.Poll(t.Context(), "the look-up waits for the lock", func() bool {
				var waiting bool
				err := db.GetContext(t.Context(), &waiting, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)`)
				return err == nil && waiting
			}),
			s.Sidecar.Signal(syscall.SIGTERM),
			harness.Poll(t.Context(), "the sidecar accepts no more connections", func() bool {
				c, err := net.Dial("tcp", s.Sidecar.GRPC)
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			}),
			func() error { // a load balancer can poll the sidecar until the last check is answered
				response, err := http.Get("http://" + s.Sidecar.Operations + "/livez")
				if err == nil {
					err = response.Body.Close()
				}
				return err
			}(),
			lock.Commit(),
		)
	}()
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID), "allow")
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Sidecar.Done():
		if err := s.Sidecar.Err(); err != nil { // nil means the exit status 0
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the sidecar did not end")
	}
	list := harness.Keywicket[[]harness.ListedToken](t, s, "token", "list")
	if len(list) != 1 || list[0].LastUsedAt == nil {
		t.Errorf("the use of the token is not recorded: %+v", list)
	}

	// No sidecar runs now, so Envoy must refuse requests.
	before := s.Live.Count()
	a := client.Send(t, harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID))
	if a.Status != http.StatusServiceUnavailable || a.Outcome != "UNAVAILABLE unavailable" || s.Live.Count() != before {
		t.Errorf("without a sidecar: %d %s, %d requests reached the upstream", a.Status, a.Outcome, s.Live.Count()-before)
	}
}

// After the first signal to stop, a sidecar immediately reports that it is not ready, and continues to answer checks. After a
// second signal, the sidecar stops without further delay.
func TestLameDuck(t *testing.T) {
	t.Parallel()
	log := new(syncbuffer.Buffer)
	s := harness.StartRaceStack(t, demo.Config{Environ: []string{"KEYWICKET_LISTEN_LAME_DUCK=10m"}, Log: log})
	home := harness.CreateWorkspace(t, s)
	key := harness.IssueToken(t, s, "sk_live_", home.ID, "inbox:read")
	validRequest := harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID)
	client := harness.NewClient(t, s, 1)
	client.Expect(t, validRequest, "allow")
	connect := func() *grpc.ClientConn {
		conn, err := grpc.NewClient(s.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	health := healthv1.NewHealthClient(connect())
	harness.Await(t, "the sidecar is serving", func() bool {
		h, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err == nil && h.GetStatus() == healthv1.HealthCheckResponse_SERVING
	})

	if err := s.Sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	harness.Await(t, "health is NOT_SERVING", func() bool {
		h, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err == nil && h.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING
	})
	if code, body := harness.Probe(t, s, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "received a stop signal") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	for _, path := range []string{"/livez", "/metrics"} {
		if code, body := harness.Probe(t, s, path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	client.Expect(t, validRequest, "allow")
	answer, err := authv3.NewAuthorizationClient(connect()).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: harness.Conversations[len("GET "):], Headers: map[string]string{
				"authorization": "Bearer " + key.Token, "x-workspace-id": home.ID,
			},
		}},
		ContextExtensions: map[string]string{"api": "velaflows"},
	}})
	if err != nil {
		t.Fatalf("over a new connection: %v", err)
	}
	if got := wire.OutcomeOf(t, answer); got != "allow" {
		t.Errorf("over a new connection: %s", got)
	}

	if err := s.Sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Sidecar.Done():
		if err := s.Sidecar.Err(); err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("after two signals to stop, the sidecar did not end")
	}
	if logged := log.String(); strings.Count(logged, "stop signal received: checks are still answered for 10m0s") != 1 {
		t.Errorf("the log does not report exactly once that the sidecar continues to answer: %s", logged)
	}
}
