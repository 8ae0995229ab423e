package cache_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

func TestConcurrentLookupsShareALoad(t *testing.T) {
	const callers = 1000
	for _, c := range []struct {
		name    string
		expired bool
		want    int64
	}{
		{name: "callers share one load", want: 1},
		{name: "each caller loads while the change log is not read", expired: true, want: callers},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					<-release
					return validToken(ctx, l)
				}}
				directory := newCache(t, cache.Config{}, s)
				if c.expired {
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

// Some callers look up a token before the load of this token begins, some during the load, and some just after the load.
// Together, they cause only one load.
func TestLookupsAroundALoadCauseOneLoad(t *testing.T) {
	s := &source{answer: validToken}
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

// A look-up that begins after the cache has read a change must not join a load that began before. A thousand such look-ups cause
// only one new load.
func TestConcurrentLookupsAfterAChangeShareANewLoad(t *testing.T) {
	const user = "u1"
	for name, key := range map[string]cache.DependencyKey{
		"the look-up contains the changed object (the token)":    cache.TokenKey(lookup(1).Digest),
		"only the answer contains the changed object (the user)": cache.UserKey(user),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				scope := "old"
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					a, err := validToken(ctx, l)
					a.Result.Principal.Scopes, a.Keys = []string{scope}, append(a.Keys, cache.UserKey(user))
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

// If a load began before a change, look-ups that begin after the change do not wait for this load.
func TestOldLoadBlocksNoLaterLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			<-release
			return validToken(ctx, l)
		}}
		c := newCache(t, cache.Config{}, s)
		var before sync.WaitGroup
		before.Go(func() { _, _ = c.Lookup(t.Context(), lookup(1)) })
		synctest.Wait()
		changed(c, cache.TokenKey(lookup(1).Digest))
		s.answer = validToken
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		if _, err := c.Lookup(ctx, lookup(1)); err != nil {
			t.Error(err)
		}
		close(release)
		before.Wait()
	})
}

// If one caller cancels its context, the other callers still get their answer, even if the canceled caller started the load.
// Usually, the canceled caller returns immediately. But it runs the load itself, and returns when the load ends, if it started
// the load and its deadline is missing or more than LoadTimeout away.
func TestCallerMayCancelWhileOthersWait(t *testing.T) {
	const loadTimeout = time.Second
	for name, c := range map[string]struct {
		config       cache.Config
		firstTimeout time.Duration // timeout of the caller that starts the load; 0 means no timeout
		waits        bool          // whether the caller that starts the load waits for the end of the load
	}{
		"LoadTimeout is not set":                {cache.Config{}, 0, false},
		"the deadline is not after LoadTimeout": {cache.Config{LoadTimeout: loadTimeout}, loadTimeout, false},
		"the deadline is after LoadTimeout":     {cache.Config{LoadTimeout: loadTimeout}, loadTimeout + 1, true},
		"there is no deadline":                  {cache.Config{LoadTimeout: loadTimeout}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					select {
					case <-release:
						return validToken(ctx, l)
					case <-ctx.Done():
						return cache.Answer{}, ctx.Err()
					}
				}}
				directory := newCache(t, c.config, s)
				lookUp := func(ctx context.Context) <-chan error {
					result := make(chan error, 1)
					go func() {
						_, err := directory.Lookup(ctx, lookup(1))
						result <- err
					}()
					synctest.Wait()
					return result
				}
				ctx, cancelCallers := context.WithCancel(t.Context())
				firstCtx := ctx
				if c.firstTimeout > 0 {
					var cancel context.CancelFunc
					firstCtx, cancel = context.WithTimeout(ctx, c.firstTimeout)
					defer cancel()
				}
				first, second, third := lookUp(firstCtx), lookUp(ctx), lookUp(t.Context())
				cancelCallers()
				if err := <-second; !errors.Is(err, context.Canceled) {
					t.Errorf("the caller that joined and canceled got %v", err)
				}
				if synctest.Wait(); c.waits != (len(first) == 0) {
					t.Errorf("the caller that started the load has returned: %t", len(first) == 1)
				}
				close(release)
				if err := <-first; c.waits && err != nil || !c.waits && !errors.Is(err, context.Canceled) {
					t.Errorf("the caller that started the load got %v", err)
				}
				if err := <-third; err != nil || s.loads.Load() != 1 {
					t.Errorf("the caller that did not cancel got %v, and there were %d queries", err, s.loads.Load())
				}
				expectLookup(t, directory, lookup(1), authz.CacheHit)
			})
		})
	}
}

func TestPanicOfALoadIsAnErrorForAllCallers(t *testing.T) {
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
		s.answer = validToken
		expectLookup(t, c, lookup(1), authz.CacheMiss) // later callers do not join the load that panicked
	})
}

func TestLoadMayEndAfterClose(t *testing.T) {
	for range 100 {
		release := make(chan struct{})
		var loads sync.WaitGroup
		c, err := cache.New(cache.Config{MaxBytes: 1 << 20}, &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			<-release
			return validToken(ctx, l)
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
