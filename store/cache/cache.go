package cache

import (
	"context"
	"errors"
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
	// StalenessBound is how long after the commit of a change a look-up may still get an answer from before the change. The
	// default is 1s.
	StalenessBound time.Duration
	// MaxAge is the maximum time for which an answer is kept. So if a change is missing from the log because a trigger was
	// disabled, an old answer is still used for at most this time. The default is 60s.
	MaxAge time.Duration
	// LoadTimeout is the maximum duration of a load. A caller with a later deadline runs the load itself, without a new
	// goroutine. Without the new goroutine, a load is about 20 µs faster, but the caller notices a cancelled context only when
	// the load has ended. The default 0 means that the maximum is unknown, so each load gets a new goroutine.
	LoadTimeout time.Duration
	// StaleIfError is how long a cached answer is used while the database is unreachable. This time begins when the cached answer
	// was last known to be current. The default is 0: Lookup returns the database's error.
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
	// Load answers a look-up from the database's present state. It must limit its own duration.
	Load(ctx context.Context, l authz.Lookup) (Answer, error)
}

// Answer is the answer of a Source. It also contains the keys of everything that the answer depends on.
type Answer struct {
	Found authz.LookupResult
	// Expires reports that the answer expires TTL after the query began.
	Expires bool
	TTL     time.Duration
	// Keys identify everything in the database that the answer depends on.
	Keys []Key
}

// Cache is an [authz.Directory] in front of a Source. It is safe for concurrent use.
type Cache struct {
	config Config
	source Source
	logger *slog.Logger
	start  time.Time // entries and the lease store times as durations since start
	hash   func(authz.Lookup) uint64
	good   partition
	denied partition // denied is separate, so that a flood of unknown tokens cannot evict the entries of valid tokens
	// recent contains the entries that were loaded last. ristretto stores an entry some time after its method Set returns.
	// Without recent, requests would query the database again during this time.
	recent      [1024]atomic.Pointer[entry]
	denials     [1024]atomic.Int64 // for each hash: the time of the latest load that returned a denial
	sharing     sharing
	generations generations
	lease       lease
	log         logState // only the goroutine that reads the change log uses it
	loads       sharedLoads

	changes atomic.Uint64 // number of rows of the log that were read
	hints   atomic.Uint64
	mu      sync.Mutex
	epochs  map[Cause]uint64

	servingStale atomic.Bool  // the database was unreachable, and a stale entry answered
	closing      sync.RWMutex // a load may end after the look-up that began the load, and ristretto panics if Set is called after Close
	closed       bool
}

var _ authz.Directory = (*Cache)(nil)

// New returns an empty cache. It uses no cached answers until the change log has been read.
func New(c Config, s Source, logger *slog.Logger) (*Cache, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	seed := maphash.MakeSeed()
	cache := &Cache{
		config: c, source: s, logger: logger, start: time.Now(), epochs: make(map[Cause]uint64),
		hash:    func(l authz.Lookup) uint64 { return maphash.Comparable(seed, l) },
		lease:   lease{bound: c.StalenessBound},
		loads:   sharedLoads{running: make(map[loadKey]*sharedLoad)},
		sharing: sharing{seed: seed},
	}
	const negative = 8 // denials may use 1/negative of MaxBytes
	if err = cache.good.open(c.MaxBytes - c.MaxBytes/negative); err != nil {
		return nil, err
	}
	if err = cache.denied.open(c.MaxBytes / negative); err != nil {
		return nil, err
	}
	return cache, nil
}

// Close stops the cache's own goroutines. When Close is called, all look-ups must have ended, but loads may still run.
func (c *Cache) Close() {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.closed = true
	c.good.entries.Close()
	c.denied.entries.Close()
}

// Config returns the configuration with its defaults filled in.
func (c *Cache) Config() Config { return c.config }

func (c *Cache) now() time.Duration { return time.Since(c.start) }

// Lookup implements [authz.Directory]. Several callers get the same result, so they must not write to its scopes.
func (c *Cache) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	now := c.now()
	valid := c.lease.valid(now)
	if valid {
		if e := c.freshEntry(l, now); e != nil {
			return e.answer(now, authz.CacheHit), nil
		}
	}
	from := authz.CacheMiss
	load := c.loadShared
	if !valid {
		from, load = authz.CacheBypass, c.load
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
	return e.answer(c.now(), from), nil
}

// freshEntry returns the entry that may answer while the lease is valid, or nil.
func (c *Cache) freshEntry(l authz.Lookup, now time.Duration) *entry {
	if e := c.latest(l); e != nil && now-e.loaded < c.config.MaxAge && now < e.expires {
		return e
	}
	return nil
}

// latest returns the entry that was loaded last and is not outdated, or nil. The cache may contain two entries for a user's
// credential: an earlier look-up for one workspace stored it as valid, and a later look-up for another workspace stored a denial.
// So latest compares both.
func (c *Cache) latest(l authz.Lookup) *entry {
	anywhere := l
	anywhere.Workspace = authz.WorkspaceRef{}
	hash := c.hash(anywhere)
	// Most entries are stored without the requested workspace: all denials, and the credentials that belong to a workspace.
	e := c.get(&c.good, hash, anywhere)
	if l != anywhere && (e == nil || e.ofUser) {
		e = c.get(&c.good, c.hash(l), l)
	}
	if e != nil && int64(e.loaded) > c.deniedAt(hash).Load() {
		return e
	}
	// get also searches in recent, so the entry may not be a denial.
	if denial := c.get(&c.denied, hash, anywhere); denial != nil && denial.denied() && (e == nil || denial.loaded >= e.loaded) {
		return denial
	}
	return e
}

func (c *Cache) get(p *partition, hash uint64, l authz.Lookup) *entry {
	if e, ok := p.entries.Get(hash); ok && c.isCurrent(e, l) {
		return e
	}
	if e := c.recentSlot(hash).Load(); e != nil && c.isCurrent(e, l) {
		return e
	}
	return nil
}

// isCurrent reports whether the entry is for the look-up and not outdated.
func (c *Cache) isCurrent(e *entry, l authz.Lookup) bool {
	return e.answers(l) && !e.outdated(&c.generations)
}

// recentSlot returns the slot for the entry that was last loaded with the hash. Several hashes share a slot.
func (c *Cache) recentSlot(hash uint64) *atomic.Pointer[entry] {
	return &c.recent[hash%uint64(len(c.recent))]
}

// deniedAt returns the time of the latest load with the hash that returned a denial. Several hashes share a slot. Because of this
// time, most look-ups need not search for a denial.
func (c *Cache) deniedAt(hash uint64) *atomic.Int64 { return &c.denials[hash%uint64(len(c.denials))] }

// load queries the database and stores the answer.
func (c *Cache) load(ctx context.Context, l authz.Lookup) (*entry, error) {
	l = l.Detached()
	since, begun := c.generations.now(), c.now()
	a, err := c.source.Load(ctx, l)
	if err != nil {
		return nil, err
	}
	if c.servingStale.Load() && c.servingStale.CompareAndSwap(true, false) {
		c.logger.Info("the database answers again")
	}
	e := c.newEntry(l, a, since, begun)
	c.store(e)
	return e, nil
}

func (c *Cache) store(e *entry) {
	p := &c.good
	hash := c.hash(e.lookup())
	c.recentSlot(hash).Store(e)
	if e.denied() {
		p = &c.denied
		at := c.deniedAt(hash)
		for last := at.Load(); last < int64(e.loaded) && !at.CompareAndSwap(last, int64(e.loaded)); last = at.Load() {
		}
	}
	c.closing.RLock()
	defer c.closing.RUnlock()
	if !c.closed {
		p.add(hash, e)
	}
}

// loadShared runs load once for all concurrent callers with the same look-up. Use loadShared only while the lease is valid,
// because a caller that joins a load may get an answer from before its own call. A caller does not join a load if the cache has
// read a change of the look-up's keys since the load began.
//
// If the context of the caller that starts the load lasts longer than LoadTimeout, this caller runs the load to its end. All
// other callers return when their context ends.
func (c *Cache) loadShared(ctx context.Context, l authz.Lookup) (*entry, error) {
	lookupKeys := append(CredentialKeys(l), WorkspaceKey(l.Workspace.ID), SlugKey(l.Workspace.Slug))
	k := loadKey{c.generations.lastChange(lookupKeys), l}
	pending, started := c.loads.join(k)
	if started {
		run := func() {
			c.loads.run(k, pending, func() (*entry, error) {
				// This caller found no entry, but another load may have stored an entry since.
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
	// Some keys of the answer, for example the user's, are known only now. If such a key changed after the load began, a caller
	// that joined the load loads again. This time, the caller can join only a load that began after the change.
	if !started && pending.err == nil && pending.entry.outdated(&c.generations) {
		return c.loadShared(ctx, l)
	}
	return pending.entry, pending.err
}

// staleEntry returns an entry that the setting stale_if_error still allows while the database is unreachable, or nil.
func (c *Cache) staleEntry(ctx context.Context, l authz.Lookup) *entry {
	if c.config.StaleIfError == 0 || errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	e, now := c.latest(l), c.now()
	if e == nil || now >= e.expires {
		return nil
	}
	lastCurrent := max(e.loaded, time.Duration(c.lease.known.Load()))
	if now-lastCurrent >= c.config.StaleIfError || now-e.loaded >= c.config.MaxAge+c.config.StaleIfError {
		return nil
	}
	return e
}
