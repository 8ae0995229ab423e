package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// keepUp has the upkeep done now, as the sidecar's login, as if a minute had passed.
func (f *fixture) keepUp(t *testing.T) {
	t.Helper()
	f.exec(t, `UPDATE keywicket.upkeep SET marked_at = '-infinity'`)
	openDB(t, sidecarURL(f.url)).MustExec(`SELECT keywicket.keep_up()`)
}

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

	// A transaction that was open at a mark may be news to a sidecar, however old its row is.
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

	// Rows and a mark that a dump brought from a server which is ahead.
	f.exec(t, `INSERT INTO keywicket.changes (xid, keys) VALUES ('99999999', '*')`)
	f.exec(t, `UPDATE keywicket.upkeep SET mark = '99999998:99999999:99999998'`)
	f.exec(t, `UPDATE keywicket.workspaces SET name = 'news'`)
	f.keepUp(t)
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.changes WHERE xid < '99999999'`); n == 0 {
		t.Error("the mark of another server deletes what nobody may have read")
	}
	f.keepUp(t)
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.changes WHERE xid = '99999999'`); n != 0 {
		t.Error("a row of another server stays for good")
	}
}

// The upkeep that runs twice within a reading of the log may have deleted rows that were not read.
func TestGapInTheLogForgetsEverything(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t, "issues:read")
	d := f.listening(t)
	f.keepUp(t)
	remembered := func() bool { return must(d.Lookup(t.Context(), lookup(key))).Cache == authz.CacheHit }
	eventually(t, "it is remembered", remembered)
	if n := d.CacheStats().Epochs["gap"]; n != 0 {
		t.Errorf("one cleaning is a gap: %d", n)
	}
	f.exec(t, `UPDATE keywicket.world SET number = number + 2`)
	eventually(t, "everything is forgotten", func() bool { return d.CacheStats().Epochs["gap"] == 1 })
}

// Whoever deletes from the log by hand has every sidecar forget everything.
func TestDeletionsFromTheLogAreTold(t *testing.T) {
	f := newFixture(t)
	d := f.listening(t)
	for _, statement := range []string{
		`DELETE FROM keywicket.changes`,
		`UPDATE keywicket.changes SET keys = 'ack'`,
		`TRUNCATE keywicket.changes`,
	} {
		before := d.CacheStats().Epochs
		f.exec(t, statement)
		eventually(t, "everything is forgotten after "+statement, func() bool {
			after := d.CacheStats().Epochs
			return after["notice"]+after["world"] > before["notice"]+before["world"]
		})
	}
}

// The usage of tokens that are gone is deleted, a thousand rows a minute.
func TestUpkeepSweepsUsage(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `INSERT INTO keywicket.token_usage SELECT 'gone-' || n, now() FROM generate_series(1, 1500) n`)
	stays, _ := f.workspaceToken(t)
	f.exec(t, `INSERT INTO keywicket.token_usage VALUES ($1, now())`, stays.ID)
	for range 3 {
		f.keepUp(t)
	}
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.token_usage`); n != 1 || f.usedAgo(t, stays) < 0 {
		t.Errorf("%d rows are left", n)
	}
	f.exec(t, `INSERT INTO keywicket.token_usage VALUES ('a', now())`)
	for range 3 { // it begins anew
		f.keepUp(t)
	}
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.token_usage`); n != 1 {
		t.Errorf("%d rows are left", n)
	}
}

// Many rows are deleted in several calls, so that none takes long. From the first one on, the number of marks is another.
func TestUpkeepCleansALittleAtATime(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `INSERT INTO keywicket.changes (keys) SELECT '00000001' FROM generate_series(1, 45000)`)
	f.keepUp(t) // sets a mark that sees them
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

// The product publishes all its tables.
func TestUpkeepBesideAPublicationOfEverything(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `CREATE PUBLICATION everything FOR ALL TABLES`)
	f.keepUp(t)
	f.keepUp(t)
	if n := value[int](t, f.db, `SELECT count(*) FROM keywicket.changes`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// Nobody waits for a standby that is gone on behalf of the upkeep: it would keep a row locked that every sidecar needs.
func TestUpkeepWaitsForNoStandby(t *testing.T) {
	s := serverWith(t, map[string]string{"synchronous_commit": "on"})
	f := fixtureAt(t, s.URL("postgres"))
	d := f.listening(t)
	f.exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`)
	f.exec(t, `SELECT pg_reload_conf()`)
	eventually(t, "who commits waits", func() bool {
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
	// One that waits ends with its context, and without an error.
	if _, err := openDB(t, sidecarURL(f.url)).ExecContext(ctx, `SELECT keywicket.keep_up()`); err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	eventually(t, "the cache is in use", func() bool { return d.CacheStats().LeaseLeft > 0 })
}
