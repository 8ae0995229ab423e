package reliability

import (
	"context"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/wire"
)

// While the sidecar is frozen, requests wait. When the sidecar continues, its cache is too old, its connections have exceeded
// their time limits, and all waiting requests arrive at the same time. The sidecar must still allow most of these requests.
func TestFrozenSidecarAnswersItsQueue(t *testing.T) {
	s := harness.StartRaceStack(t, demo.Config{Environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=5s"}}) // for busy machines
	home := harness.CreateWorkspace(t, s)
	key := harness.IssueToken(t, s, "sk_live_", home.ID, "contacts:read")
	conn, err := grpc.NewClient(s.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := authv3.NewAuthorizationClient(conn)
	var mu sync.Mutex
	outcomes := make(map[string]int)
	check := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		answer, err := client.Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			ContextExtensions: map[string]string{"api": "velaflows"},
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: http.MethodGet, Path: "/api/v1/contacts/7",
				HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
					{Key: "authorization", RawValue: []byte("Bearer " + key.Token)}, {Key: "x-workspace-id", Value: home.ID},
				}},
			}},
		}})
		outcome := "lost"
		if err == nil {
			outcome = wire.OutcomeOf(t, answer)
		}
		mu.Lock()
		defer mu.Unlock()
		outcomes[outcome]++
	}
	check()
	const freezeTime, requestInterval = 4 * time.Second, 2 * time.Millisecond
	pid := s.Sidecar.PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	thaw := sync.OnceFunc(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	defer thaw()
	var asking sync.WaitGroup
	asked := 1
	for begin := time.Now(); time.Since(begin) < freezeTime; time.Sleep(requestInterval) {
		asking.Go(check)
		asked++
	}
	thaw()
	asking.Wait()
	// On a busy machine some checks time out. Without a queue for evaluations, nine of ten checks would time out.
	if outcomes["allow"] < asked*80/100 {
		t.Errorf("%d checks: %v", asked, outcomes)
	}
}
