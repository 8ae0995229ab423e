package reliability

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// During a flood of unknown tokens, each unknown token is denied, and valid tokens are allowed.
func TestFloodOfUnknownTokens(t *testing.T) {
	const flood, callers, cold = 4000, 32, 300
	// This test checks the answers, not the speed. The sidecar limits a check to four fifths of Envoy's timeout: 9.6 s of 12 s. So
	// the look-up timeout can be 8 s.
	s := harness.StartRaceStack(t, demo.Config{
		Environ:     []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=8s"},
		EnvoyConfig: raiseEnvoyTimeouts,
	})
	home := harness.CreateWorkspace(t, s)
	warm := harness.IssueToken(t, s, "vel_", home.ID, "issues:read").Token
	_, format := product.FormatOf("vel_")
	coldKeys := make([]string, cold)
	for i := range coldKeys {
		coldKeys[i] = fmt.Sprintf("vel_%0*d", format.BodyLength, i)
	}
	if _, err := harness.OpenDatabase(t, s).ExecContext(t.Context(), `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velocity', 'workspace_key', 'live', 'vel_', sha256(('vel_' || lpad(n::text, $2, '0'))::bytea), 't', '{issues:read}', $1
		FROM generate_series(0, $3 - 1) n`, home.ID, format.BodyLength, cold); err != nil {
		t.Fatal(err)
	}
	client := harness.NewClient(t, s, callers+2)
	var unknown, others sync.WaitGroup
	var sent, answered atomic.Int64
	for range callers {
		unknown.Go(func() {
			for sent.Add(1) <= flood {
				got := client.Send(t, harness.NewRequest("velocity", "GET /api/issues", format.NewKey().Reveal(), ""))
				if err := got.HasOutcome("UNAUTHORIZED unknown"); err != nil {
					t.Error(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	others.Go(func() {
		for answered.Load() < flood && !t.Failed() {
			client.Expect(t, harness.NewRequest("velocity", "GET /api/issues", warm, ""), "allow")
		}
	})
	others.Go(func() {
		for _, key := range coldKeys {
			client.Expect(t, harness.NewRequest("velocity", "GET /api/issues", key, ""), "allow")
		}
	})
	unknown.Wait()
	others.Wait()
}

// raiseEnvoyTimeouts raises Envoy's timeouts for a check and for each try to 12 s, which is more than a busy machine needs. Envoy
// uses max_interval of the retry back-off also as the timeout of each try.
func raiseEnvoyTimeouts(config []byte) []byte {
	for _, limit := range []string{" timeout: 0.5s", " max_interval: 1s"} {
		name, _, _ := strings.Cut(limit, ":")
		config = bytes.ReplaceAll(config, []byte(limit), []byte(name+": 12s"))
	}
	return config
}
