package directory_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestLookupsThatShareAQueryGetTheirOwnAnswers(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	reference := g.Directory(t, nil)
	d := g.Directory(t, nil)
	var lookups []authz.Lookup
	add := func(key authz.Secret, change func(*authz.Lookup)) {
		l := storetest.Lookup(key)
		if change != nil {
			change(&l)
		}
		lookups = append(lookups, l)
	}
	_, key := g.WorkspaceToken(t, "issues:read")
	add(key, nil)
	add(key, func(l *authz.Lookup) { l.API = "velaflows" })
	_, userKey := g.UserToken(t, "user:read")
	for _, slug := range []string{"", "acme", "globex", "nowhere", "{", `"`, `\`, "NULL", "a,b", "\u00e9"} {
		add(userKey, func(l *authz.Lookup) { l.Workspace.Slug = slug })
	}
	add(userKey, func(l *authz.Lookup) { l.Kind = authz.KindOAuthToken })
	_, imported := g.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme", Key: "vel_0123456789abcdef"})
	add(imported, nil)
	revoked, key := g.WorkspaceToken(t)
	storetest.Must(g.RevokeToken(t.Context(), revoked.ID))
	add(key, nil)
	expired, key := g.WorkspaceToken(t)
	g.Exec(t, `UPDATE keywicket.tokens SET expires_at = clock_timestamp() WHERE id = $1`, expired.ID)
	add(key, nil)
	for _, slug := range []string{"", "acme", "globex"} {
		lookups = append(lookups, storetest.AccessLookup(g.ExchangeCode(t, g.NewCode(t, g.Acme.ID)).Access, slug))
		lookups = append(lookups, authz.Lookup{
			Kind: authz.KindSession, API: "velocity", Session: authz.Session{ID: "s", UserID: g.Ada.ID}, Workspace: authz.WorkspaceRef{Slug: slug},
		})
	}
	allowed := 0
	var want []authz.LookupResult
	for _, l := range lookups {
		want = append(want, storetest.Must(reference.Lookup(t.Context(), l)))
		if want[len(want)-1].Denial == "" {
			allowed++
		}
	}
	if allowed < 15 || allowed == len(want) {
		t.Fatalf("%d of %d look-ups are allowed", allowed, len(want))
	}
	release := g.OccupyConnections(t, d)
	var wg sync.WaitGroup
	var started atomic.Int32
	for i, l := range lookups {
		for range 100 {
			wg.Go(func() {
				started.Add(1)
				if got, err := d.Lookup(t.Context(), l); err != nil || !reflect.DeepEqual(got, want[i]) {
					t.Errorf("%+v: got %+v, %v, want %+v", l, got, err, want[i])
				}
				if got, err := d.Lookup(t.Context(), storetest.Lookup(storetest.Vel.NewKey())); err != nil || got.Denial != authz.ReasonUnknown {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
	}
	storetest.Eventually(t, "all look-ups have started", func() bool { return int(started.Load()) == 100*len(lookups) })
	release()
	wg.Wait()
}

// A look-up must not join a query that was sent before the look-up began. Such a query could report an existing token as unknown,
// or a revoked token as valid.
func TestLookupJoinsNoEarlierQuery(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	var next atomic.Pointer[authz.Secret]
	next.Store(new(storetest.Vel.NewKey()))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				key := storetest.Vel.NewKey()
				if i%2 == 0 {
					key = *next.Load() // the token that is created next
				}
				if _, err := d.Lookup(ctx, storetest.Lookup(key)); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	defer wg.Wait()
	defer stop()
	for range 100 {
		key := storetest.Vel.NewKey()
		next.Store(&key)
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != authz.ReasonUnknown {
			t.Errorf("before the token is created: %+v", got)
		}
		token, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme", Key: key})
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != "" {
			t.Errorf("after the token is created: %+v", got)
		}
		storetest.Must(f.RevokeToken(t.Context(), token.ID))
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != authz.ReasonRevoked {
			t.Errorf("after the token is revoked: %+v", got)
		}
	}
}

// One look-up may have an invalid parameter or an unreadable answer. The other look-ups that share its query must still succeed.
func TestUnreadableLookupDoesNotAffectOthers(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.UserToken(t, "user:read")
	unreadableToken, unreadable := f.UserToken(t, "user:read")
	f.Exec(t, `UPDATE keywicket.tokens SET scopes[0] = 'user:read' WHERE id = $1`, unreadableToken.ID) // Postgres writes such an array with its index bounds, which lib/pq cannot read
	d := f.Directory(t, nil)
	release := f.OccupyConnections(t, d)
	var wg sync.WaitGroup
	var started atomic.Int32
	for range 40 {
		for _, slug := range []string{"acme", "a\x00b", "\xff", "unreadable"} {
			wg.Go(func() {
				l := storetest.Lookup(key)
				if slug == "unreadable" {
					l = storetest.Lookup(unreadable)
				}
				l.Workspace.Slug = slug
				started.Add(1)
				got, err := d.Lookup(t.Context(), l)
				switch {
				case slug == "acme" && (err != nil || got.Denial != "" || got.Workspace.Slug != "acme"):
					t.Errorf("a valid look-up: %+v, %v", got, err)
				case slug != "acme" && err == nil:
					t.Errorf("%q: %+v", slug, got)
				}
			})
		}
	}
	storetest.Eventually(t, "all look-ups have started", func() bool { return started.Load() == 160 })
	release()
	wg.Wait()
}

func TestWaitingLookupCanBeCancelled(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.Directory(t, nil)
	shortTimeout := f.Directory(t, func(c *directory.Config) { c.LookupTimeout = 100 * time.Millisecond })
	storetest.Eventually(t, "a look-up succeeds", func() bool {
		_, err := shortTimeout.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil
	})
	release := f.OccupyConnections(t, d)
	if _, err := shortTimeout.Lookup(t.Context(), storetest.Lookup(key)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the timeout: %v", err)
	}
	f.AwaitLocks(t, 8) // only the queries of OccupyConnections wait: the server has cancelled the query that timed out
	ctx, cancel := context.WithCancel(t.Context())
	canceled := make(chan error)
	for range 100 {
		go func() { _, err := d.Lookup(ctx, storetest.Lookup(storetest.Vel.NewKey())); canceled <- err }()
	}
	storetest.Eventually(t, "100 look-ups wait", func() bool { return d.Waiting() == 100 })
	notCanceled := make(chan error)
	go func() {
		got, err := d.Lookup(context.Background(), storetest.Lookup(key))
		if err == nil && got.Denial != "" {
			err = fmt.Errorf("%+v", got)
		}
		notCanceled <- err
	}()
	storetest.Eventually(t, "101 look-ups wait", func() bool { return d.Waiting() == 101 })
	cancel()
	for range 100 {
		if err := <-canceled; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller has canceled the look-up: %v", err)
		}
	}
	if n := d.Waiting(); n != 1 {
		t.Errorf("%d look-ups wait after all but one were canceled", n)
	}
	release()
	if err := <-notCanceled; err != nil {
		t.Errorf("the caller that did not cancel: %v", err)
	}
}

// If a column's type changes, the prepared statements on open connections become invalid. Look-ups must still succeed.
func TestColumnTypesMayChange(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.Directory(t, nil)
	f.OccupyConnections(t, d)() // open eight connections, and leave them idle in the pool
	for _, kind := range []string{"varchar(63)", "text"} {
		f.Exec(t, `ALTER TABLE keywicket.workspaces ALTER COLUMN slug TYPE `+kind)
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if got, err := d.Lookup(t.Context(), storetest.Lookup(key)); err != nil || got.Denial != "" {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		wg.Wait()
	}
}

// With one query for each look-up, this test would take a minute, and most look-ups would time out.
func TestFloodNeedsFewQueries(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	p := storetest.NewProxy(t, f.URL)
	d := f.Directory(t, func(c *directory.Config) { c.URL, c.MaxOpenConnections = p.URL(c.URL), 1 })
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
	p.FaultOnOpenConnections(storetest.Delay)
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			l, want := storetest.Lookup(storetest.Vel.NewKey()), authz.ReasonUnknown
			if i%10 == 0 {
				l, want = storetest.Lookup(key), ""
			}
			if got, err := d.Lookup(t.Context(), l); err != nil || got.Denial != want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	// The proxy counts reads in both directions, each of at most 4 KiB.
	if n := p.Faults(); n > 300 {
		t.Errorf("1,000 look-ups needed %d messages", n)
	}
}
