package cache_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// flaw is a protection that a cache does without, or has in a form that looks as good and is not.
type flaw string

const (
	flawless          flaw = ""
	plainSetAndDel    flaw = "plain Set/Del"
	noEpoch           flaw = "generation without epoch"
	noLease           flaw = "no lease"
	lateGeneration    flaw = "generation captured after the SELECT"
	flightsByToken    flaw = "singleflight by token only"
	epochAtDisconnect flaw = "epoch bumped only at disconnect"
	leaseByPing       flaw = "lease renewed by a pool ping"
	leaseByReceipt    flaw = "lease renewed from receive time"
)

var flaws = []flaw{
	plainSetAndDel, noEpoch, noLease, lateGeneration, flightsByToken, epochAtDisconnect, leaseByPing, leaseByReceipt,
}

// simple is the cache's design in its simplest form. Without a flaw it is as safe as the real one, so that each flaw by
// itself is what makes it unsafe.
type simple struct {
	flaw   flaw
	source cache.Source
	start  time.Time

	mu        sync.Mutex
	entries   map[authz.Lookup]*memory
	last      uint64
	epoch     uint64
	changed   map[cache.Key]uint64
	connected bool
	until     time.Duration // end of the lease
	nonces    map[string]time.Duration
	made      int // nonces
	flights   map[string]*flight
}

type memory struct {
	cache.Answer
	since   uint64
	expires time.Duration
}

type flight struct {
	done chan struct{}
	*memory
	err error
}

func newSimple(f flaw, s cache.Source) *simple {
	return &simple{
		flaw: f, source: s, start: time.Now(), entries: make(map[authz.Lookup]*memory),
		changed: make(map[cache.Key]uint64), nonces: make(map[string]time.Duration), flights: make(map[string]*flight),
	}
}

func (s *simple) now() time.Duration { return time.Since(s.start) }

func (s *simple) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	now := s.now()
	s.mu.Lock()
	held := now < s.until
	if s.flaw == noLease {
		held = s.connected
	}
	m := s.entries[l]
	remembered := held && m != nil && s.holds(m) && (!m.Expires || now < m.expires)
	s.mu.Unlock()
	from, err := authz.CacheHit, error(nil)
	switch {
	case remembered:
	case held:
		from = authz.CacheMiss
		m, err = s.joined(ctx, l)
	default:
		from = authz.CacheBypass
		m, err = s.load(ctx, l)
	}
	if err != nil {
		return authz.Found{}, err
	}
	found := m.Found
	if m.Expires && s.now() >= m.expires {
		found = authz.Found{Denial: authz.ReasonExpired}
	}
	found.Cache = from
	return found, nil
}

// holds reports whether nothing was told that speaks against the answer.
func (s *simple) holds(m *memory) bool {
	return s.flaw == plainSetAndDel || s.generation(m.Keys) <= m.since
}

func (s *simple) generation(keys []cache.Key) uint64 {
	n := s.epoch
	for _, k := range keys {
		n = max(n, s.changed[k])
	}
	return n
}

func (s *simple) load(ctx context.Context, l authz.Lookup) (*memory, error) {
	s.mu.Lock()
	m := &memory{since: s.last}
	s.mu.Unlock()
	begun := s.now()
	var err error
	if m.Answer, err = s.source.Load(ctx, l); err != nil {
		return nil, err
	}
	m.expires = begun + m.TTL
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flaw == lateGeneration {
		m.since = s.last
	}
	s.entries[l] = m
	return m, nil
}

func (s *simple) joined(ctx context.Context, l authz.Lookup) (*memory, error) {
	s.mu.Lock()
	name := fmt.Sprint(l)
	if s.flaw != flightsByToken {
		name += fmt.Sprint(s.generation([]cache.Key{cache.TokenKey(l.Digest)}))
	}
	f, joins := s.flights[name]
	if !joins {
		f = &flight{done: make(chan struct{})}
		s.flights[name] = f
		go func() {
			f.memory, f.err = s.load(context.WithoutCancel(ctx), l)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.flights, name)
			close(f.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.done:
	}
	if f.err != nil {
		return nil, f.err
	}
	s.mu.Lock()
	again := joins && s.flaw != flightsByToken && s.generation(f.Keys) > f.since
	s.mu.Unlock()
	if again {
		return s.load(ctx, l)
	}
	return f.memory, nil
}

func (s *simple) Changed(keys []cache.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	for _, k := range keys {
		s.changed[k] = s.last
	}
	for l, m := range s.entries {
		if slices.ContainsFunc(m.Keys, func(k cache.Key) bool { return slices.Contains(keys, k) }) {
			delete(s.entries, l)
		}
	}
}

func (s *simple) ChangedAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
}

func (s *simple) forget() {
	s.last++
	s.epoch = s.last
	clear(s.entries)
}

func (s *simple) Connected(cache.Cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until, s.connected = 0, true
	clear(s.nonces)
	if s.flaw != noEpoch && s.flaw != epochAtDisconnect {
		s.forget()
	}
}

func (s *simple) Disconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until, s.connected = 0, false
	clear(s.nonces)
	if s.flaw == epochAtDisconnect {
		s.forget()
	}
}

func (s *simple) Nonce() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	nonce := fmt.Sprint(s.made)
	if s.connected {
		s.nonces[nonce] = s.now()
	}
	return nonce
}

func (s *simple) Heard(nonce string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent, ok := s.nonces[nonce]
	if !ok {
		return
	}
	if s.flaw == leaseByReceipt {
		sent = s.now()
	}
	s.until = max(s.until, sent+bound)
}

// Pinged is told when a nonce was sent.
func (s *simple) Pinged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flaw == leaseByPing && s.connected {
		s.until = s.now() + bound
	}
}

func (s *simple) Close() {}
