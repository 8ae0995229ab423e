package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
)

// CachedDirectory returns a [directory.Directory] with a cache, and waits until the cache is in use.
func (f *Fixture) CachedDirectory(t *testing.T, changes ...func(*directory.Config)) *directory.Directory {
	t.Helper()
	d := f.Directory(t, func(c *directory.Config) {
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

// Directory opens a [directory.Directory] without a cache and with a timeout that is long enough for a test machine. The
// directory is closed when the test ends.
func (f *Fixture) Directory(t testing.TB, change func(*directory.Config)) *directory.Directory {
	t.Helper()
	c := directory.Config{URL: SidecarURL(f.URL), LookupTimeout: 10 * time.Second, UsageInterval: time.Hour, NoCache: true}
	if change != nil {
		change(&c)
	}
	d, err := directory.Open(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

// SidecarURL returns the URL for a connection with exactly the privileges of the role keywicket_sidecar.
func SidecarURL(databaseURL string) string {
	return WithOption(databaseURL, "role", "keywicket_sidecar")
}

// RunUpkeep runs the upkeep (the deletion of old rows) now, with the sidecar's privileges, as if a minute had passed since the
// last run.
func (f *Fixture) RunUpkeep(t *testing.T) {
	t.Helper()
	f.Exec(t, `UPDATE keywicket.upkeep SET marked_at = '-infinity'`)
	OpenDB(t, SidecarURL(f.URL)).MustExec(`SELECT keywicket.keep_up()`)
}

// OccupyConnections opens all eight connections of d, and occupies them with look-ups that wait for a lock. It starts the
// look-ups one after the other, because concurrent look-ups would share a query.
func (f *Fixture) OccupyConnections(t *testing.T, d *directory.Directory) (release func()) {
	t.Helper()
	tx := Must(f.DB.BeginTxx(t.Context(), nil))
	Must(tx.ExecContext(t.Context(), `LOCK keywicket.members IN ACCESS EXCLUSIVE MODE`))
	var wg sync.WaitGroup
	release = sync.OnceFunc(func() {
		_ = tx.Rollback()
		wg.Wait()
	})
	t.Cleanup(release)
	for n := 1; n <= 8; n++ {
		wg.Go(func() {
			if got, err := d.Lookup(t.Context(), Lookup(Vel.NewKey())); err != nil || got.Denial != authz.ReasonUnknown {
				t.Errorf("a token whose look-up had to wait: %+v, %v", got, err)
			}
		})
		f.AwaitLocks(t, n)
	}
	return release
}

// AwaitLocks waits until n queries in the database wait for a lock.
func (f *Fixture) AwaitLocks(t *testing.T, n int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d queries wait for a lock", n), func() bool {
		return Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) == n
	})
}
