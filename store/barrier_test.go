package store_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

// aliveSidecars returns the ids of the sidecars that the list shows as alive.
func aliveSidecars(t *testing.T, f *fixture) (ids []string) {
	t.Helper()
	for _, s := range must(f.Sidecars(t.Context())) {
		if s.Alive {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func TestSidecarsAreListed(t *testing.T) {
	f := newFixture(t)
	if got := must(f.Sidecars(t.Context())); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	f.cachedDirectory(t, func(c *store.Config) { c.Version, c.Policies = "v1.2.3", "0123456789ab" })
	f.cachedDirectory(t)
	var list []store.Sidecar
	eventually(t, "both have given a sign of life", func() bool {
		list = must(f.Sidecars(t.Context()))
		return len(list) == 2 && list[0].Lease > 0 && list[1].Lease > 0
	})
	i := slices.IndexFunc(list, func(s store.Sidecar) bool { return s.Version == "v1.2.3" })
	if i < 0 || list[0].ID == list[1].ID {
		t.Fatalf("%+v", list)
	}
	if s := list[i]; s.Policies != "0123456789ab" || !s.Alive || s.Lease > time.Second || s.Lag <= 0 || s.ID == "" || s.SeenAt == nil || s.SeenAt.Before(s.StartedAt) {
		t.Errorf("%+v", s)
	}
	f.exec(t, `UPDATE keywicket.sidecars SET seen_at = seen_at - interval '32 seconds' WHERE id = $1`, list[i].ID)
	if alive := aliveSidecars(t, f); slices.Contains(alive, list[i].ID) || len(alive) != 1 {
		t.Errorf("one was last seen 32 s ago: %v are alive", alive)
	}
}

// After Wait has returned, no sidecar allows a credential that was revoked before.
func TestWaitForSidecars(t *testing.T) {
	for name, change := range map[string]func(*store.Config){
		"with hints":    func(*store.Config) {},
		"without hints": func(c *store.Config) { c.NoHints = true },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if b := must(f.Wait(t.Context())); len(b.Confirmed)+len(b.Silent) != 0 || b.String() == "" {
				t.Errorf("without a sidecar: %+v", b)
			}
			var directories []*store.Directory
			for range 4 {
				directories = append(directories, f.cachedDirectory(t, change, func(c *store.Config) { c.Cache.StalenessBound = 3 * time.Second }))
			}
			for range 10 {
				token, key := f.workspaceToken(t, "issues:read")
				for _, d := range directories {
					eventually(t, "it is cached", func() bool {
						found := must(d.Lookup(t.Context(), lookup(key)))
						return found.Cache == authz.CacheHit && found.Denial == ""
					})
				}
				must(f.RevokeToken(t.Context(), token.ID))
				b := must(f.Wait(t.Context()))
				for i, d := range directories {
					if found := must(d.Lookup(t.Context(), lookup(key))); found.Denial != authz.ReasonRevoked {
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

// A sidecar that cannot read the log stops using its cache after its bound. Wait waits for that.
func TestWaitNamesSilentSidecars(t *testing.T) {
	f := newFixture(t)
	token, key := f.workspaceToken(t, "issues:read")
	f.cachedDirectory(t)
	p := newProxy(t, f.url)
	silent := f.cachedDirectory(t, func(c *store.Config) {
		c.URL = p.through(c.URL)
		c.Cache.StalenessBound = 2 * time.Second
		c.Cache.StaleIfError = time.Minute
	})
	eventually(t, "it is cached", func() bool {
		return must(silent.Lookup(t.Context(), lookup(key))).Cache == authz.CacheHit
	})
	p.onNextByte(silence)
	must(f.RevokeToken(t.Context(), token.ID))
	b := must(f.Wait(t.Context()))
	if len(b.Confirmed) != 1 || len(b.Silent) != 1 || b.Waited < 2*time.Second || b.StaleIfError != time.Minute ||
		!strings.Contains(b.String(), "1 of 2 sidecars confirmed") || !strings.Contains(b.String(), b.Silent[0]) ||
		!strings.Contains(b.String(), "stale_if_error") {
		t.Errorf("%+v: %v", b, b)
	}
	if silent.CacheStats().LeaseLeft > 0 {
		t.Error("the silent sidecar uses its cache")
	}
}

// A crash empties the list of sidecars. They may use their caches until their leases end. Wait waits for that.
func TestWaitAfterACrash(t *testing.T) {
	f := newFixture(t)
	token, key := f.workspaceToken(t, "issues:read")
	p := newProxy(t, f.url)
	d := f.cachedDirectory(t, func(c *store.Config) { c.URL = p.through(c.URL) })
	eventually(t, "it is cached", func() bool { return must(d.Lookup(t.Context(), lookup(key))).Cache == authz.CacheHit })
	f.exec(t, `CHECKPOINT`) // so that the token is not lost
	p.onNextByte(silence)   // the sidecar does not notice the crash
	p.redirect("postgres://127.0.0.1:1")
	crashBackend(t, value[int](t, f.db, `SELECT pg_backend_pid()`))
	eventually(t, "the server has recovered", func() bool { _, err := f.db.Exec(`SELECT 1`); return err == nil })
	must(f.RevokeToken(t.Context(), token.ID))
	b := must(f.Wait(t.Context()))
	if d.CacheStats().LeaseLeft > 0 {
		t.Errorf("after %v the sidecar uses its cache", b)
	}
	if b.Waited < time.Second || len(b.Confirmed) != 0 {
		t.Errorf("%+v", b)
	}
}

// Wait does not wait for a sidecar that has stopped. It waits for one that may be alive, whatever the database's clock shows.
func TestWaitForSidecarsThatAreGone(t *testing.T) {
	f := newFixture(t)
	d := f.cachedDirectory(t, func(c *store.Config) { c.Cache.StalenessBound = 3 * time.Second })
	f.exec(t, `UPDATE keywicket.world SET made_at = made_at - interval '1 minute'`)
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b := must(f.Wait(t.Context())); b.Waited > 2*time.Second || len(b.Confirmed)+len(b.Silent) != 0 {
		t.Errorf("a sidecar that has stopped: %+v", b)
	}
	f.exec(t, `UPDATE keywicket.sidecars SET seen_at = now() - interval '1 minute'`)
	if b := must(f.Wait(t.Context())); b.Waited < 3*time.Second || len(b.Confirmed)+len(b.Silent) != 0 {
		t.Errorf("a sidecar that was last seen a minute ago: %+v", b)
	}
}

// A sidecar that others consider gone does not use its cache, because Wait does not wait for it.
func TestSidecarThatCannotGiveASignOfLifeUsesNoMemory(t *testing.T) {
	f := newFixture(t)
	d := f.cachedDirectory(t)
	tx := must(f.db.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	must(tx.ExecContext(t.Context(), `SELECT id FROM keywicket.sidecars FOR UPDATE`))
	eventuallySlow(t, "the cache is not in use", func() bool { return d.CacheStats().LeaseLeft == 0 && len(aliveSidecars(t, f)) == 1 })
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	eventuallySlow(t, "the cache is in use again", func() bool { return d.CacheStats().LeaseLeft > 0 })
}

// eventuallySlow is eventually with a longer timeout.
func eventuallySlow(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// With stale_if_error, a sidecar may give answers from before the change for longer than others consider it alive.
func TestWaitNamesSidecarsThatMayAnswerWithoutADatabase(t *testing.T) {
	f := newFixture(t)
	p := newProxy(t, f.url)
	f.cachedDirectory(t, func(c *store.Config) { c.URL, c.Cache.StaleIfError = p.through(c.URL), time.Hour })
	p.onNextByte(silence)
	p.redirect("postgres://127.0.0.1:1")
	time.Sleep(100 * time.Millisecond) // until replies that are on their way have arrived
	f.exec(t, `UPDATE keywicket.sidecars SET seen_at = now() - interval '10 minutes'`)
	if b := must(f.Wait(t.Context())); len(b.Silent) != 1 || b.StaleIfError != time.Hour {
		t.Errorf("%+v", b)
	}
	f.exec(t, `UPDATE keywicket.sidecars SET seen_at = now() - interval '2 hours'`)
	if b := must(f.Wait(t.Context())); len(b.Silent) != 0 || b.StaleIfError != 0 {
		t.Errorf("after that hour: %+v", b)
	}
}

func TestWaitGivesUpOnADatabaseThatIsSilent(t *testing.T) {
	f := newFixture(t)
	p := newProxy(t, f.url)
	r := must(store.OpenRegistry(t.Context(), p.through(f.url)))
	defer func() { _ = r.Close() }()
	p.onNextByte(silence)
	p.redirect("postgres://127.0.0.1:1")
	done := make(chan error, 1)
	go func() { _, err := r.Wait(t.Context()); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it returned %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for ever")
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	f := newFixture(t)
	p := newProxy(t, f.url)
	f.cachedDirectory(t, func(c *store.Config) {
		c.URL = p.through(c.URL)
		c.Cache.StalenessBound = time.Hour
	})
	p.onNextByte(silence)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := f.Wait(ctx); done <- err }()
	eventually(t, "it asks", func() bool {
		return value[int](t, f.db, `SELECT count(*) FROM keywicket.changes WHERE keys = 'ack'`) == 1
	})
	cancel()
	if err := <-done; err == nil {
		t.Error("it did not wait")
	}
}
