package directory_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/storetest"
)

// The upkeep is the regular deletion of old rows. A complete run stores a snapshot, the mark. Of the rows that this server wrote
// into the log, the next run deletes only those that are visible in the mark.
func TestUpkeepCleansTheLog(t *testing.T) {
	f := storetest.NewFixture(t)
	logged := func() int { return storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.changes`) }
	if logged() == 0 {
		t.Fatal("the fixture's changes are not in the log")
	}
	before := logged()
	f.RunUpkeep(t)
	if n := logged(); n != before {
		t.Errorf("the first run of the upkeep deleted rows that the previous mark does not include: %d of %d are left", n, before)
	}
	f.RunUpkeep(t)
	if n := logged(); n != 0 {
		t.Errorf("%d rows that the previous mark includes are left", n)
	}

	// If a transaction was open when the mark was set, its rows are not visible in the mark. These rows may be old, but perhaps no
	// sidecar has read them.
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `UPDATE keywicket.workspaces SET name = 'open'`))
	f.RunUpkeep(t)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	f.RunUpkeep(t)
	if n := logged(); n != 1 {
		t.Errorf("the transaction was open when the mark was set: %d of its rows are left, not 1", n)
	}
	f.RunUpkeep(t)
	if n := logged(); n != 0 {
		t.Errorf("%d rows of the transaction are left, although the transaction was visible in the mark", n)
	}

	// A restored dump can contain rows and a mark from a server whose transaction ids are greater than the ids of this server.
	f.Exec(t, `INSERT INTO keywicket.changes (xid, keys) VALUES ('99999999', '*')`)
	f.Exec(t, `UPDATE keywicket.upkeep SET mark = '99999998:99999999:99999998'`)
	f.Exec(t, `UPDATE keywicket.workspaces SET name = 'news'`)
	f.RunUpkeep(t)
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.changes WHERE xid < '99999999'`); n == 0 {
		t.Error("because of the mark of another server, the upkeep deletes rows that may be unread")
	}
	f.RunUpkeep(t)
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.changes WHERE xid = '99999999'`); n != 0 {
		t.Error("a row of another server is never deleted")
	}
}

// If the upkeep runs twice between two readings of the log, the upkeep may delete rows that a sidecar has not read. So the sidecar
// discards all cached answers.
func TestGapInTheLogDropsTheCache(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t, "issues:read")
	d := f.CachedDirectory(t)
	f.RunUpkeep(t)
	cacheHit := func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))).Cache == authz.CacheHit
	}
	storetest.Eventually(t, "the answer is cached", cacheHit)
	if n := d.CacheStats().Discarded["gap"]; n != 0 {
		t.Errorf("one cleaning counts as a gap: %d", n)
	}
	// Sidecars read this number. It grows by 2, as after two runs of the upkeep.
	f.Exec(t, `UPDATE keywicket.world SET number = number + 2`)
	storetest.Eventually(t, "all cached answers are discarded", func() bool { return d.CacheStats().Discarded["gap"] == 1 })
}

// After a manual change or deletion of rows of the log, every sidecar discards all cached answers.
func TestManualChangesOfTheLogAreReported(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.CachedDirectory(t)
	for _, statement := range []string{
		`DELETE FROM keywicket.changes`,
		`UPDATE keywicket.changes SET keys = 'ack'`,
		`TRUNCATE keywicket.changes`,
	} {
		before := d.CacheStats().Discarded
		f.Exec(t, statement)
		storetest.Eventually(t, "all cached answers are discarded after "+statement, func() bool {
			after := d.CacheStats().Discarded
			return after["notice"]+after["world"] > before["notice"]+before["world"]
		})
	}
}

// The upkeep deletes the usage of deleted tokens. Each call examines up to 1,000 rows of token_usage.
func TestUpkeepDeletesUsageOfDeletedTokens(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `INSERT INTO keywicket.token_usage SELECT 'gone-' || n, now() FROM generate_series(1, 1500) n`)
	existing, _ := f.WorkspaceToken(t)
	f.Exec(t, `INSERT INTO keywicket.token_usage VALUES ($1, now())`, existing.ID)
	for range 3 {
		f.RunUpkeep(t)
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.token_usage`); n != 1 || usedAgo(t, f, existing) < 0 {
		t.Errorf("%d rows are left", n)
	}
	f.Exec(t, `INSERT INTO keywicket.token_usage VALUES ('a', now())`)
	for range 3 { // the upkeep starts again from the first token_id
		f.RunUpkeep(t)
	}
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.token_usage`); n != 1 {
		t.Errorf("%d rows are left", n)
	}
}

// If the upkeep has to delete many rows, it needs several calls, so that each call is short. The first of these calls increases
// the value in the column `number` of the table keywicket.upkeep. So sidecars detect the cleaning.
func TestUpkeepDeletesInSmallBatches(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `INSERT INTO keywicket.changes (keys) SELECT '00000001' FROM generate_series(1, 45000)`)
	f.RunUpkeep(t) // this run sets a mark (a snapshot) in which the rows are visible
	var left, numbers []int
	for range 4 {
		f.RunUpkeep(t)
		left = append(left, storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.changes`))
		numbers = append(numbers, storetest.Value[int](t, f.DB, `SELECT number FROM keywicket.upkeep`))
	}
	rows := left[0] + 20000
	if want := []int{rows - 20000, rows - 40000, 0, 0}; !slices.Equal(left, want) {
		t.Errorf("%v rows are left, not %v", left, want)
	}
	if first := numbers[0]; first != 3 || !slices.Equal(numbers, []int{first, first, first + 1, first + 2}) {
		t.Errorf("the numbers are %v", numbers)
	}
}

// The upkeep also works if a publication contains all tables.
func TestUpkeepWithAPublicationForAllTables(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `CREATE PUBLICATION everything FOR ALL TABLES`)
	f.RunUpkeep(t)
	f.RunUpkeep(t)
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.changes`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// The upkeep locks a row that every sidecar needs. So the upkeep must not wait for an unreachable standby.
func TestUpkeepDoesNotWaitForAStandby(t *testing.T) {
	s := storetest.ServerWith(t, map[string]string{"synchronous_commit": "on"})
	f := storetest.FixtureAt(t, s.URL("postgres"))
	d := f.CachedDirectory(t)
	f.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`)
	f.Exec(t, `SELECT pg_reload_conf()`)
	storetest.Eventually(t, "commits wait for the standby", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, _ = f.DB.ExecContext(ctx, `UPDATE keywicket.workspaces SET name = 'waits'`)
		return ctx.Err() != nil
	})
	local := storetest.Must(f.DB.Connx(t.Context()))
	defer func() { _ = local.Close() }()
	storetest.Must(local.ExecContext(t.Context(), `SET synchronous_commit = local`))
	storetest.Must(local.ExecContext(t.Context(), `UPDATE keywicket.upkeep SET marked_at = '-infinity'`))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// A call that waits for a standby returns no error when its context ends, so the test also checks the context.
	if _, err := storetest.OpenDB(t, storetest.SidecarURL(f.URL)).ExecContext(ctx, `SELECT keywicket.keep_up()`); err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	storetest.Eventually(t, "the cache is in use", func() bool { return d.CacheStats().LeaseLeft > 0 })
}

// The upkeep deletes counts that are more than 400 days old.
func TestUpkeepDeletesOldCounts(t *testing.T) {
	f := storetest.NewFixture(t)
	token, _ := f.WorkspaceToken(t)
	f.Exec(t, `INSERT INTO keywicket.token_use SELECT $1, (now() AT TIME ZONE 'UTC')::date - n, 1, 1 FROM generate_series(0, 500) n`, token.ID)
	f.Exec(t, `INSERT INTO keywicket.token_use SELECT 'gone-' || n, '2020-01-01', 1, 1 FROM generate_series(1, 15000) n`)
	f.RunUpkeep(t)
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.token_use`); n != 501+5000 {
		t.Errorf("after one call, %d rows are left", n)
	}
	f.RunUpkeep(t)
	if got := countsOf(t, f, token.ID); len(got) != 401 || got[0].Day != -400 {
		t.Errorf("the counts of %d days are left, since %+v", len(got), got[0])
	}
}

// The upkeep deletes the last use of deleted grants.
func TestUpkeepDeletesUsageOfDeletedGrants(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	existing := g.ExchangeCode(t, g.NewCode(t)).Grant
	g.Exec(t, `INSERT INTO keywicket.grant_usage SELECT 'gone-' || n, now() FROM generate_series(1, 1500) n`)
	g.Exec(t, `INSERT INTO keywicket.grant_usage VALUES ($1, now())`, existing)
	for range 3 {
		g.RunUpkeep(t)
	}
	g.Exec(t, `INSERT INTO keywicket.grant_usage VALUES ('a', now())`)
	for range 3 { // the upkeep starts again from the first grant_id
		g.RunUpkeep(t)
	}
	if left := storetest.Value[string](t, g.DB, `SELECT string_agg(grant_id, ' ') FROM keywicket.grant_usage`); left != existing {
		t.Errorf("the usage of these grants is left: %s", left)
	}
}
