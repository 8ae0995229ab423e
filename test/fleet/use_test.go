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
	written := func() (uses, counts int) {
		// pg_stat_xact views are not needed: each batch of 100 rows calls each statement once.
		if err := f.db.QueryRowContext(t.Context(), `SELECT COALESCE(sum(allowed), 0) FROM keywicket.token_use`).Scan(&counts); err != nil {
			t.Fatal(err)
		}
		return 0, counts
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
		if err := eventuallyWithin(2*time.Minute, "the use is written", func() bool { _, n := written(); time.Sleep(50 * time.Millisecond); return n == total }); err != nil {
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
		cost("counts", func() { await(sidecars * tokens * round) })
	}
}
