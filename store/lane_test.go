package store_test

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
	"github.com/keywicket/keywicket/store"
)

func TestLookupsThatShareAQueryGetTheirOwnAnswers(t *testing.T) {
	g := newGranting(t)
	quiet := g.directory(t, nil)
	d := g.directory(t, nil)
	var lookups []authz.Lookup
	add := func(key authz.Secret, change func(*authz.Lookup)) {
		l := lookup(key)
		if change != nil {
			change(&l)
		}
		lookups = append(lookups, l)
	}
	_, key := g.workspaceToken(t, "issues:read")
	add(key, nil)
	add(key, func(l *authz.Lookup) { l.API = "velaflows" })
	_, users := g.userToken(t, "user:read")
	for _, slug := range []string{"", "acme", "globex", "nowhere", "{", `"`, `\`, "NULL", "a,b", "\u00e9"} {
		add(users, func(l *authz.Lookup) { l.Workspace.Slug = slug })
	}
	add(users, func(l *authz.Lookup) { l.Kind = authz.KindOAuthToken })
	_, imported := g.create(t, store.NewToken{Format: vel, API: "velocity", Name: "t", Workspace: "acme", Key: "vel_0123456789abcdef"})
	add(imported, nil)
	revoked, key := g.workspaceToken(t)
	must(g.RevokeToken(t.Context(), revoked.ID))
	add(key, nil)
	expired, key := g.workspaceToken(t)
	g.exec(t, `UPDATE keywicket.tokens SET expires_at = clock_timestamp() WHERE id = $1`, expired.ID)
	add(key, nil)
	for _, slug := range []string{"", "acme", "globex"} {
		lookups = append(lookups, access(g.exchange(t, g.code(t, g.acme.ID)).Access, slug))
		lookups = append(lookups, authz.Lookup{
			Kind: authz.KindSession, API: "velocity", Session: authz.Session{ID: "s", UserID: g.ada.ID}, Workspace: authz.WorkspaceRef{Slug: slug},
		})
	}
	good := 0
	var want []authz.Found
	for _, l := range lookups {
		want = append(want, must(quiet.Lookup(t.Context(), l)))
		if want[len(want)-1].Denial == "" {
			good++
		}
	}
	if good < 15 || good == len(want) {
		t.Fatalf("%d of %d are good", good, len(want))
	}
	release := g.occupyConnections(t, d)
	var wg sync.WaitGroup
	var asked atomic.Int32
	for i, l := range lookups {
		for range 100 {
			wg.Go(func() {
				asked.Add(1)
				if got, err := d.Lookup(t.Context(), l); err != nil || !reflect.DeepEqual(got, want[i]) {
					t.Errorf("%+v: got %+v, %v, want %+v", l, got, err, want[i])
				}
				if got, err := d.Lookup(t.Context(), lookup(vel.NewKey())); err != nil || got.Denial != authz.ReasonUnknown {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
	}
	eventually(t, "all look-ups wait", func() bool { return int(asked.Load()) == 100*len(lookups) })
	release()
	wg.Wait()
}

// A look-up must not join a query that was sent before it. Otherwise it could report an existing token as unknown, or a revoked token
// as valid.
func TestNoLookupIsAnsweredFromBeforeItBegan(t *testing.T) {
	f := newFixture(t)
	d := f.directory(t, nil)
	var next atomic.Pointer[authz.Secret]
	next.Store(new(vel.NewKey()))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				key := vel.NewKey()
				if i%2 == 0 {
					key = *next.Load() // the token that is created next
				}
				if _, err := d.Lookup(ctx, lookup(key)); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	defer wg.Wait()
	defer stop()
	for range 100 {
		key := vel.NewKey()
		next.Store(&key)
		if got := must(d.Lookup(t.Context(), lookup(key))); got.Denial != authz.ReasonUnknown {
			t.Errorf("before it is created: %+v", got)
		}
		made, _ := f.create(t, store.NewToken{Format: vel, API: "velocity", Name: "t", Workspace: "acme", Key: key})
		if got := must(d.Lookup(t.Context(), lookup(key))); got.Denial != "" {
			t.Errorf("after it is created: %+v", got)
		}
		must(f.RevokeToken(t.Context(), made.ID))
		if got := must(d.Lookup(t.Context(), lookup(key))); got.Denial != authz.ReasonRevoked {
			t.Errorf("after it is revoked: %+v", got)
		}
	}
}

// An invalid parameter of one look-up must not fail the others that share its query.
func TestALookupThatCannotBeReadHarmsNoOther(t *testing.T) {
	f := newFixture(t)
	_, key := f.userToken(t, "user:read")
	odd, unreadable := f.userToken(t, "user:read")
	f.exec(t, `UPDATE keywicket.tokens SET scopes[0] = 'user:read' WHERE id = $1`, odd.ID) // Postgres prints such an array with its bounds
	d := f.directory(t, nil)
	release := f.occupyConnections(t, d)
	var wg sync.WaitGroup
	var asked atomic.Int32
	for range 40 {
		for _, slug := range []string{"acme", "a\x00b", "\xff", "unreadable"} {
			wg.Go(func() {
				l := lookup(key)
				if slug == "unreadable" {
					l = lookup(unreadable)
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
	eventually(t, "all wait", func() bool { return asked.Load() == 160 })
	release()
	wg.Wait()
}

func TestALookupThatWaitsForOthersCanBeCancelled(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t)
	d := f.directory(t, nil)
	hasty := f.directory(t, func(c *store.Config) { c.LookupTimeout = 100 * time.Millisecond })
	must(hasty.Lookup(t.Context(), lookup(key)))
	release := f.occupyConnections(t, d)
	if _, err := hasty.Lookup(t.Context(), lookup(key)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the timeout: %v", err)
	}
	f.awaitLocks(t, 8) // the query that timed out is cancelled on the server
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	for range 100 {
		go func() { _, err := d.Lookup(ctx, lookup(vel.NewKey())); left <- err }()
	}
	eventually(t, "they wait", func() bool { return d.Waiting() == 100 })
	stayed := make(chan error)
	go func() {
		got, err := d.Lookup(context.Background(), lookup(key))
		if err == nil && got.Denial != "" {
			err = fmt.Errorf("%+v", got)
		}
		stayed <- err
	}()
	eventually(t, "one more waits", func() bool { return d.Waiting() == 101 })
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
func TestColumnsMayChangeTheirType(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t)
	d := f.directory(t, nil)
	f.occupyConnections(t, d)()
	for _, kind := range []string{"varchar(63)", "text"} {
		f.exec(t, `ALTER TABLE keywicket.workspaces ALTER COLUMN slug TYPE `+kind)
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				if got, err := d.Lookup(t.Context(), lookup(key)); err != nil || got.Denial != "" {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		wg.Wait()
	}
}

// With one query for each look-up, the flood would take a minute, and most look-ups would time out.
func TestAFloodTakesFewQueries(t *testing.T) {
	f := newFixture(t)
	_, key := f.workspaceToken(t)
	p := newProxy(t, f.url)
	d := f.directory(t, func(c *store.Config) { c.URL, c.MaxOpenConnections = p.through(c.URL), 1 })
	must(d.Lookup(t.Context(), lookup(key)))
	p.onNextByte(delay)
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			l, want := lookup(vel.NewKey()), authz.ReasonUnknown
			if i%10 == 0 {
				l, want = lookup(key), ""
			}
			if got, err := d.Lookup(t.Context(), l); err != nil || got.Denial != want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	wg.Wait()
	// The proxy counts reads in both directions, each of at most 4 KiB.
	if n := p.faults(); n > 300 {
		t.Errorf("1,000 look-ups took %d messages", n)
	}
}
