package fleet

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
)

// TestMeasureUse measures the CPU time of Postgres for writing the use of tokens. Eight sidecars use the same 10,000 tokens. The test
// sets the clock of the sidecars forward.
func TestMeasureUse(t *testing.T) {
	if *sizes == "" {
		t.Skip("make fleet runs this measurement")
	}
	const sidecars, tokens = 8, 10_000
	f := newFleet(t, 1, false, false, *bound, 0)
	var ids []string
	if err := f.db.SelectContext(t.Context(), &ids, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		SELECT 'velaflows', 'workspace_token', 'live', 'sk_live_', sha256(n::text::bytea), 'token', '{}', w.id
		FROM generate_series(1, $1) AS n, keywicket.workspaces w RETURNING id`, tokens); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	all := make([]*directory.Directory, sidecars)
	for i := range all {
		d, err := directory.Open(directory.Config{
			URL: withParameter(t, server.URL(f.name), "role", "keywicket_sidecar"), NoCache: true, UsageInterval: 500 * time.Millisecond,
			Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Close(context.Background()) }()
		all[i] = d
	}
	use := func() {
		var using sync.WaitGroup
		for _, d := range all {
			using.Go(func() {
				for _, id := range ids {
					d.CountUse(&authz.Principal{ID: id, Kind: authz.KindWorkspaceToken}, true)
				}
			})
		}
		using.Wait()
	}
	await := func(total int) {
		err := eventuallyWithin(2*time.Minute, "the use is written", func() bool {
			time.Sleep(50 * time.Millisecond)
			var counts int
			err := f.db.GetContext(t.Context(), &counts, `SELECT COALESCE(sum(allowed), 0) FROM keywicket.token_use`)
			return err == nil && counts == total
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cost := func(what string, action func()) {
		before, begin := postgresCPU(t), time.Now()
		action()
		used := postgresCPU(t) - before
		t.Logf("%s: %.1f µs of Postgres' CPU per sidecar and token, in %v", what, float64(used.Microseconds())/(sidecars*tokens), time.Since(begin).Round(time.Millisecond))
	}
	cost("first use", func() { use(); await(sidecars * tokens) })
	for round := 2; round < 5; round++ {
		ahead.Add(int64(62 * time.Second))
		cost("last use", func() { use(); time.Sleep(12 * time.Second) })
		ahead.Add(int64(10 * time.Minute))
		cost("last use and counts", func() { await(sidecars * tokens * round) })
	}
	use()
	begin := time.Now()
	if err := all[0].Close(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("at its end, a sidecar writes the use of %d tokens in %v", tokens, time.Since(begin).Round(time.Millisecond))
}
