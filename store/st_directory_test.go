package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

// cachedDirectory returns a directory whose cache is in use.
func (f *fixture) cachedDirectory(t *testing.T, changes ...func(*store.Config)) *store.Directory {
	t.Helper()
	d := f.directory(t, func(c *store.Config) {
		c.NoCache = false
		for _, change := range changes {
			change(c)
		}
	})
	for deadline := time.Now().Add(time.Minute); d.Ready(t.Context()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(d.Ready(t.Context()))
		}
	}
	return d
}

// directory opens a directory without a cache and with a timeout that is long enough for a test machine. The test closes it at its
// end.
func (f *fixture) directory(t testing.TB, change func(*store.Config)) *store.Directory {
	t.Helper()
	c := store.Config{URL: sidecarURL(f.url), LookupTimeout: 10 * time.Second, UsageInterval: time.Hour, NoCache: true}
	if change != nil {
		change(&c)
	}
	d, err := store.OpenDirectory(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

// sidecarURL returns the URL of a login with exactly the privileges of the role keywicket_sidecar.
func sidecarURL(databaseURL string) string { return with(databaseURL, "role", "keywicket_sidecar") }

// keepUp runs the upkeep now with the sidecar's login, as if a minute had passed.
func (f *fixture) keepUp(t *testing.T) {
	t.Helper()
	f.exec(t, `UPDATE keywicket.upkeep SET marked_at = '-infinity'`)
	openDB(t, sidecarURL(f.url)).MustExec(`SELECT keywicket.keep_up()`)
}

// occupyConnections opens all eight connections of the directory, and occupies them with look-ups that wait for a lock. It starts the
// look-ups one after the other, because concurrent ones would share a query.
func (f *fixture) occupyConnections(t *testing.T, d *store.Directory) (release func()) {
	t.Helper()
	tx := must(f.db.BeginTxx(t.Context(), nil))
	must(tx.ExecContext(t.Context(), `LOCK keywicket.members IN ACCESS EXCLUSIVE MODE`))
	var wg sync.WaitGroup
	release = sync.OnceFunc(func() {
		_ = tx.Rollback()
		wg.Wait()
	})
	t.Cleanup(release)
	for n := 1; n <= 8; n++ {
		wg.Go(func() {
			if got, err := d.Lookup(t.Context(), lookup(vel.NewKey())); err != nil || got.Denial != authz.ReasonUnknown {
				t.Errorf("a token whose look-up had to wait: %+v, %v", got, err)
			}
		})
		f.awaitLocks(t, n)
	}
	return release
}

func (f *fixture) awaitLocks(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d queries wait for a lock", n), func() bool {
		return value[int](t, f.db, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) == n
	})
}
