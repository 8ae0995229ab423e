package cache_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
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

func validToken(_ context.Context, l authz.Lookup) (cache.Answer, error) {
	return cache.Answer{
		Result: authz.LookupResult{
			Principal: authz.Principal{ID: "t1", Kind: authz.KindWorkspaceToken, API: l.API, Scopes: []string{"a"}},
			Workspace: authz.Membership{ID: "w1", Slug: "acme"},
		},
		Keys: []cache.DependencyKey{cache.TokenKey(l.Digest), cache.WorkspaceKey("w1")},
	}, nil
}

func unknownToken(_ context.Context, l authz.Lookup) (cache.Answer, error) {
	return cache.Answer{Result: authz.LookupResult{Denial: authz.ReasonUnknown}, Keys: []cache.DependencyKey{cache.TokenKey(l.Digest)}}, nil
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

// newLoggingCache returns a cache that has just read the log. So its lease is valid until the staleness bound has passed.
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

// readLog makes the cache read the log. The reply r arrives immediately.
func readLog(c *cache.Cache, r cache.Reply) { deliver(c, c.BeginPoll(), r) }

// deliver delivers the reply to a poll.
func deliver(c *cache.Cache, p cache.Poll, r cache.Reply) {
	r.Snapshot, r.Fingerprint = "3:3:", cmp.Or(r.Fingerprint, "the first")
	c.Apply(p, r, true)
}

// changed makes the cache read a change of the keys from the log.
func changed(c *cache.Cache, keys ...cache.DependencyKey) {
	readLog(c, cache.Reply{Changes: [][]cache.DependencyKey{keys}})
}

// sleepWithReadings lets time pass. During this time, the cache regularly reads the log, and the log contains no new changes.
func sleepWithReadings(c *cache.Cache, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); readLog(c, cache.Reply{}) {
		time.Sleep(min(bound/4, time.Until(end)))
	}
}

// expireLease lets time pass until the lease expires.
func expireLease() { time.Sleep(bound) }

// expectLookup looks up l, checks the cache result, and waits until the answer is stored.
func expectLookup(t *testing.T, c *cache.Cache, l authz.Lookup, want authz.CacheResult) authz.LookupResult {
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
