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

// MinBytes is what a Cache cannot do with less than.
const MinBytes = 1 << 20

// Config of a Cache.
type Config struct {
	// MaxBytes is what all entries together may take. Default: 64 MiB.
	MaxBytes int64
	// StalenessBound is how long after a change was committed a request may still be answered from before it, at most.
	// Default: 1s.
	StalenessBound time.Duration
	// MaxAge is how long an answer is remembered at most: the backstop for changes that nobody told, because somebody
	// has disabled a trigger. Default: 60s.
	MaxAge time.Duration
	// LoadTimeout is how long a load takes at most. A caller with more time than that runs the load in their own goroutine, which
	// saves about 20 µs. Such a caller does not notice that their context was cancelled until the load has ended. Default: 0, not
	// known: each load has a goroutine.
	LoadTimeout time.Duration
	// StaleIfError is for how long a question is answered from memory while the database cannot be asked, counted from
	// when the answer was last known to be true. Default: 0, an error is an error.
	StaleIfError time.Duration
}

func (c Config) complete() (Config, error) {
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
	// Load answers a question from the database's present state. It ends by itself, in time.
	Load(ctx context.Context, l authz.Lookup) (Answer, error)
}

// Answer is what a Source says, and what that depends on.
type Answer struct {
	Found authz.Found
	// Expires says that the credential does, after TTL from when the database was asked.
	Expires bool
	TTL     time.Duration
	// Keys of everything in the database that would change the answer, if it changed.
	Keys []Key
}

// Cache is an [authz.Directory] in front of a Source. It is safe for concurrent use.
type Cache struct {
	config Config
	source Source
	logger *slog.Logger
	start  time.Time // of the clock
	hash   func(authz.Lookup) uint64
	good   room
	denied room // apart, so that a flood of unknown tokens cannot push out the good ones
	// last holds what was loaded last: ristretto takes its time, and whoever asks meanwhile would ask the database too.
	last        [1024]atomic.Pointer[entry]
	denials     [1024]atomic.Int64 // when a denial was loaded last, by hash
	sharing     sharing
	generations generations
	lease       lease
	log         log // only the goroutine that reads the change log uses it
	flights     flights

	changes atomic.Uint64 // rows of the log that were read
	hints   atomic.Uint64
	mu      sync.Mutex
	epochs  map[Cause]uint64

	excusing atomic.Bool  // the database could not be asked, and memory answered
	closing  sync.RWMutex // a load may end after the look-up that began it, and ristretto panics on a late Set
	closed   bool
}

var _ authz.Directory = (*Cache)(nil)

// New makes a cache that is empty, and closed until the change log is read.
func New(c Config, s Source, logger *slog.Logger) (*Cache, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	seed := maphash.MakeSeed()
	cache := &Cache{
		config: c, source: s, logger: logger, start: time.Now(), epochs: make(map[Cause]uint64),
		hash:    func(l authz.Lookup) uint64 { return maphash.Comparable(seed, l) },
		lease:   lease{bound: c.StalenessBound},
		flights: flights{underway: make(map[question]*flight)},
		sharing: sharing{seed: seed},
	}
	const negative = 8 // the part of the room that denials get
	if err = cache.good.open(c.MaxBytes - c.MaxBytes/negative); err != nil {
		return nil, err
	}
	if err = cache.denied.open(c.MaxBytes / negative); err != nil {
		return nil, err
	}
	return cache, nil
}

// Close ends the cache's own goroutines. Look-ups must have ended.
func (c *Cache) Close() {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.closed = true
	c.good.entries.Close()
	c.denied.entries.Close()
}

// Config is the configuration, with its defaults.
func (c *Cache) Config() Config { return c.config }

func (c *Cache) now() time.Duration { return time.Since(c.start) }

// Lookup implements [authz.Directory]. What it returns is shared: nobody may write to its scopes.
func (c *Cache) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	now := c.now()
	held := c.lease.held(now)
	if held {
		if e := c.remembered(l, now); e != nil {
			return e.answer(now, authz.CacheHit), nil
		}
	}
	from := authz.CacheMiss
	load := c.joined
	if !held {
		from, load = authz.CacheBypass, c.load
	}
	e, err := load(ctx, l)
	if err != nil {
		if e := c.excused(ctx, l); e != nil {
			if c.excusing.CompareAndSwap(false, true) {
				c.logger.Warn("the database cannot be asked: answering from memory, as cache.stale_if_error has it", "error", err)
			}
			return e.answer(c.now(), authz.CacheStale), nil
		}
		return authz.Found{}, err
	}
	return e.answer(c.now(), from), nil
}

// remembered is what may answer while the lease is held.
func (c *Cache) remembered(l authz.Lookup, now time.Duration) *entry {
	if e := c.latest(l); e != nil && now-e.loaded < c.config.MaxAge && now < e.expires {
		return e
	}
	return nil
}

// latest is the answer that was loaded last, if nothing was told that speaks against it. A credential of a user may be
// remembered as good in one workspace, and have been denied since when another was asked for.
func (c *Cache) latest(l authz.Lookup) *entry {
	anywhere := l
	anywhere.Workspace = authz.WorkspaceRef{}
	hash := c.hash(anywhere)
	// Most entries are of no workspace: all denials, and the credentials that belong to one.
	e := c.get(&c.good, hash, anywhere)
	if l != anywhere && (e == nil || e.ofUser) {
		e = c.get(&c.good, c.hash(l), l)
	}
	if e != nil && int64(e.loaded) > c.deniedAt(hash).Load() {
		return e
	}
	// The entry that was loaded last may be a good answer for no workspace, which says nothing of another.
	if denial := c.get(&c.denied, hash, anywhere); denial != nil && denial.denied() && (e == nil || denial.loaded >= e.loaded) {
		return denial
	}
	return e
}

func (c *Cache) get(room *room, hash uint64, l authz.Lookup) *entry {
	if e, ok := room.entries.Get(hash); ok && c.holds(e, l) {
		return e
	}
	if e := c.recent(hash).Load(); e != nil && c.holds(e, l) {
		return e
	}
	return nil
}

// holds reports whether the entry is for the question, and nothing was told that speaks against it.
func (c *Cache) holds(e *entry, l authz.Lookup) bool {
	return e.answers(l) && !e.outdated(&c.generations)
}

// recent is where the last entry with such a hash is.
func (c *Cache) recent(hash uint64) *atomic.Pointer[entry] { return &c.last[hash%uint64(len(c.last))] }

// deniedAt is when a denial with such a hash was last loaded. It spares most look-ups the search for one.
func (c *Cache) deniedAt(hash uint64) *atomic.Int64 { return &c.denials[hash%uint64(len(c.denials))] }

// load asks the database.
func (c *Cache) load(ctx context.Context, l authz.Lookup) (*entry, error) {
	l = l.Detached()
	since, begun := c.generations.now(), c.now()
	a, err := c.source.Load(ctx, l)
	if err != nil {
		return nil, err
	}
	if c.excusing.Load() && c.excusing.CompareAndSwap(true, false) {
		c.logger.Info("the database can be asked again")
	}
	e := c.newEntry(l, a, since, begun)
	c.remember(e)
	return e, nil
}

func (c *Cache) remember(e *entry) {
	room := &c.good
	hash := c.hash(e.question())
	c.recent(hash).Store(e)
	if e.denied() {
		room = &c.denied
		at := c.deniedAt(hash)
		for last := at.Load(); last < int64(e.loaded) && !at.CompareAndSwap(last, int64(e.loaded)); last = at.Load() {
		}
	}
	c.closing.RLock()
	defer c.closing.RUnlock()
	if !c.closed {
		room.add(hash, e)
	}
}

// joined is load, but one for all who ask the same at the same time; only while the lease is held, because who joins is
// answered from before they asked. A load that began before a change was told is not joined by those who ask after it.
//
// Whoever begins the load runs it, and stays to its end, if it is sure to end before their context does. Everybody else leaves when
// their context ends.
func (c *Cache) joined(ctx context.Context, l authz.Lookup) (*entry, error) {
	known := append(CredentialKeys(l), WorkspaceKey(l.Workspace.ID), SlugKey(l.Workspace.Slug))
	q := question{c.generations.of(known), l}
	f, begun := c.flights.join(q)
	if begun {
		run := func() {
			c.flights.run(q, f, func() (*entry, error) {
				// Another load may have ended since its answer was looked for and not found.
				if now := c.now(); c.lease.held(now) {
					if e := c.remembered(l, now); e != nil {
						return e, nil
					}
				}
				return c.load(context.WithoutCancel(ctx), l)
			})
		}
		if deadline, ok := ctx.Deadline(); c.config.LoadTimeout > 0 && (!ok || time.Until(deadline) > c.config.LoadTimeout) {
			run()
			return f.entry, f.err
		}
		go run()
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.ended:
	}
	// What it depends on is known only now: a user, say. Who joined after that had changed asks again, and joins at worst a load
	// that began since they came.
	if !begun && f.err == nil && f.entry.outdated(&c.generations) {
		return c.joined(ctx, l)
	}
	return f.entry, f.err
}

// excused is an entry that may answer although the database cannot be asked.
func (c *Cache) excused(ctx context.Context, l authz.Lookup) *entry {
	if c.config.StaleIfError == 0 || errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	e, now := c.latest(l), c.now()
	if e == nil || now >= e.expires {
		return nil
	}
	lastTrue := max(e.loaded, time.Duration(c.lease.known.Load()))
	if now-lastTrue >= c.config.StaleIfError || now-e.loaded >= c.config.MaxAge+c.config.StaleIfError {
		return nil
	}
	return e
}
