package cache_test

import (
	"context"
	"encoding/binary"
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

func TestWarmLookupMakesNoQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: validToken}
		c := newCache(t, cache.Config{}, s)
		l := lookup(1)
		expectLookup(t, c, l, authz.CacheMiss)
		expectLookup(t, c, l, authz.CacheHit)
		allocations := testing.AllocsPerRun(1000, func() { _, _ = c.Lookup(t.Context(), l) })
		if s.loads.Load() != 1 || allocations > 2 {
			t.Errorf("there were %d queries and %v allocations", s.loads.Load(), allocations)
		}
	})
}

func TestManyTokensGetTheirOwnAnswers(t *testing.T) {
	for _, collide := range []bool{false, true} {
		t.Run(fmt.Sprintf("collide=%v", collide), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, cache.Config{}, &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
					a, err := validToken(ctx, l)
					a.Result.Principal.ID = fmt.Sprintf("%d of %s", binary.BigEndian.Uint64(l.Digest[:]), l.API)
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
func TestLookupsAreDistinguished(t *testing.T) {
	lookupWith := func(change func(*authz.Lookup)) authz.Lookup {
		l := authz.Lookup{Kind: authz.KindSession, API: "api", Session: authz.Session{ID: "s", UserID: "u", StartedAt: 1}, Workspace: authz.WorkspaceRef{Slug: "w"}}
		change(&l)
		return l
	}
	lookups := []authz.Lookup{
		lookupWith(func(*authz.Lookup) {}),
		lookupWith(func(l *authz.Lookup) { l.API = "another" }),
		lookupWith(func(l *authz.Lookup) { l.Kind = authz.KindOAuthToken }),
		lookupWith(func(l *authz.Lookup) { l.Digest[31] = 1 }),
		lookupWith(func(l *authz.Lookup) { l.Session.ID = "another" }),
		lookupWith(func(l *authz.Lookup) { l.Session.UserID = "another" }),
		lookupWith(func(l *authz.Lookup) { l.Session.StartedAt = 2 }),
		lookupWith(func(l *authz.Lookup) { l.Session.ID, l.Session.UserID = "su", "" }),
		lookupWith(func(l *authz.Lookup) { l.Workspace.Slug = "another" }),
		lookupWith(func(l *authz.Lookup) { l.Workspace = authz.WorkspaceRef{ID: "w"} }),
		lookupWith(func(l *authz.Lookup) { l.Workspace = authz.WorkspaceRef{} }),
	}
	for _, collide := range []bool{false, true} {
		t.Run(fmt.Sprintf("collide=%v", collide), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, cache.Config{}, &source{answer: func(_ context.Context, l authz.Lookup) (cache.Answer, error) {
					time.Sleep(time.Millisecond)
					return cache.Answer{Keys: cache.CredentialKeys(l), Result: authz.LookupResult{
						Principal: authz.Principal{ID: fmt.Sprint(l), UserID: "of a user"}}}, nil
				}})
				if collide {
					c.Collide()
				}
				for range 3 {
					var callers sync.WaitGroup
					for _, l := range lookups {
						for range 3 {
							callers.Go(func() {
								if f, err := c.Lookup(t.Context(), l); err != nil || f.Principal.ID != fmt.Sprint(l) {
									t.Errorf("%+v: %q, %v", l, f.Principal.ID, err)
								}
							})
						}
					}
					callers.Wait()
					synctest.Wait()
				}
			})
		})
	}
}

// A client may send any workspace header. If the token belongs to a workspace, a new value of the header must not cause a query.
func TestWorkspaceHeaderCausesNoQueryForWorkspaceToken(t *testing.T) {
	for name, answer := range map[string]func(context.Context, authz.Lookup) (cache.Answer, error){
		"good": validToken, "unknown": unknownToken,
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

func TestUnknownTokensDoNotEvictValidOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const validTokens = 100
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			if binary.BigEndian.Uint64(l.Digest[:]) < validTokens {
				return validToken(ctx, l)
			}
			return unknownToken(ctx, l)
		}}
		c := newCache(t, cache.Config{MaxBytes: 1 << 20}, s)
		for n := range 10_000 {
			expectLookup(t, c, lookup(n), authz.CacheMiss)
		}
		for n := range validTokens {
			expectLookup(t, c, lookup(n), authz.CacheHit)
		}
		if denied := c.Stats().Denied; denied.Entries == 0 || denied.Bytes > 1<<20/8 {
			t.Errorf("%+v", denied)
		}
	})
}

// A token is revoked during concurrent look-ups. A look-up that begins after the cache has read the change returns a denial. In
// model_test.go, a schedule determines the order of the goroutines. Here, they run in any order.
func TestRevocationDuringLookups(t *testing.T) {
	const tokens = 1000
	var revoked [tokens]atomic.Bool
	c := newCache(t, cache.Config{}, &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
		if revoked[binary.BigEndian.Uint64(l.Digest[:])].Load() {
			return unknownToken(ctx, l)
		}
		runtime.Gosched() // so that the revocation can happen here
		return validToken(ctx, l)
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
				t.Fatalf("token %d was revoked, but the answer is %+v %v", n, f, err)
			}
		}
		others.Wait()
		if f, err := c.Lookup(t.Context(), lookup(n)); err != nil || f.Denial == "" {
			t.Fatalf("token %d was revoked, but the later answer is %+v %v", n, f, err)
		}
	}
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, cache.Config{}, &source{answer: validToken})
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		changed(c, 1, 2)
		readLog(c, cache.Reply{AllChanged: true})
		p := c.BeginPoll()
		time.Sleep(bound / 4)
		deliver(c, p, cache.Reply{})
		s := c.Stats()
		if s.LeaseLeft != 3*bound/4 || s.FeedLag != bound/4 || s.Changes != 2 {
			t.Errorf("%+v", s)
		}
		if s.Discarded[cache.CauseStart] != 1 || s.Discarded[cache.CauseManyChanges] != 1 || s.Discarded[cache.CauseFingerprint] != 0 {
			t.Errorf("%v", s.Discarded)
		}
		if s.Good.Entries != 1 || s.Good.Bytes == 0 || s.Denied != (cache.PartitionStats{}) {
			t.Errorf("%+v %+v", s.Good, s.Denied)
		}
		if ever, now := c.LeaseState(); !ever || !now {
			t.Error("the lease is not valid")
		}
		c.Apply(c.BeginPoll(), cache.Reply{}, true)
		if ever, now := c.LeaseState(); !ever || now || c.Stats().LeaseLeft != 0 {
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

func TestDenialOfAFormerlyValidCredentialIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		firstLoad := time.Now()
		s := &source{answer: func(ctx context.Context, l authz.Lookup) (cache.Answer, error) {
			if time.Since(firstLoad) > bound {
				return denied(authz.ReasonExpired, l), nil
			}
			a, err := validToken(ctx, l)
			a.Expires, a.TTL = true, bound
			return a, err
		}}
		c := newCache(t, cache.Config{}, s)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		sleepWithReadings(c, 2*bound)
		expectLookup(t, c, lookup(1), authz.CacheMiss)
		if f := expectLookup(t, c, lookup(1), authz.CacheHit); f.Denial != authz.ReasonExpired {
			t.Errorf("%+v", f)
		}
	})
}

func denied(reason authz.Reason, l authz.Lookup) cache.Answer {
	return cache.Answer{Result: authz.LookupResult{Denial: reason}, Keys: []cache.DependencyKey{cache.TokenKey(l.Digest)}}
}
