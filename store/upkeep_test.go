package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
)

func TestUpkeepCleansTheLog(t *testing.T) {
	f := newFixture(t)
	logged := func() int { return value[int](t, f.db, `SELECT count(*) FROM keywicket.changes`) }
	if logged() == 0 {
		t.Fatal("the fixture left nothing in the log")
	}
	before := logged()
	f.keepUp(t)
	if n := logged(); n != before {
		t.Errorf("rows that the first mark does not see are deleted: %d of %d", n, before)
	}
	f.keepUp(t)
	if n := logged(); n != 0 {
		t.Errorf("%d rows are left that a mark sees", n)
	}

	// A sidecar may not have read a transaction that was open at a mark, however old its row is.
	tx := must(f.db.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	must(tx.ExecContext(t.Context(), `UPDATE keywicket.workspaces SET name = 'open'`))
	f.keepUp(t)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	f.keepUp(t)
	if n := logged(); n != 1 {
		t.Errorf("%d rows are left of the transaction that was open at the mark", n)
	}
	f.keepUp(t)
	if n := logged(); n != 0 {
		t.Errorf("%d rows are left of the transaction that was open at the mark before", n)
	}

	// A dump can contain rows and a mark from a server with later transaction ids.
	f.exec(t, `INSERT INTO keywicket.changes (xid, keys) VALUES ('99999999', '*')`)
	f.exec(t, `UPDATE keywicket.upkeep SET mark = '99999998:99999999:99999998'`)
	f.exec(t, `UPDATE keywicket.workspaces SET name = 'news'`)
	f.keepUp(t)
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.changes WHERE xid < '99999999'`); n == 0 {
		t.Error("the mark of another server deletes rows that may be unread")
	}
	f.keepUp(t)
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.changes WHERE xid = '99999999'`); n != 0 {
		t.Error("a row of another server is never deleted")
	}
}

// If the upkeep runs twice between two readings of the log, it may delete rows that were not read.
func TestGapInTheLogForgetsEverything(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t, "issues:read")
	d := f.cachedDirectory(t)
	f.keepUp(t)
	cacheHit := func() bool { return must(d.Lookup(t.Context(), lookup(key))).Cache == authz.CacheHit }
	eventually(t, "it is cached", cacheHit)
	if n := d.CacheStats().Epochs["gap"]; n != 0 {
		t.Errorf("one cleaning is a gap: %d", n)
	}
	f.exec(t, `UPDATE keywicket.world SET number = number + 2`)
	eventually(t, "all answers are discarded", func() bool { return d.CacheStats().Epochs["gap"] == 1 })
}

// After a manual deletion from the log, every sidecar discards all answers.
func TestDeletionsFromTheLogAreTold(t *testing.T) {
	f := newFixture(t)
	d := f.cachedDirectory(t)
	for _, statement := range []string{
		`DELETE FROM keywicket.changes`,
		`UPDATE keywicket.changes SET keys = 'ack'`,
		`TRUNCATE keywicket.changes`,
	} {
		before := d.CacheStats().Epochs
		f.exec(t, statement)
		eventually(t, "all answers are discarded after "+statement, func() bool {
			after := d.CacheStats().Epochs
			return after["notice"]+after["world"] > before["notice"]+before["world"]
		})
	}
}

// The upkeep deletes the usage of deleted tokens, a thousand rows a minute.
func TestUpkeepSweepsUsage(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `INSERT INTO keywicket.token_usage SELECT 'gone-' || n, now() FROM generate_series(1, 1500) n`)
	stays, _ := f.workspaceToken(t)
	f.exec(t, `INSERT INTO keywicket.token_usage VALUES ($1, now())`, stays.ID)
	for range 3 {
		f.keepUp(t)
	}
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.token_usage`); n != 1 || usedAgo(t, f, stays) < 0 {
		t.Errorf("%d rows are left", n)
	}
	f.exec(t, `INSERT INTO keywicket.token_usage VALUES ('a', now())`)
	for range 3 { // it starts again from the beginning
		f.keepUp(t)
	}
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.token_usage`); n != 1 {
		t.Errorf("%d rows are left", n)
	}
}

// The upkeep deletes many rows in several calls, so that no call takes long. The first call already increases the number of marks.
func TestUpkeepCleansALittleAtATime(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `INSERT INTO keywicket.changes (keys) SELECT '00000001' FROM generate_series(1, 45000)`)
	f.keepUp(t) // sets a mark that sees the rows
	var left, numbers []int
	for range 4 {
		f.keepUp(t)
		left = append(left, value[int](t, f.db, `SELECT count(*) FROM keywicket.changes`))
		numbers = append(numbers, value[int](t, f.db, `SELECT number FROM keywicket.upkeep`))
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
func TestUpkeepBesideAPublicationOfEverything(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `CREATE PUBLICATION everything FOR ALL TABLES`)
	f.keepUp(t)
	f.keepUp(t)
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.changes`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// The upkeep does not wait for an unreachable standby. Otherwise it would keep a row locked that every sidecar needs.
func TestUpkeepWaitsForNoStandby(t *testing.T) {
	s := serverWith(t, map[string]string{"synchronous_commit": "on"})
	f := fixtureAt(t, s.URL("postgres"))
	d := f.cachedDirectory(t)
	f.exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`)
	f.exec(t, `SELECT pg_reload_conf()`)
	eventually(t, "commits wait for the standby", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, _ = f.db.ExecContext(ctx, `UPDATE keywicket.workspaces SET name = 'waits'`)
		return ctx.Err() != nil
	})
	local := must(f.db.Connx(t.Context()))
	defer func() { _ = local.Close() }()
	must(local.ExecContext(t.Context(), `SET synchronous_commit = local`))
	must(local.ExecContext(t.Context(), `UPDATE keywicket.upkeep SET marked_at = '-infinity'`))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// A call that waits for a standby ends with its context, but without an error. So the test also checks the context.
	if _, err := openDB(t, sidecarURL(f.url)).ExecContext(ctx, `SELECT keywicket.keep_up()`); err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	eventually(t, "the cache is in use", func() bool { return d.CacheStats().LeaseLeft > 0 })
}
