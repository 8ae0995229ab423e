package sidecars_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/sidecars"
	"github.com/keywicket/keywicket/store/storetest"
)

// aliveSidecars returns the ids of the sidecars that the list shows as alive.
func aliveSidecars(t *testing.T, f *storetest.Fixture) (ids []string) {
	t.Helper()
	for _, s := range storetest.Must(f.Sidecars(t.Context())) {
		if s.Alive {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func TestSidecarsAreListed(t *testing.T) {
	f := storetest.NewFixture(t)
	if got := storetest.Must(f.Sidecars(t.Context())); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	f.CachedDirectory(t, func(c *directory.Config) { c.Version, c.Policies = "v1.2.3", "0123456789ab" })
	f.CachedDirectory(t)
	var list []sidecars.Sidecar
	storetest.Eventually(t, "both sidecars have written a heartbeat", func() bool {
		list = storetest.Must(f.Sidecars(t.Context()))
		return len(list) == 2 && list[0].Lease > 0 && list[1].Lease > 0
	})
	i := slices.IndexFunc(list, func(s sidecars.Sidecar) bool { return s.Version == "v1.2.3" })
	if i < 0 || list[0].ID == list[1].ID {
		t.Fatalf("%+v", list)
	}
	if s := list[i]; s.Policies != "0123456789ab" || !s.Alive || s.Lease > time.Second || s.Lag <= 0 || s.ID == "" || s.SeenAt == nil || s.SeenAt.Before(s.StartedAt) {
		t.Errorf("%+v", s)
	}
	f.Exec(t, `UPDATE keywicket.sidecars SET seen_at = seen_at - interval '32 seconds' WHERE id = $1`, list[i].ID)
	if alive := aliveSidecars(t, f); slices.Contains(alive, list[i].ID) || len(alive) != 1 {
		t.Errorf("one sidecar was last seen 32 s ago: %v are alive", alive)
	}
}

// After WaitForSidecars has returned, no sidecar allows a credential that was revoked before the call.
func TestWaitForSidecars(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*directory.Config){
		"with notifications":    func(*directory.Config) {},
		"without notifications": func(c *directory.Config) { c.NoHints = true },
	} {
		t.Run(name, func(t *testing.T) {
			f := storetest.NewFixture(t)
			if b := storetest.Must(f.WaitForSidecars(t.Context())); len(b.Confirmed)+len(b.Silent) != 0 || b.String() == "" {
				t.Errorf("without a sidecar: %+v", b)
			}
			var directories []*directory.Directory
			for range 4 {
				directories = append(directories, f.CachedDirectory(t, change, func(c *directory.Config) { c.Cache.StalenessBound = 3 * time.Second }))
			}
			for range 10 {
				token, key := f.WorkspaceToken(t, "issues:read")
				for _, d := range directories {
					storetest.Eventually(t, "the answer is cached", func() bool {
						found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
						return found.Cache == authz.CacheHit && found.Denial == ""
					})
				}
				storetest.Must(f.RevokeToken(t.Context(), token.ID))
				b := storetest.Must(f.WaitForSidecars(t.Context()))
				for i, d := range directories {
					if found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); found.Denial != authz.ReasonRevoked {
						t.Errorf("sidecar %d after %v: %+v", i, b, found)
					}
				}
				if len(b.Confirmed) != 4 || len(b.Silent) != 0 || !strings.HasPrefix(b.String(), "4 sidecars confirmed after ") {
					t.Errorf("%v", b)
				}
			}
		})
	}
}

// When a sidecar cannot read the log, it stops using its cache after its staleness bound. WaitForSidecars waits until this time
// has passed.
func TestWaitListsSilentSidecars(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t, "issues:read")
	f.CachedDirectory(t)
	p := storetest.NewProxy(t, f.URL)
	silent := f.CachedDirectory(t, func(c *directory.Config) {
		c.URL = p.URL(c.URL)
		c.Cache.StalenessBound = 2 * time.Second
		c.Cache.StaleIfError = time.Minute
	})
	storetest.Eventually(t, "the answer is cached", func() bool {
		return storetest.Must(silent.Lookup(t.Context(), storetest.Lookup(key))).Cache == authz.CacheHit
	})
	p.FaultOnOpenConnections(storetest.Silence)
	storetest.Must(f.RevokeToken(t.Context(), token.ID))
	b := storetest.Must(f.WaitForSidecars(t.Context()))
	if len(b.Confirmed) != 1 || len(b.Silent) != 1 || b.Waited < 2*time.Second || b.StaleIfError != time.Minute ||
		!strings.Contains(b.String(), "1 of 2 sidecars confirmed") || !strings.Contains(b.String(), b.Silent[0]) ||
		!strings.Contains(b.String(), "stale_if_error") {
		t.Errorf("%+v: %v", b, b)
	}
	if silent.CacheStats().LeaseLeft > 0 {
		t.Error("the silent sidecar uses its cache")
	}
}

// A crash of the server empties the list of sidecars. The sidecars may still use their caches until their leases expire.
// WaitForSidecars waits until the leases have expired.
func TestWaitAfterACrash(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t, "issues:read")
	p := storetest.NewProxy(t, f.URL)
	d := f.CachedDirectory(t, func(c *directory.Config) { c.URL = p.URL(c.URL) })
	storetest.Eventually(t, "the answer is cached", func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))).Cache == authz.CacheHit
	})
	f.Exec(t, `CHECKPOINT`)                     // without the checkpoint, the crash could lose the token
	p.FaultOnOpenConnections(storetest.Silence) // the sidecar does not notice the crash
	p.Redirect("postgres://127.0.0.1:1")
	storetest.CrashBackend(t, storetest.Value[int](t, f.DB, `SELECT pg_backend_pid()`))
	storetest.Eventually(t, "the server has recovered", func() bool { _, err := f.DB.Exec(`SELECT 1`); return err == nil })
	storetest.Eventually(t, "the token is revoked, on a new connection", func() bool {
		_, err := f.RevokeToken(t.Context(), token.ID)
		return err == nil
	})
	b := storetest.Must(f.WaitForSidecars(t.Context()))
	if d.CacheStats().LeaseLeft > 0 {
		t.Errorf("after %v the sidecar uses its cache", b)
	}
	if b.Waited < time.Second || len(b.Confirmed) != 0 {
		t.Errorf("%+v", b)
	}
}

// WaitForSidecars does not wait for a sidecar that has marked itself as stopped. If a sidecar has sent no heartbeat for a while
// without this mark, WaitForSidecars waits for the sidecar's staleness bound. Such a sidecar may be alive, because the database's
// clock may have been set forward.
func TestWaitForStoppedSidecars(t *testing.T) {
	t.Parallel()
	f := storetest.NewFixture(t)
	d := f.CachedDirectory(t, func(c *directory.Config) { c.Cache.StalenessBound = 3 * time.Second })
	// A new row of keywicket.world means that a crash may have emptied the list of sidecars, so WaitForSidecars would wait. Make the
	// row older.
	f.Exec(t, `UPDATE keywicket.world SET made_at = made_at - interval '1 minute'`)
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b := storetest.Must(f.WaitForSidecars(t.Context())); b.Waited > 2*time.Second || len(b.Confirmed)+len(b.Silent) != 0 {
		t.Errorf("a sidecar that has stopped: %+v", b)
	}
	f.Exec(t, `UPDATE keywicket.sidecars SET seen_at = now() - interval '1 minute'`)
	if b := storetest.Must(f.WaitForSidecars(t.Context())); b.Waited < 3*time.Second || len(b.Confirmed)+len(b.Silent) != 0 {
		t.Errorf("a sidecar that was last seen a minute ago: %+v", b)
	}
}

// WaitForSidecars does not wait for a sidecar that seems to have stopped. So a sidecar that cannot write heartbeats must not use
// its cache.
func TestSidecarWithoutHeartbeatUsesNoCache(t *testing.T) {
	t.Parallel()
	f := storetest.NewFixture(t)
	d := f.CachedDirectory(t)
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `SELECT id FROM keywicket.sidecars FOR UPDATE`))
	eventuallySlow(t, "the cache is not in use", func() bool { return d.CacheStats().LeaseLeft == 0 && len(aliveSidecars(t, f)) == 1 })
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	eventuallySlow(t, "the cache is in use again", func() bool { return d.CacheStats().LeaseLeft > 0 })
}

// eventuallySlow is [storetest.Eventually] with a longer timeout.
func eventuallySlow(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// A sidecar with stale_if_error may use cached answers from before the change, even if the sidecar no longer counts as alive.
func TestWaitListsSidecarsThatMayUseStaleAnswers(t *testing.T) {
	f := storetest.NewFixture(t)
	p := storetest.NewProxy(t, f.URL)
	f.CachedDirectory(t, func(c *directory.Config) { c.URL, c.Cache.StaleIfError = p.URL(c.URL), time.Hour })
	p.FaultOnOpenConnections(storetest.Silence)
	p.Redirect("postgres://127.0.0.1:1")
	time.Sleep(100 * time.Millisecond) // wait until pending replies have arrived
	f.Exec(t, `UPDATE keywicket.sidecars SET seen_at = now() - interval '10 minutes'`)
	if b := storetest.Must(f.WaitForSidecars(t.Context())); len(b.Silent) != 1 || b.StaleIfError != time.Hour {
		t.Errorf("%+v", b)
	}
	f.Exec(t, `UPDATE keywicket.sidecars SET seen_at = now() - interval '2 hours'`)
	if b := storetest.Must(f.WaitForSidecars(t.Context())); len(b.Silent) != 0 || b.StaleIfError != 0 {
		t.Errorf("after stale_if_error has passed: %+v", b)
	}
}

func TestWaitEndsWhenTheDatabaseIsSilent(t *testing.T) {
	t.Parallel()
	f := storetest.NewFixture(t)
	p := storetest.NewProxy(t, f.URL)
	r := storetest.Must(registry.Open(t.Context(), p.URL(f.URL)))
	defer func() { _ = r.Close() }()
	p.FaultOnOpenConnections(storetest.Silence)
	p.Redirect("postgres://127.0.0.1:1")
	done := make(chan error, 1)
	go func() { _, err := r.WaitForSidecars(t.Context()); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitForSidecars returned %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("WaitForSidecars does not return")
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	f := storetest.NewFixture(t)
	p := storetest.NewProxy(t, f.URL)
	f.CachedDirectory(t, func(c *directory.Config) {
		c.URL = p.URL(c.URL)
		c.Cache.StalenessBound = time.Hour
	})
	p.FaultOnOpenConnections(storetest.Silence)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := f.WaitForSidecars(ctx); done <- err }()
	storetest.Eventually(t, "WaitForSidecars has notified the sidecars", func() bool {
		return storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.changes WHERE keys = 'ack'`) == 1
	})
	cancel()
	if err := <-done; err == nil {
		t.Error("WaitForSidecars did not wait")
	}
}
