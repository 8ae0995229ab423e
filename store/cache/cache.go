package cache

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// MinBytes is the minimum of Config.MaxBytes.
const MinBytes = 1 << 20

// Config is the configuration of a Cache.
type Config struct {
	// MaxBytes is the maximum memory of all entries together. The default is 64 MiB.
	MaxBytes int64
	// StalenessBound is the time after the commit of a change during which a look-up may still get an answer from before the
	// change. The default is 1s.
	StalenessBound time.Duration
	// MaxAge is the maximum age of a cached answer. It also applies to the answer that a token is unknown. If a trigger was
	// disabled, a change may be missing from the log: cached answers show such a change within MaxAge. While look-ups fail, the
	// maximum age is MaxAge + StaleIfError. The default is 60s.
	MaxAge time.Duration
	// LoadTimeout is the maximum duration of a load. If the deadline of a caller is more than LoadTimeout away, or if the caller
	// has no deadline, the caller runs the load itself. Otherwise, a new goroutine runs the load. Without the new goroutine, a
	// load is about 20 µs faster, but the caller notices a cancelled context only when the load has ended. The default is 0: the
	// maximum is unknown, so each load runs in a new goroutine.
	LoadTimeout time.Duration
	// StaleIfError is the maximum time for which a cached answer may be used while the database is unreachable. This time begins
	// at the last time at which the answer was known to be current. The default is 0: Lookup returns the database's error, and
	// uses no cached answer.
	StaleIfError time.Duration
}

func (c Config) withDefaults() (Config, error) {
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	if c.StalenessBound == 0 {
		c.StalenessBound = time.Second
	}
	if c.MaxAge == 0 {
		c.MaxAge = time.Minute
	}
	switch {
	case c.MaxBytes < MinBytes:
		return c, fmt.Errorf("max_bytes: %d is less than 1 MiB", c.MaxBytes)
	case c.StalenessBound < 0:
		return c, fmt.Errorf("staleness_bound: %v is not positive", c.StalenessBound)
	case c.MaxAge < 0:
		return c, fmt.Errorf("max_age: %v is not positive", c.MaxAge)
	case c.StaleIfError < 0:
		return c, fmt.Errorf("stale_if_error: %v is negative", c.StaleIfError)
	}
	return c, nil
}

// Source is the database behind the cache.
type Source interface {
	// Load answers a look-up from the present state of the database. Load must limit its own duration.
	Load(ctx context.Context, l authz.Lookup) (Answer, error)
}

// Answer is the answer of a Source to a look-up.
type Answer struct {
	Result authz.LookupResult
	// If Expires is true, the answer is valid for the duration TTL, counted from the start of the query.
	Expires bool
	TTL     time.Duration
	// Keys identify everything in the database that the answer depends on.
	Keys []DependencyKey
}

// Cache is an [authz.Directory] in front of a Source. It is safe for concurrent use.
type Cache struct {
	config Config
	source Source
	logger *slog.Logger
	start  time.Time // all times in entries and in the lease are durations since start
	hash   func(authz.Lookup) uint64
	good   partition
	denied partition // separate from the partition good, so that a flood of unknown tokens cannot evict the entries of valid tokens
	// recent contains the entries that were loaded last. ristretto stores an entry some time after the call of its method Set.
	// Without recent, look-ups would query the database again during this time.
	recent      [1024]atomic.Pointer[entry]
	denialTimes [1024]atomic.Int64 // time of the latest load that returned a denial: see denialTime
	common      commonTable
	generations generations
	lease       lease
	log         logState // only the goroutine that reads the change log uses it
	loads       sharedLoads

	changes atomic.Uint64 // number of rows of the log that the cache has read
	hints   atomic.Uint64
	mu      sync.Mutex
	epochs  map[Cause]uint64

	servingStale atomic.Bool  // the cache has answered from a stale entry, and no load has succeeded since then
	closing      sync.RWMutex // protects closed: a load may end after Close, and ristretto panics if its method Set is called after its method Close
	closed       bool
}

var _ authz.Directory = (*Cache)(nil)

// New returns an empty cache. The cache answers only from the database until the change log has been read for the first time.
func New(c Config, s Source, logger *slog.Logger) (*Cache, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	seed := maphash.MakeSeed()
	cache := &Cache{
		config: c, source: s, logger: logger, start: time.Now(), epochs: make(map[Cause]uint64),
		hash:   func(l authz.Lookup) uint64 { return maphash.Comparable(seed, l) },
		lease:  lease{bound: c.StalenessBound},
		loads:  sharedLoads{running: make(map[loadKey]*sharedLoad)},
		common: commonTable{seed: seed},
	}
	const denialShare = 8 // denials may use 1/8 of MaxBytes
	if err = cache.good.open(c.MaxBytes - c.MaxBytes/denialShare); err != nil {
		return nil, err
	}
	if err = cache.denied.open(c.MaxBytes / denialShare); err != nil {
		return nil, err
	}
	return cache, nil
}

// Close stops the goroutines of ristretto. Call Close only after all look-ups have ended. Loads may still be in progress.
func (c *Cache) Close() {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.closed = true
	c.good.entries.Close()
	c.denied.entries.Close()
}

// Config returns the configuration, with default values for the fields that were not set.
func (c *Cache) Config() Config { return c.config }

func (c *Cache) now() time.Duration { return time.Since(c.start) }

// Lookup implements [authz.Directory]. Several callers get the same slice of scopes, so a caller must not write to it.
func (c *Cache) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	now := c.now()
	valid := c.lease.valid(now)
	if valid {
		if e := c.freshEntry(l, now); e != nil {
			return e.answer(now, authz.CacheHit), nil
		}
	}
	result := authz.CacheMiss
	load := c.loadShared
	if !valid {
		result, load = authz.CacheBypass, c.load
	}
	e, err := load(ctx, l)
	if err != nil {
		if e := c.staleEntry(ctx, l); e != nil {
			if c.servingStale.CompareAndSwap(false, true) {
				c.logger.Warn("the database does not answer: cached answers are used, because cache.stale_if_error allows it", "error", err)
			}
			return e.answer(c.now(), authz.CacheStale), nil
		}
		return authz.LookupResult{}, err
	}
	return e.answer(c.now(), result), nil
}

// recentSlot returns the slot of the array recent for the hash. Several hashes share a slot.
func (c *Cache) recentSlot(hash uint64) *atomic.Pointer[entry] {
	return &c.recent[hash%uint64(len(c.recent))]
}

// denialTime returns the time of the latest load of a denial with the hash, or with another hash that shares the slot. If an
// entry was loaded after this time, it is newer than every denial with its hash. So the function latest need not search for a
// denial.
func (c *Cache) denialTime(hash uint64) *atomic.Int64 {
	return &c.denialTimes[hash%uint64(len(c.denialTimes))]
}

// load queries the database and stores the answer.
func (c *Cache) load(ctx context.Context, l authz.Lookup) (*entry, error) {
	l = l.Clone()
	generation, start := c.generations.lastNumber(), c.now()
	a, err := c.source.Load(ctx, l)
	if err != nil {
		return nil, err
	}
	if c.servingStale.Load() && c.servingStale.CompareAndSwap(true, false) {
		c.logger.Info("the database answers again")
	}
	e := c.newEntry(l, a, generation, start)
	c.store(e)
	return e, nil
}

func (c *Cache) store(e *entry) {
	p := &c.good
	hash := c.hash(e.lookup())
	c.recentSlot(hash).Store(e)
	if e.denied() {
		p = &c.denied
		at := c.denialTime(hash)
		for last := at.Load(); last < int64(e.loaded) && !at.CompareAndSwap(last, int64(e.loaded)); last = at.Load() {
		}
	}
	c.closing.RLock()
	defer c.closing.RUnlock()
	if !c.closed {
		p.add(hash, e)
	}
}

// loadShared runs load once for all concurrent callers with the same look-up. Call loadShared only while the lease is valid,
// because a caller that joins a load may get an answer from before its own call. If the cache has read a change of the look-up's
// keys after a load began, no caller joins this load.
//
// If LoadTimeout is set, and the deadline of the caller that starts the load is missing or more than LoadTimeout away, this
// caller runs the load to its end. All other callers return when their context ends.
func (c *Cache) loadShared(ctx context.Context, l authz.Lookup) (*entry, error) {
	lookupKeys := append(CredentialKeys(l), WorkspaceKey(l.Workspace.ID), SlugKey(l.Workspace.Slug))
	k := loadKey{c.generations.lastChange(lookupKeys), l}
	pending, started := c.loads.join(k)
	if started {
		run := func() {
			c.loads.run(k, pending, func() (*entry, error) {
				// This caller found no entry, but another load may have stored one in the meantime.
				if now := c.now(); c.lease.valid(now) {
					if e := c.freshEntry(l, now); e != nil {
						return e, nil
					}
				}
				return c.load(context.WithoutCancel(ctx), l)
			})
		}
		if deadline, ok := ctx.Deadline(); c.config.LoadTimeout > 0 && (!ok || time.Until(deadline) > c.config.LoadTimeout) {
			run()
			return pending.entry, pending.err
		}
		go run()
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-pending.ended:
	}
	// Some keys of the answer are known only now, for example the user's key. If the cache has read a change of such a key after
	// the load began, a caller that joined the load tries again. This time, it can join only a load that began after the cache
	// had read the change.
	if !started && pending.err == nil && pending.entry.outdated(&c.generations) {
		return c.loadShared(ctx, l)
	}
	return pending.entry, pending.err
}
