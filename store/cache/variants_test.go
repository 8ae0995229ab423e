package cache_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// flaw names a protection that is missing from a cache, or that the cache has in a form that only looks correct.
type flaw string

const (
	flawless        flaw = ""
	plainSetAndDel  flaw = "plain Set/Del"
	noEpoch         flaw = "generation without epoch"
	noLease         flaw = "no lease"
	lateGeneration  flaw = "generation captured after the SELECT"
	flightsByToken  flaw = "singleflight by token only"
	worldKept       flaw = "no epoch after another world"
	ageIgnored      flaw = "lease not counted from the check of the schema"
	leaseByReceipt  flaw = "lease from the reply"
	bySequence      flaw = "rows by sequence number"
	openForgotten   flaw = "rows of transactions that were open not read"
	laterSnapshot   flaw = "snapshot taken after the rows were read"
	marksIgnored    flaw = "marks ignored"
	cleaningByAge   flaw = "cleaning by age"
	lateReplies     flaw = "replies counted after a later poll"
	leaseByHint     flaw = "lease renewed by a notification"
	hintsForReading flaw = "notifications instead of the log"
)

var flaws = []flaw{
	plainSetAndDel, noEpoch, noLease, lateGeneration, flightsByToken, worldKept, ageIgnored, leaseByReceipt,
	bySequence, openForgotten, laterSnapshot, marksIgnored, cleaningByAge, lateReplies, leaseByHint, hintsForReading,
}

// simple is the cache's design in its simplest form. Without a flaw, the simple cache is as safe as the real cache. So if it is
// unsafe with one flaw, the flaw is the cause.
type simple struct {
	flaw   flaw
	source cache.Source
	start  time.Time

	mu      sync.Mutex
	entries map[authz.Lookup]*simpleEntry
	last    uint64
	epoch   uint64
	changed map[cache.Key]uint64
	loads   map[string]*sharedLoad // loads in progress

	polls    uint64
	snapshot string
	mark     int64
	world    string
	until    time.Duration // end of the lease
}

type simpleEntry struct {
	cache.Answer
	since   uint64
	expires time.Duration
}

type sharedLoad struct {
	done chan struct{}
	*simpleEntry
	err error
}

func newSimple(f flaw, s cache.Source) *simple {
	return &simple{
		flaw: f, source: s, start: time.Now(), entries: make(map[authz.Lookup]*simpleEntry),
		changed: make(map[cache.Key]uint64), loads: make(map[string]*sharedLoad),
	}
}

func (s *simple) now() time.Duration { return time.Since(s.start) }

func (s *simple) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	now := s.now()
	s.mu.Lock()
	valid := now < s.until
	if s.flaw == noLease {
		valid = s.world != ""
	}
	m := s.entries[l]
	hit := valid && m != nil && s.isCurrent(m) && (!m.Expires || now < m.expires)
	s.mu.Unlock()
	from, err := authz.CacheHit, error(nil)
	switch {
	case hit:
	case valid:
		from = authz.CacheMiss
		m, err = s.loadShared(ctx, l)
	default:
		from = authz.CacheBypass
		m, err = s.load(ctx, l)
	}
	if err != nil {
		return authz.LookupResult{}, err
	}
	found := m.Found
	if m.Expires && s.now() >= m.expires {
		found = authz.LookupResult{Denial: authz.ReasonExpired}
	}
	found.Cache = from
	return found, nil
}

// isCurrent reports whether no change outdates the answer.
func (s *simple) isCurrent(m *simpleEntry) bool {
	return s.flaw == plainSetAndDel || s.generation(m.Keys) <= m.since
}

func (s *simple) generation(keys []cache.Key) uint64 {
	n := s.epoch
	for _, k := range keys {
		n = max(n, s.changed[k])
	}
	return n
}

func (s *simple) load(ctx context.Context, l authz.Lookup) (*simpleEntry, error) {
	s.mu.Lock()
	m := &simpleEntry{since: s.last}
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

func (s *simple) loadShared(ctx context.Context, l authz.Lookup) (*simpleEntry, error) {
	s.mu.Lock()
	name := fmt.Sprint(l)
	if s.flaw != flightsByToken {
		name += fmt.Sprint(s.generation([]cache.Key{cache.TokenKey(l.Digest)}))
	}
	flight, joined := s.loads[name]
	if !joined {
		flight = &sharedLoad{done: make(chan struct{})}
		s.loads[name] = flight
		go func() {
			flight.simpleEntry, flight.err = s.load(context.WithoutCancel(ctx), l)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.loads, name)
			close(flight.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-flight.done:
	}
	if flight.err != nil {
		return nil, flight.err
	}
	s.mu.Lock()
	again := joined && s.flaw != flightsByToken && s.generation(flight.Keys) > flight.since
	s.mu.Unlock()
	if again {
		return s.load(ctx, l)
	}
	return flight.simpleEntry, nil
}

func (s *simple) BeginPoll() cache.Poll {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls++
	return cache.NewPoll(s.snapshot, s.polls, s.now())
}

func (s *simple) Apply(p cache.Poll, r cache.Reply, trust bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Number() != s.polls && s.flaw != lateReplies {
		return
	}
	another := r.World != s.world && s.flaw != worldKept
	gap := r.Mark != s.mark && r.Mark != s.mark+1 && s.flaw != marksIgnored
	if s.snapshot == "" || another || gap {
		s.startEpoch()
	}
	if s.flaw != hintsForReading {
		if r.All {
			s.startEpoch()
		}
		for _, keys := range r.Changes {
			s.change(keys)
		}
	}
	s.snapshot, s.mark, s.world = r.Snapshot, r.Mark, r.World
	known := p.Sent()
	if s.flaw == leaseByReceipt {
		known = s.now()
	}
	if s.flaw != ageIgnored {
		known -= r.Verified
	}
	switch {
	case r.World == "":
		s.until = 0
	case trust:
		s.until = known + bound
	}
}

func (s *simple) change(keys []cache.Key) {
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

func (s *simple) startEpoch() {
	clear(s.entries)
	if s.flaw != noEpoch {
		s.last++
		s.epoch = s.last
	}
}

func (s *simple) changes(db *server, since string) (found []logRow, next string) {
	if s.flaw == bySequence {
		last, _ := strconv.Atoi(since)
		greatest := 0
		for _, r := range db.log {
			greatest = max(greatest, r.sequence)
			if r.sequence > last {
				found = append(found, r)
			}
		}
		return found, strconv.Itoa(greatest)
	}
	last := parseSnapshot(cmp.Or(since, "1:1:"))
	if s.flaw == openForgotten {
		last.xip = nil
	}
	return db.changes(last), db.snapshot().String()
}

func (s *simple) beforeApply(db *server, r *cache.Reply) {
	if s.flaw == laterSnapshot {
		r.Snapshot = db.snapshot().String()
	}
}

func (s *simple) outdated(db *server, r logRow) bool {
	if s.flaw == cleaningByAge {
		return s.now() > r.at+bound
	}
	return db.marked(r)
}

func (s *simple) notified(keys []cache.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flaw != leaseByHint && s.flaw != hintsForReading {
		return
	}
	if keys == nil {
		s.startEpoch()
	} else {
		s.change(keys)
	}
	if s.flaw == leaseByHint && s.world != "" {
		s.until = s.now() + bound
	}
}

func (s *simple) Close() {}
