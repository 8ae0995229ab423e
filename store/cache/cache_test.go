package cache_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// source is a database that counts its queries.
type source struct {
	loads  atomic.Int64
	answer func(context.Context, authz.Lookup) (cache.Answer, error)
}

func (s *source) Load(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
	s.loads.Add(1)
	return s.answer(ctx, l)
}

var errDown = errors.New("the database is down")

func good(_ context.Context, l authz.Lookup) (cache.Answer, error) {
	return cache.Answer{
		Found: authz.Found{
			Principal: authz.Principal{ID: "t1", Kind: authz.KindWorkspaceToken, API: l.API, Scopes: []string{"a"}},
			Workspace: authz.Membership{ID: "w1", Slug: "acme"},
		},
		Keys: []cache.Key{cache.TokenKey(l.Digest), cache.WorkspaceKey("w1")},
	}, nil
}

func unknown(_ context.Context, l authz.Lookup) (cache.Answer, error) {
	return cache.Answer{Found: authz.Found{Denial: authz.ReasonUnknown}, Keys: []cache.Key{cache.TokenKey(l.Digest)}}, nil
}

func lookup(n int) authz.Lookup {
	l := authz.Lookup{API: "api"}
	binary.BigEndian.PutUint64(l.Digest[:], uint64(n)) //nolint:gosec // small and positive
	return l
}

func newCache(t *testing.T, c cache.Config, s cache.Source) *cache.Cache {
	t.Helper()
	return newLoggingCache(t, c, s, slog.DiscardHandler)
}

// newLoggingCache returns a cache whose lease is valid for the staleness bound from now on.
func newLoggingCache(t *testing.T, config cache.Config, s cache.Source, log slog.Handler) *cache.Cache {
	t.Helper()
	config.StalenessBound = bound
	c, err := cache.New(config, s, slog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	readLog(c, cache.Reply{})
	return c
}

// readLog reads the change log, which takes no time.
func readLog(c *cache.Cache, r cache.Reply) { deliver(c, c.Poll(), r) }

// deliver delivers the reply to a poll.
func deliver(c *cache.Cache, p cache.Poll, r cache.Reply) {
	r.Snapshot, r.World = "3:3:", cmp.Or(r.World, "the first")
	c.Told(p, r, true)
}

// changed reads a change of the keys from the log.
func changed(c *cache.Cache, keys ...cache.Key) {
	readLog(c, cache.Reply{Changes: [][]cache.Key{keys}})
}

// passReading lets time pass while the change log is read.
func passReading(c *cache.Cache, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); readLog(c, cache.Reply{}) {
		time.Sleep(min(bound/4, time.Until(end)))
	}
}

// expireLease lets time pass until the lease expires.
func expireLease() { time.Sleep(bound) }

// expectLookup looks up l, checks where the answer is from, and waits until it is stored.
func expectLookup(t *testing.T, c *cache.Cache, l authz.Lookup, want authz.CacheResult) authz.Found {
	t.Helper()
	f, err := c.Lookup(t.Context(), l)
	if err != nil || f.Cache != want {
		t.Fatalf("%q %q %v, not %q", f.Denial, f.Cache, err, want)
	}
	synctest.Wait()
	return f
}

func expectError(t *testing.T, c *cache.Cache, l authz.Lookup, want error) {
	t.Helper()
	if f, err := c.Lookup(t.Context(), l); !errors.Is(err, want) {
		t.Fatalf("%+v %v, not %v", f, err, want)
	}
}

func TestWarmLookupAsksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: good}
		c := newCache(t, cache.Config{}, s)
		l := lookup(1)
		expectLookup(t, c, l, authz.CacheMiss)
		expectLookup(t, c, l, authz.CacheHit)
		allocations := testing.AllocsPerRun(1000, func() { _, _ = c.Lookup(t.Context(), l) })
		if s.loads.Load() != 1 || allocations > 2 {
			t.Errorf("there were %d queries; %v allocations", s.loads.Load(), allocations)
		}
	})
}

func TestAnswersOfManyTokensAreTheirOwn(t *testing.T) {
	for _, collide := range []bool{false, true} {
		t.Run(fmt.Sprintf("collide=%v", collide), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, cache.Config{}, &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					a, err := good(ctx, l)
					a.Found.Principal.ID = fmt.Sprintf("%d of %s", binary.BigEndian.Uint64(l.Digest[:]), l.API)
					return a, err
				}})
				if collide {
					c.Collide()
				}
				for range 2 {
					for n := range 100 {
						l := lookup(n / 2)
						l.API = fmt.Sprint(n % 2)
						f, err := c.Lookup(t.Context(), l)
						synctest.Wait()
						if want := fmt.Sprintf("%d of %d", n/2, n%2); err != nil || f.Principal.ID != want {
							t.Fatalf("%q %v, not %q", f.Principal.ID, err, want)
						}
					}
				}
			})
		})
	}
}

// Look-ups that differ in one field get different answers, both in sequence and concurrently.
func TestQuestionsAreToldApart(t *testing.T) {
	of := func(change func(*authz.Lookup)) authz.Lookup {
		l := authz.Lookup{Kind: authz.KindSession, API: "api", Session: authz.Session{ID: "s", UserID: "u", Began: 1}, Workspace: authz.WorkspaceRef{Slug: "w"}}
		change(&l)
		return l
	}
	questions := []authz.Lookup{
		of(func(*authz.Lookup) {}),
		of(func(l *authz.Lookup) { l.API = "another" }),
		of(func(l *authz.Lookup) { l.Kind = authz.KindOAuthToken }),
		of(func(l *authz.Lookup) { l.Digest[31] = 1 }),
		of(func(l *authz.Lookup) { l.Session.ID = "another" }),
		of(func(l *authz.Lookup) { l.Session.UserID = "another" }),
		of(func(l *authz.Lookup) { l.Session.Began = 2 }),
		of(func(l *authz.Lookup) { l.Session.ID, l.Session.UserID = "su", "" }),
		of(func(l *authz.Lookup) { l.Workspace.Slug = "another" }),
		of(func(l *authz.Lookup) { l.Workspace = authz.WorkspaceRef{ID: "w"} }),
		of(func(l *authz.Lookup) { l.Workspace = authz.WorkspaceRef{} }),
	}
	for _, collide := range []bool{false, true} {
		t.Run(fmt.Sprintf("collide=%v", collide), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, cache.Config{}, &source{answer: func(_ context.Context, l authz.Lookup) (cache.Answer, error) {
					time.Sleep(time.Millisecond)
					return cache.Answer{Keys: cache.CredentialKeys(l), Found: authz.Found{
						Principal: authz.Principal{ID: fmt.Sprint(l), UserID: "of a user"}}}, nil
				}})
				if collide {
					c.Collide()
				}
				for range 3 {
					var asking sync.WaitGroup
					for _, l := range questions {
						for range 3 {
							asking.Go(func() {
								if f, err := c.Lookup(t.Context(), l); err != nil || f.Principal.ID != fmt.Sprint(l) {
									t.Errorf("%+v: %q, %v", l, f.Principal.ID, err)
								}
							})
						}
					}
					asking.Wait()
					synctest.Wait()
				}
			})
		})
	}
}

// A client may send any workspace header. That must not cause a query each time.
func TestWorkspaceHeaderDoesNotMatterToWorkspaceToken(t *testing.T) {
	for name, answer := range map[string]func(context.Context, authz.Lookup) (cache.Answer, error){
		"good": good, "unknown": unknown,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{answer: answer}
				c := newCache(t, cache.Config{}, s)
				for n := range 100 {
					l := lookup(1)
					l.Workspace.Slug = fmt.Sprint("random-", n)
					if _, err := c.Lookup(t.Context(), l); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if n := s.loads.Load(); n != 1 {
					t.Errorf("there were %d queries", n)
				}
			})
		})
	}
}

func TestConcurrentFirstUses(t *testing.T) {
	const callers = 1000
	for _, c := range []struct {
		name   string
		closed bool
		want   int64
	}{
		{name: "share one load", want: 1},
		{name: "load separately while the change log is not read", closed: true, want: callers},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					<-release
					return good(ctx, l)
				}}
				directory := newCache(t, cache.Config{}, s)
				if c.closed {
					expireLease()
				}
				var callersDone sync.WaitGroup
				for range callers {
					callersDone.Go(func() {
						if f, err := directory.Lookup(t.Context(), lookup(1)); err != nil || f.Principal.ID != "t1" {
							t.Errorf("%+v %v", f, err)
						}
					})
				}
				synctest.Wait()
				close(release)
				callersDone.Wait()
				if n := s.loads.Load(); n != c.want {
					t.Errorf("there were %d queries", n)
				}
			})
		})
	}
}

// Callers may arrive before a load, while it runs, or just after its end: there is one load.
func TestFirstUsesInARow(t *testing.T) {
	s := &source{answer: good}
	c := newCache(t, cache.Config{}, s)
	for n := range 2000 {
		before := s.loads.Load()
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() { _, _ = c.Lookup(t.Context(), lookup(n)) })
		}
		callers.Wait()
		readLog(c, cache.Reply{})
		if got := s.loads.Load() - before; got != 1 {
			t.Fatalf("there were %d queries at the %dth token", got, n)
		}
	}
}

// Callers that ask after a change must not join a load from before it. But a thousand such callers share one more query.
func TestConcurrentUsesAfterAChangeShareALoadOfTheirOwn(t *testing.T) {
	const user = "u1"
	for name, key := range map[string]cache.Key{
		"a change of a key of the look-up": cache.TokenKey(lookup(1).Digest),
		"a change of a key of the answer":  cache.UserKey(user),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				scope := "old"
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					a, err := good(ctx, l)
					a.Found.Principal.Scopes, a.Keys = []string{scope}, append(a.Keys, cache.UserKey(user))
					time.Sleep(time.Millisecond)
					return a, err
				}}
				c := newCache(t, cache.Config{}, s)
				go func() { _, _ = c.Lookup(t.Context(), lookup(1)) }()
				synctest.Wait()
				scope = "new"
				changed(c, key)
				var callers sync.WaitGroup
				for range 1000 {
					callers.Go(func() {
						if f, err := c.Lookup(t.Context(), lookup(1)); err != nil || f.Principal.Scopes[0] != "new" {
							t.Errorf("%+v %v", f, err)
						}
					})
				}
				callers.Wait()
				if n := s.loads.Load(); n != 2 {
					t.Errorf("there were %d queries", n)
				}
			})
		})
	}
}

// A load that began before a change may take long. Callers that ask after the change do not wait for it.
func TestLoadFromBeforeAChangeHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			<-release
			return good(ctx, l)
		}}
		c := newCache(t, cache.Config{}, s)
		var before sync.WaitGroup
		before.Go(func() { _, _ = c.Lookup(t.Context(), lookup(1)) })
		synctest.Wait()
		changed(c, cache.TokenKey(lookup(1).Digest))
		s.answer = good
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		if _, err := c.Lookup(ctx, lookup(1)); err != nil {
			t.Error(err)
		}
		close(release)
		before.Wait()
	})
}

// If one caller leaves, the others still get their answer, also if it started the load. A caller stays only if it runs the load
// itself, because the load ends before the caller's context.
func TestCallerMayLeaveTheOthersWaiting(t *testing.T) {
	const loadTimeout = time.Second
	for name, c := range map[string]struct {
		config cache.Config
		first  time.Duration // timeout of the caller that starts the load; 0: none
		stays  bool
	}{
		"the load's time is not known": {cache.Config{}, 0, false},
		"the load may take too long":   {cache.Config{LoadTimeout: loadTimeout}, loadTimeout, false},
		"the load ends in time":        {cache.Config{LoadTimeout: loadTimeout}, loadTimeout + 1, true},
		"the context has no end":       {cache.Config{LoadTimeout: loadTimeout}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					select {
					case <-release:
						return good(ctx, l)
					case <-ctx.Done():
						return cache.Answer{}, ctx.Err()
					}
				}}
				directory := newCache(t, c.config, s)
				ask := func(ctx context.Context) <-chan error {
					result := make(chan error, 1)
					go func() {
						_, err := directory.Lookup(ctx, lookup(1))
						result <- err
					}()
					synctest.Wait()
					return result
				}
				ctx, leave := context.WithCancel(t.Context())
				beginning := ctx
				if c.first > 0 {
					var cancel context.CancelFunc
					beginning, cancel = context.WithTimeout(ctx, c.first)
					defer cancel()
				}
				first, second, third := ask(beginning), ask(ctx), ask(t.Context())
				leave()
				if err := <-second; !errors.Is(err, context.Canceled) {
					t.Errorf("the caller that joined and left got %v", err)
				}
				if synctest.Wait(); c.stays != (len(first) == 0) {
					t.Errorf("the caller that started the load has left: %t", len(first) == 1)
				}
				close(release)
				if err := <-first; c.stays && err != nil || !c.stays && !errors.Is(err, context.Canceled) {
					t.Errorf("the caller that started the load got %v", err)
				}
				if err := <-third; err != nil || s.loads.Load() != 1 {
					t.Errorf("the caller that stayed got %v, and there were %d queries", err, s.loads.Load())
				}
				expectLookup(t, directory, lookup(1), authz.CacheHit)
			})
		})
	}
}

func TestPanicOfLoadIsAnErrorOfAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &source{answer: func(context.Context, authz.Lookup) (cache.Answer, error) {
			<-release
			panic("oh")
		}}
		c := newCache(t, cache.Config{}, s)
		results := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := c.Lookup(t.Context(), lookup(1))
				results <- err
			}()
			synctest.Wait()
		}
		close(release)
		for range 2 {
			if err := <-results; err == nil || !strings.Contains(err.Error(), "panic: oh") {
				t.Error(err)
			}
		}
		s.answer = good
		expectLookup(t, c, lookup(1), authz.CacheMiss) // callers do not join the load that panicked
	})
}

func TestMaxAgeIsABackstop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{MaxAge: 5 * time.Second}, &source{answer: good})
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		passReading(c, 5*time.Second-time.Millisecond)
		expectLookup(t, c, lookup(1), authz.CacheHit)
		passReading(c, time.Millisecond)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
	})
}

func TestExpiryIsCountedFromBeforeTheQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			time.Sleep(bound / 2) // the answer is on its way
			a, err := good(ctx, l)
			a.Expires, a.TTL = true, 2*bound
			return a, err
		}}
		c := newCache(t, cache.Config{}, s)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		passReading(c, 3*bound/2-time.Millisecond)
		expectLookup(t, c, lookup(1), authz.CacheHit)
		passReading(c, time.Millisecond)
		s.answer = func(context.Context, authz.Lookup) (cache.Answer, error) {
			return cache.Answer{Found: authz.Found{Denial: authz.ReasonExpired}}, nil
		}
		if f := expectLookup(t, c, lookup(1), authz.CacheMiss); f.Denial != authz.ReasonExpired {
			t.Errorf("%+v", f)
		}
	})
}

func TestStaleIfError(t *testing.T) {
	const window = 10 * time.Second
	gone := func(c *cache.Cache, last cache.Reply) {
		readLog(c, last)
		expireLease()
	}
	changed := func(n int) cache.Reply {
		return cache.Reply{Changes: [][]cache.Key{{cache.TokenKey(lookup(n).Digest)}}}
	}
	for _, c := range []struct {
		name string
		ttl  time.Duration
		then func(*cache.Cache) // runs after the database has become unreachable
		want bool
	}{
		{"within the window", 0, func(*cache.Cache) { time.Sleep(window - time.Millisecond) }, true},
		{"after the window", 0, func(*cache.Cache) { time.Sleep(window) }, false},
		{"before the expiry", 3 * bound, func(*cache.Cache) { time.Sleep(3*bound - time.Millisecond) }, true},
		{"after the expiry", 3 * bound, func(*cache.Cache) { time.Sleep(3 * bound) }, false},
		{"after a change of the token", 0, func(c *cache.Cache) { gone(c, changed(1)) }, false},
		{"after a change of anything", 0, func(c *cache.Cache) { gone(c, cache.Reply{All: true}) }, false},
		{"something else has changed", 0, func(c *cache.Cache) { gone(c, changed(2)) }, true},
		{"another server", 0, func(c *cache.Cache) { gone(c, cache.Reply{World: "another"}) }, false},
		{"changes are missing from the log", 0, func(c *cache.Cache) { gone(c, cache.Reply{Mark: 2}) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				down := false
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					if down {
						return cache.Answer{}, errDown
					}
					a, err := good(ctx, l)
					a.Expires, a.TTL = c.ttl != 0, c.ttl
					return a, err
				}}
				directory := newCache(t, cache.Config{StaleIfError: window}, s)
				expectLookup(t, directory, lookup(1), authz.CacheMiss)
				down = true
				c.then(directory)
				if c.want {
					expectLookup(t, directory, lookup(1), authz.CacheStale)
				} else {
					expectError(t, directory, lookup(1), errDown)
				}
				expectError(t, directory, lookup(3), errDown) // there is no entry for it
			})
		})
	}
}

func TestStaleIfErrorIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			if down {
				return cache.Answer{}, errDown
			}
			return good(ctx, l)
		}}
		var log bytes.Buffer
		c := newLoggingCache(t, cache.Config{StaleIfError: time.Minute}, s, slog.NewTextHandler(&log, nil))
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		expireLease()
		for _, down = range []bool{true, true, false, false} {
			want := authz.CacheBypass
			if down {
				want = authz.CacheStale
			}
			expectLookup(t, c, lookup(1), want)
		}
		warnings, infos := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO")
		if warnings != 1 || infos != 1 {
			t.Errorf("%d warnings and %d messages of recovery:\n%s", warnings, infos, &log)
		}
	})
}

func TestUnknownTokensDoNotPushOutGoodOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const known = 100
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			if binary.BigEndian.Uint64(l.Digest[:]) < known {
				return good(ctx, l)
			}
			return unknown(ctx, l)
		}}
		c := newCache(t, cache.Config{MaxBytes: 1 << 20}, s)
		for n := range 10_000 {
			expectLookup(t, c, lookup(n), authz.CacheMiss)
		}
		for n := range known {
			expectLookup(t, c, lookup(n), authz.CacheHit)
		}
		if denied := c.Stats().Denied; denied.Entries == 0 || denied.Bytes > 1<<20/8 {
			t.Errorf("%+v", denied)
		}
	})
}

// A token that is revoked during concurrent look-ups is denied to callers that ask after the cache has read the change. Unlike the
// model, this test has no schedule.
func TestRevokedUnderLoad(t *testing.T) {
	const tokens = 1000
	var revoked [tokens]atomic.Bool
	c := newCache(t, cache.Config{}, &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
		if revoked[binary.BigEndian.Uint64(l.Digest[:])].Load() {
			return unknown(ctx, l)
		}
		runtime.Gosched() // the revoke may come here
		return good(ctx, l)
	}})
	for n := range tokens {
		readLog(c, cache.Reply{})
		var others sync.WaitGroup
		for range 4 {
			others.Go(func() {
				for range 10 {
					_, _ = c.Lookup(t.Context(), lookup(n))
				}
			})
		}
		revoked[n].Store(true)
		changed(c, cache.TokenKey(lookup(n).Digest))
		for range 10 {
			if f, err := c.Lookup(t.Context(), lookup(n)); err != nil || f.Denial == "" {
				t.Fatalf("token %d was revoked, but is allowed: %+v %v", n, f, err)
			}
		}
		others.Wait()
		if f, err := c.Lookup(t.Context(), lookup(n)); err != nil || f.Denial == "" {
			t.Fatalf("token %d was revoked, but is allowed later: %+v %v", n, f, err)
		}
	}
}

func TestLoadMayEndAfterClose(t *testing.T) {
	for range 100 {
		release := make(chan struct{})
		var loads sync.WaitGroup
		c, err := cache.New(cache.Config{MaxBytes: 1 << 20}, &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			<-release
			return good(ctx, l)
		}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 50 {
			loads.Go(func() { _, _ = c.Lookup(t.Context(), lookup(n)) })
		}
		close(release)
		c.Close()
		loads.Wait()
	}
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{}, &source{answer: good})
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		changed(c, 1, 2)
		readLog(c, cache.Reply{All: true})
		p := c.Poll()
		time.Sleep(bound / 4)
		deliver(c, p, cache.Reply{})
		s := c.Stats()
		if s.LeaseLeft != 3*bound/4 || s.FeedLag != bound/4 || s.Changes != 2 {
			t.Errorf("%+v", s)
		}
		if s.Epochs[cache.CauseStart] != 1 || s.Epochs[cache.CauseNotice] != 1 || s.Epochs[cache.CauseWorld] != 0 {
			t.Errorf("%v", s.Epochs)
		}
		if s.Good.Entries != 1 || s.Good.Bytes == 0 || s.Denied != (cache.RoomStats{}) {
			t.Errorf("%+v %+v", s.Good, s.Denied)
		}
		if ever, now := c.Heart(); !ever || !now {
			t.Error("the lease is not valid")
		}
		c.Told(c.Poll(), cache.Reply{}, true)
		if ever, now := c.Heart(); !ever || now || c.Stats().LeaseLeft != 0 {
			t.Error("the lease is valid, or was never extended")
		}
	})
}

func TestParseKeys(t *testing.T) {
	keys, err := cache.ParseKeys("00000001 deadbeef")
	if err != nil || len(keys) != 2 || keys[0] != 1 || keys[1] != 0xdeadbeef {
		t.Errorf("%x %v", keys, err)
	}
	for _, notice := range []string{"", " ", "1", "0000000g", "0000000100", "00000001,00000002", "00000001 *"} {
		if keys, err := cache.ParseKeys(notice); err == nil {
			t.Errorf("%q is read as %x", notice, keys)
		}
	}
}

func TestConfig(t *testing.T) {
	for want, c := range map[string]cache.Config{
		"max_bytes":       {MaxBytes: 1000},
		"staleness_bound": {StalenessBound: -1},
		"max_age":         {MaxAge: -1},
		"stale_if_error":  {StaleIfError: -1},
	} {
		if _, err := cache.New(c, &source{}, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("%v, not an error about %s", err, want)
		}
	}
}

// The cost of an entry is the memory that it takes. Otherwise max_bytes would not limit the memory.
func TestCost(t *testing.T) {
	for name, answer := range map[string]func(n int, l authz.Lookup) cache.Answer{
		"workspace token": workspaceToken, "personal key": personalKey, "attributes": withAttributes, "unknown": func(_ int, l authz.Lookup) cache.Answer {
			a, _ := unknown(t.Context(), l)
			return a
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const entries = 20_000
				c := newCache(t, cache.Config{MaxBytes: 1 << 30}, &source{answer: func(_ context.Context, l authz.Lookup) (cache.Answer, error) {
					return answer(int(binary.BigEndian.Uint64(l.Digest[:])), l), nil //nolint:gosec // small
				}})
				before := heap()
				for n := range entries {
					l := lookup(n)
					if name == "personal key" || name == "attributes" {
						l.Workspace.Slug = fmt.Sprintf("workspace-%d", n)
					}
					if _, err := c.Lookup(t.Context(), l); err != nil {
						t.Fatal(err)
					}
					if n%1000 == 0 {
						readLog(c, cache.Reply{})
						synctest.Wait()
					}
				}
				synctest.Wait()
				taken := float64(heap()-before) / entries
				s := c.Stats()
				stored := s.Good
				if s.Denied.Entries > 0 {
					stored = s.Denied
				}
				cost := float64(stored.Bytes) / entries
				t.Logf("an entry takes %.0f bytes and costs %.0f", taken, cost)
				if stored.Entries != entries || taken > cost || taken < 0.7*cost {
					t.Errorf("%d entries of %.0f bytes cost %.0f each", stored.Entries, taken, cost)
				}
			})
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second collection frees the contents of pools
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// workspaceToken returns an answer in which every string is a separate allocation, as the database driver creates them.
func workspaceToken(n int, l authz.Lookup) cache.Answer {
	w := fmt.Sprintf("%024x", n)
	return cache.Answer{
		Found: authz.Found{
			Principal: authz.Principal{
				ID:   fmt.Sprintf("%08x-0000-4000-8000-000000000000", n),
				Kind: authz.Kind(strings.Clone("workspace_token")), API: l.API, Environment: authz.Environment(strings.Clone("live")),
				Scopes: scopes(),
			},
			Workspace: authz.Membership{ID: w, Slug: fmt.Sprintf("workspace-%d", n)},
		},
		Expires: true, TTL: time.Hour,
		Keys: []cache.Key{cache.TokenKey(l.Digest), cache.WorkspaceKey(w)},
	}
}

func personalKey(n int, l authz.Lookup) cache.Answer {
	a := workspaceToken(n, l)
	p := &a.Found.Principal
	p.Kind, p.UserID = authz.Kind(strings.Clone("personal_key")), fmt.Sprintf("%08x-1111-4111-8111-111111111111", n)
	a.Found.Workspace.Role = strings.Clone("editor")
	a.Keys = append(a.Keys, cache.UserKey(p.UserID), cache.SlugKey(l.Workspace.Slug))
	return a
}

func withAttributes(n int, l authz.Lookup) cache.Answer {
	a := personalKey(n, l)
	some := func(length int) authz.Attributes { return authz.Attributes(strings.Repeat("a", length)) }
	a.Found.Principal.Attributes, a.Found.Principal.UserAttributes, a.Found.Workspace.Attributes = some(200), some(500), some(1500)
	return a
}

func scopes() []string {
	s := []string{"documents:read", "documents:write", "members:read", "settings:read"}
	for i := range s {
		s[i] = strings.Clone(s[i])
	}
	return s
}

func TestDenialOfACredentialThatWasGoodIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			if time.Since(begun) > bound {
				return denied(authz.ReasonExpired, l), nil
			}
			a, err := good(ctx, l)
			a.Expires, a.TTL = true, bound
			return a, err
		}}
		c := newCache(t, cache.Config{}, s)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		passReading(c, 2*bound)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		if f := expectLookup(t, c, lookup(1), authz.CacheHit); f.Denial != authz.ReasonExpired {
			t.Errorf("%+v", f)
		}
	})
}

func TestStaleAnswerIsTheLastOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last error
		s := &source{answer: good}
		c := newCache(t, cache.Config{StaleIfError: 10 * time.Second}, s)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		expireLease()
		s.answer = func(_ context.Context, l authz.Lookup) (cache.Answer, error) {
			return denied(authz.ReasonRevoked, l), last
		}
		expectLookup(t, c, lookup(1), authz.CacheBypass)
		last = errDown
		if f := expectLookup(t, c, lookup(1), authz.CacheStale); f.Denial != authz.ReasonRevoked {
			t.Errorf("a token that was denied as revoked is allowed again: %+v", f)
		}
	})
}

func denied(reason authz.Reason, l authz.Lookup) cache.Answer {
	return cache.Answer{Found: authz.Found{Denial: reason}, Keys: []cache.Key{cache.TokenKey(l.Digest)}}
}
