package reliability

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

func TestDatabaseStopsAndRestarts(t *testing.T) {
	// After the outage, the sidecar opens every connection again. So for slow machines, the look-up timeout is almost twice
	// the default.
	s := harness.StartRaceStack(t, demo.Config{Environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}})
	home := harness.CreateWorkspace(t, s)
	key := harness.IssueToken(t, s, "sk_live_", home.ID, "inbox:read")
	validRequest := harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID)
	_, format := product.FormatOf("sk_live_")
	client := harness.NewClient(t, s, 1)

	const connections = 4
	sendMany := func() (failed []error) {
		client := harness.NewClient(t, s, connections)
		var mu sync.Mutex
		var workers sync.WaitGroup
		for range connections {
			workers.Go(func() {
				for range 100 {
					if err := client.Send(t, validRequest).HasOutcome("allow"); err != nil {
						mu.Lock()
						failed = append(failed, err)
						mu.Unlock()
					}
				}
			})
		}
		workers.Wait()
		return failed
	}
	// These concurrent requests make the sidecar open several connections before the database stops.
	harness.Await(t, "all requests are allowed", func() bool { return len(sendMany()) == 0 })
	client.Expect(t, validRequest, "allow")

	if err := s.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	// Until the staleness bound, the sidecar uses its cached answers.
	harness.Await(t, "the sidecar asks the database", func() bool {
		return client.Send(t, harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID)).Outcome == "UNAVAILABLE unavailable"
	})
	before := s.Live.Count()
	for _, token := range []string{key.Token, format.NewKey().Reveal()} {
		for range 3 {
			a := client.Send(t, harness.NewRequest("velaflows", harness.Conversations, token, home.ID))
			if a.Status != http.StatusServiceUnavailable || a.Outcome != "UNAVAILABLE unavailable" ||
				a.Header.Get("Retry-After") != "1" || a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %s %v", a.Status, a.Outcome, a.Header)
			}
			// Envoy's own 503 has no decision ID.
			if !strings.Contains(a.Body, `"decision_id":"`) {
				t.Errorf("the body is not the sidecar's: %s", a.Body)
			}
		}
	}
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, "", home.ID), "UNAUTHORIZED missing")
	if got := s.Live.Count() - before; got != 0 {
		t.Errorf("%d requests reached the upstream", got)
	}
	client.Expect(t, harness.NewRequest("velaflows", "GET /healthz", key.Token, ""), "allow")
	if got := s.Live.Count() - before; got != 1 {
		t.Errorf("%d requests reached the upstream; only the one for the public route should", got)
	}
	if code, body := harness.Probe(t, s, "/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s", code, body)
	}
	code, body := harness.Probe(t, s, "/readyz")
	var why struct {
		Ready   bool
		Reasons []string
	}
	if err := json.Unmarshal([]byte(body), &why); err != nil || code != http.StatusServiceUnavailable || why.Ready ||
		len(why.Reasons) != 1 || !strings.Contains(why.Reasons[0], "database") {
		t.Errorf("/readyz: %d %s %v", code, body, err)
	}

	pid := s.Sidecar.PID()
	restartPostgres := func(state string) {
		t.Helper()
		if err := s.Postgres.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		harness.Await(t, "the sidecar is ready", func() bool {
			code, _ := harness.Probe(t, s, "/readyz")
			return code == http.StatusOK
		})
		// All requests need a new connection at the same time, so a few requests time out on a busy machine. No request may fail
		// because of a dead connection.
		if failed := sendMany(); len(failed) > connections {
			t.Errorf("after Postgres was %s and restarted, %d requests failed, the first: %v", state, len(failed), failed[0])
		}
		harness.Await(t, "all requests are allowed again", func() bool { return len(sendMany()) == 0 })
	}
	restartPostgres("stopped")
	// Between the kill and the restart, no request is sent. So all of the sidecar's connections are dead.
	if err := syscall.Kill(s.Postgres.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	restartPostgres("killed")
	client.Expect(t, validRequest, "allow")
	if err := syscall.Kill(pid, 0); err != nil || s.Sidecar.PID() != pid {
		t.Errorf("the sidecar was restarted: %v", err)
	}
	if got := client.OpenedConnections(); got != 1 {
		t.Errorf("the requests went over %d connections, not one", got)
	}
}

// Postgres is restarted under load. One token is revoked before the restart, and another token after the restart.
func TestPostgresRestartsUnderLoad(t *testing.T) {
	f := newFaults(t, harness.StartRaceStack)
	kept, before, after := f.warm(t), f.warm(t), f.warm(t)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		client := harness.NewClient(t, f.Stack, 1)
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, token := range []harness.Token{kept, before, after} {
					client.Send(t, harness.NewRequest("velaflows", harness.Conversations, token.Token, f.home.ID))
				}
			}
		})
	}
	committed := f.exec(t, revoke, before.ID)
	if err := f.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(bound)
	if err := f.Postgres.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.requireChange(t, harness.NewRequest("velaflows", harness.Conversations, before.Token, f.home.ID), committed, bound, "allow", "UNAUTHORIZED revoked")
	var committedAgain time.Time
	harness.Await(t, "the database takes a change", func() bool {
		_, err := f.db.ExecContext(t.Context(), revoke, after.ID)
		committedAgain = time.Now()
		return err == nil
	})
	f.requireChange(t, harness.NewRequest("velaflows", harness.Conversations, after.Token, f.home.ID), committedAgain, bound, "allow", "UNAUTHORIZED revoked")
	close(stop)
	load.Wait()
	harness.Await(t, "the cache is in use again", func() bool { return f.leaseHeld(t) })
	f.client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, kept.Token, f.home.ID), "allow")
}

// With stale_if_error, the sidecar still allows credentials that it cached before the outage, and a metric counts these
// answers.
func TestStaleIfError(t *testing.T) {
	f := newFaults(t, harness.StartRaceStack, "KEYWICKET_CACHE_STALE_IF_ERROR=5s")
	token := f.warm(t)
	request := harness.NewRequest("velaflows", harness.Conversations, token.Token, f.home.ID)
	shortLivedToken := harness.IssueToken(t, f.Stack, "sk_live_", f.home.ID, "inbox:read", "--expires-in", "4s")
	shortLivedRequest := harness.NewRequest("velaflows", harness.Conversations, shortLivedToken.Token, f.home.ID)
	// The change log contains the creation of the tokens. If the sidecar read these changes after it had cached the answers, it
	// would drop the answers. So the test waits for a later change.
	harness.Keywicket[registry.RevokedSessions](t, f.Stack, "session", "revoke", "nobody", "--wait")
	f.client.Expect(t, request, "allow")
	f.client.Expect(t, shortLivedRequest, "allow")
	if err := f.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	harness.Await(t, "the sidecar's lease has expired", func() bool { return !f.leaseHeld(t) })
	f.client.Expect(t, request, "allow")
	if got := f.client.Send(t, harness.NewRequest("velaflows", harness.Conversations, product.NewKey("sk_live_"), f.home.ID)); got.Status != http.StatusServiceUnavailable {
		t.Errorf("an uncached token: %s", got.Outcome)
	}
	if f.metric(t, `keywicket_cache_lookups_total{cache="stale",kind="workspace_token",outcome="found"}`) == 0 {
		t.Error("no metric counts stale answers")
	}
	for time.Since(stopped) < 4*time.Second {
		time.Sleep(50 * time.Millisecond)
	}
	if got := f.client.Send(t, shortLivedRequest); got.Status != http.StatusServiceUnavailable {
		t.Errorf("a token that expired during the outage: %s", got.Outcome)
	}
	f.client.Expect(t, request, "allow")
	f.requireChange(t, request, stopped, 5*time.Second, "allow", "UNAVAILABLE unavailable")
}
