package cache_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

func TestMaxAgeLimitsEveryAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{MaxAge: 5 * time.Second}, &source{answer: validToken})
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		sleepWithReadings(c, 5*time.Second-time.Millisecond)
		expectLookup(t, c, lookup(1), authz.CacheHit)
		sleepWithReadings(c, time.Millisecond)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
	})
}

func TestTTLStartsWhenTheQueryIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			time.Sleep(bound / 2) // the answer takes this long to arrive
			a, err := validToken(ctx, l)
			a.Expires, a.TTL = true, 2*bound
			return a, err
		}}
		c := newCache(t, cache.Config{}, s)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		sleepWithReadings(c, 3*bound/2-time.Millisecond)
		expectLookup(t, c, lookup(1), authz.CacheHit)
		sleepWithReadings(c, time.Millisecond)
		s.answer = func(context.Context, authz.Lookup) (cache.Answer, error) {
			return cache.Answer{Result: authz.LookupResult{Denial: authz.ReasonExpired}}, nil
		}
		if f := expectLookup(t, c, lookup(1), authz.CacheMiss); f.Denial != authz.ReasonExpired {
			t.Errorf("%+v", f)
		}
	})
}

func TestStaleIfError(t *testing.T) {
	const window = 10 * time.Second
	applyAndExpire := func(c *cache.Cache, last cache.Reply) {
		readLog(c, last)
		expireLease()
	}
	changed := func(n int) cache.Reply {
		return cache.Reply{Changes: [][]cache.DependencyKey{{cache.TokenKey(lookup(n).Digest)}}}
	}
	for _, c := range []struct {
		name string
		ttl  time.Duration
		then func(*cache.Cache) // this function runs after the database fails
		want bool
	}{
		{"within the window", 0, func(*cache.Cache) { time.Sleep(window - time.Millisecond) }, true},
		{"after the window", 0, func(*cache.Cache) { time.Sleep(window) }, false},
		{"before the expiry", 3 * bound, func(*cache.Cache) { time.Sleep(3*bound - time.Millisecond) }, true},
		{"after the expiry", 3 * bound, func(*cache.Cache) { time.Sleep(3 * bound) }, false},
		{"after a change of the token", 0, func(c *cache.Cache) { applyAndExpire(c, changed(1)) }, false},
		{"after a change of everything", 0, func(c *cache.Cache) { applyAndExpire(c, cache.Reply{AllChanged: true}) }, false},
		{"after a change of something else", 0, func(c *cache.Cache) { applyAndExpire(c, changed(2)) }, true},
		{"after a change of the server", 0, func(c *cache.Cache) { applyAndExpire(c, cache.Reply{Fingerprint: "another"}) }, false},
		{"after rows of the log were lost", 0, func(c *cache.Cache) { applyAndExpire(c, cache.Reply{Cleanings: 2}) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				down := false
				s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					if down {
						return cache.Answer{}, errDown
					}
					a, err := validToken(ctx, l)
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
				expectError(t, directory, lookup(3), errDown) // the cache has no entry for this look-up
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
			return validToken(ctx, l)
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
			t.Errorf("the log has %d warnings and %d messages about the recovery:\n%s", warnings, infos, &log)
		}
	})
}

func TestStaleAnswerIsTheLatestOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sourceErr error // the error that the source returns
		s := &source{answer: validToken}
		c := newCache(t, cache.Config{StaleIfError: 10 * time.Second}, s)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		expireLease()
		s.answer = func(_ context.Context, l authz.Lookup) (cache.Answer, error) {
			return denied(authz.ReasonRevoked, l), sourceErr
		}
		expectLookup(t, c, lookup(1), authz.CacheBypass)
		sourceErr = errDown
		if f := expectLookup(t, c, lookup(1), authz.CacheStale); f.Denial != authz.ReasonRevoked {
			t.Errorf("the stale answer is older than the revocation of the token: %+v", f)
		}
	})
}
