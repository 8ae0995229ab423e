// Package restart stops, kills and starts sidecars behind a real Envoy while clients send 500 requests a second. It counts
// the failures that clients see. Envoy uses deploy/envoy, in which only the addresses are changed, unless a test changes more.
//
// The sidecars are built without the race detector, because the tests also print how long requests took. A test never fails
// because of a duration alone. But a busy machine does not answer 500 requests a second, so run this package alone.
package restart

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/program"
)

func TestMain(m *testing.M) {
	if flag.Parse(); testing.Short() {
		fmt.Println("make test-long runs these tests")
		return
	}
	os.Exit(m.Run())
}

// stack has two sidecars behind Envoy, and the keys of the clients.
type stack struct {
	*demo.Stack
	keys []string
}

// keyCount is the number of keys that the clients use. A restarted sidecar has to look up each key.
const keyCount = 300

func start(t *testing.T, c demo.Config) *stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path, err := program.Keywicket()
	if err != nil {
		t.Fatal(err)
	}
	c.Keywicket, c.Sidecars = path, 2
	c.Environ = append(c.Environ, "KEYWICKET_DATABASE_LOOKUP_TIMEOUT="+timeout.String()) // CI is slow
	running, err := demo.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{Stack: running}
	t.Cleanup(func() {
		if err := running.Close(); err != nil {
			t.Error(err)
		}
	})
	r, err := registry.Open(ctx, s.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	home, err := r.CreateWorkspace(ctx, registry.Workspace{Slug: "home", Name: "Home"})
	if err != nil {
		t.Fatal(err)
	}
	for range keyCount {
		_, key, err := r.CreateToken(ctx, registry.NewToken{
			API: "velocity", Name: t.Name(), Scopes: []string{"issues:read"}, Workspace: home.ID,
			Format: authz.CredentialFormat{
				Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live, VisiblePrefix: 12, BodyLength: 38,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.keys = append(s.keys, key.Reveal())
	}
	return s
}

// awaitExit waits until a stopping sidecar has exited.
func awaitExit(t *testing.T, sidecar *demo.Sidecar) {
	t.Helper()
	select {
	case <-sidecar.Done():
		if err := sidecar.Err(); err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the sidecar does not exit")
	}
}

// awaitUnready waits until /readyz no longer answers 200.
func awaitUnready(t *testing.T, sidecar *demo.Sidecar) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(10 * time.Millisecond) {
		response, err := http.Get("http://" + sidecar.Operations + "/readyz")
		if err != nil {
			return
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return
		}
	}
	t.Fatal("the sidecar still reports that it is ready after SIGTERM")
}

// restart starts a sidecar that has exited, and returns when it is ready.
func restart(t *testing.T, sidecar *demo.Sidecar) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := sidecar.Restart(ctx); err != nil {
		t.Fatal(err)
	}
}
