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
	g := storetest.NewGranting(t)
	quiet := g.Directory(t, nil)
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
	_, users := g.UserToken(t, "user:read")
	for _, slug := range []string{"", "acme", "globex", "nowhere", "{", `"`, `\`, "NULL", "a,b", "\u00e9"} {
		add(users, func(l *authz.Lookup) { l.Workspace.Slug = slug })
	}
	add(users, func(l *authz.Lookup) { l.Kind = authz.KindOAuthToken })
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
	good := 0
	var want []authz.LookupResult
	for _, l := range lookups {
		want = append(want, storetest.Must(quiet.Lookup(t.Context(), l)))
		if want[len(want)-1].Denial == "" {
			good++
		}
	}
	if good < 15 || good == len(want) {
		t.Fatalf("%d of %d are good", good, len(want))
	}
	release := g.OccupyConnections(t, d)
	var wg sync.WaitGroup
	var asked atomic.Int32
	for i, l := range lookups {
		for range 100 {
			wg.Go(func() {
				asked.Add(1)
				if got, err := d.Lookup(t.Context(), l); err != nil || !reflect.DeepEqual(got, want[i]) {
					t.Errorf("%+v: got %+v, %v, want %+v", l, got, err, want[i])
				}
				if got, err := d.Lookup(t.Context(), storetest.Lookup(storetest.Vel.NewKey())); err != nil || got.Denial != authz.ReasonUnknown {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
	}
	storetest.Eventually(t, "all look-ups wait", func() bool { return int(asked.Load()) == 100*len(lookups) })
	release()
	wg.Wait()
}

// A look-up must not join a query that was sent before it. Otherwise it could report an existing token as unknown, or a revoked token
// as valid.
func TestLookupGetsNoAnswerLoadedBeforeIt(t *testing.T) {
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
			t.Errorf("before it is created: %+v", got)
		}
		made, _ := f.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme", Key: key})
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != "" {
			t.Errorf("after it is created: %+v", got)
		}
		storetest.Must(f.RevokeToken(t.Context(), made.ID))
		if got := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))); got.Denial != authz.ReasonRevoked {
			t.Errorf("after it is revoked: %+v", got)
		}
	}
}

// An invalid parameter of one look-up must not fail the others that share its query.
func TestUnreadableLookupDoesNotFailOthers(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.UserToken(t, "user:read")
	odd, unreadable := f.UserToken(t, "user:read")
	f.Exec(t, `UPDATE keywicket.tokens SET scopes[0] = 'user:read' WHERE id = $1`, odd.ID) // Postgres prints such an array with its bounds
	d := f.Directory(t, nil)
	release := f.OccupyConnections(t, d)
	var wg sync.WaitGroup
	var asked atomic.Int32
	for range 40 {
		for _, slug := range []string{"acme", "a\x00b", "\xff", "unreadable"} {
			wg.Go(func() {
				l := storetest.Lookup(key)
				if slug == "unreadable" {
					l = storetest.Lookup(unreadable)
				}
				l.Workspace.Slug = slug
				asked.Add(1)
				got, err := d.Lookup(t.Context(), l)
				switch {
				case slug == "acme" && (err != nil || got.Denial != "" || got.Workspace.Slug != "acme"):
					t.Errorf("a good look-up: %+v, %v", got, err)
				case slug != "acme" && err == nil:
					t.Errorf("%q: %+v", slug, got)
				}
			})
		}
	}
	storetest.Eventually(t, "all wait", func() bool { return asked.Load() == 160 })
	release()
	wg.Wait()
}

func TestWaitingLookupCanBeCancelled(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.Directory(t, nil)
	hasty := f.Directory(t, func(c *directory.Config) { c.LookupTimeout = 100 * time.Millisecond })
	storetest.Must(hasty.Lookup(t.Context(), storetest.Lookup(key)))
	release := f.OccupyConnections(t, d)
	if _, err := hasty.Lookup(t.Context(), storetest.Lookup(key)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the timeout: %v", err)
	}
	f.AwaitLocks(t, 8) // the query that timed out is cancelled on the server
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	for range 100 {
		go func() { _, err := d.Lookup(ctx, storetest.Lookup(storetest.Vel.NewKey())); left <- err }()
	}
	storetest.Eventually(t, "they wait", func() bool { return d.Waiting() == 100 })
	stayed := make(chan error)
	go func() {
		got, err := d.Lookup(context.Background(), storetest.Lookup(key))
		if err == nil && got.Denial != "" {
			err = fmt.Errorf("%+v", got)
		}
		stayed <- err
	}()
	storetest.Eventually(t, "one more waits", func() bool { return d.Waiting() == 101 })
	cancel()
	for range 100 {
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller has canceled: %v", err)
		}
	}
	if n := d.Waiting(); n != 1 {
		t.Errorf("%d wait, after all but one have left", n)
	}
	release()
	if err := <-stayed; err != nil {
		t.Errorf("a caller that stayed: %v", err)
	}
}

// After the change of a type, the statements that are prepared on a connection cannot be used any more.
func TestColumnTypesMayChange(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.Directory(t, nil)
	f.OccupyConnections(t, d)()
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

// With one query for each look-up, the flood would take a minute, and most look-ups would time out.
func TestFloodNeedsFewQueries(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	p := storetest.NewProxy(t, f.URL)
	d := f.Directory(t, func(c *directory.Config) { c.URL, c.MaxOpenConnections = p.Through(c.URL), 1 })
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
	p.OnNextByte(storetest.Delay)
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
		t.Errorf("1,000 look-ups took %d messages", n)
	}
}
