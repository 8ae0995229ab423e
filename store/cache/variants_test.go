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

// flaw is a deliberate error in a simple cache: a protection is missing, or has a form that only looks correct.
type flaw string

const (
	flawless           flaw = ""
	plainSetAndDel     flaw = "only Set and Delete, without generations"
	noEpoch            flaw = "when changes may be missing from the log, only stored answers are discarded, not the answers of loads in progress"
	noLease            flaw = "no lease"
	lateGeneration     flaw = "generation is read after the SELECT"
	loadsByToken       flaw = "loads are shared by token only, not by generation"
	fingerprintIgnored flaw = "all answers are kept although the fingerprint of the server, tables and triggers has changed"
	ageIgnored         flaw = "the lease starts when the reading is sent, not when the schema was verified"
	leaseByReceipt     flaw = "the start of the lease is computed from the time when the reply arrives, not from the time when the reading is sent"
	bySequence         flaw = "rows are read by sequence number"
	openForgotten      flaw = "rows of transactions that were open at the previous reading are not read"
	laterSnapshot      flaw = "snapshot is taken after the rows are read"
	gapIgnored         flaw = "all answers are kept although a cleaning may have deleted unread rows"
	cleaningByAge      flaw = "cleaning deletes rows by age"
	lateReplies        flaw = "late replies are not ignored"
	leaseByHint        flaw = "a notification renews the lease"
	hintsForReading    flaw = "notifications are used instead of the log"
)

var flaws = []flaw{
	plainSetAndDel, noEpoch, noLease, lateGeneration, loadsByToken, fingerprintIgnored, ageIgnored, leaseByReceipt,
	bySequence, openForgotten, laterSnapshot, gapIgnored, cleaningByAge, lateReplies, leaseByHint, hintsForReading,
}

// simple is the design of the cache in its simplest form. Without a flaw, it gives no wrong answer. So if the simple cache with
// one flaw gives a wrong answer, the flaw is the cause.
type simple struct {
	flaw   flaw
	source cache.Source
	start  time.Time

	mu      sync.Mutex
	entries map[authz.Lookup]*simpleEntry
	last    uint64
	epoch   uint64
	changed map[cache.DependencyKey]uint64
	loads   map[string]*sharedLoad // loads in progress

	polls       uint64
	snapshot    string
	cleanings   int64
	fingerprint string
	until       time.Duration // end of the lease
}

type simpleEntry struct {
	cache.Answer
	generation uint64
	expires    time.Duration
}

type sharedLoad struct {
	done chan struct{}
	*simpleEntry
	err error
}

func newSimple(f flaw, s cache.Source) *simple {
	return &simple{
		flaw: f, source: s, start: time.Now(), entries: make(map[authz.Lookup]*simpleEntry),
		changed: make(map[cache.DependencyKey]uint64), loads: make(map[string]*sharedLoad),
	}
}

func (s *simple) now() time.Duration { return time.Since(s.start) }

func (s *simple) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	now := s.now()
	s.mu.Lock()
	valid := now < s.until
	if s.flaw == noLease {
		valid = s.fingerprint != ""
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
	found := m.Result
	if m.Expires && s.now() >= m.expires {
		found = authz.LookupResult{Denial: authz.ReasonExpired}
	}
	found.Cache = from
	return found, nil
}

// isCurrent reports whether the entry is not outdated by a change.
func (s *simple) isCurrent(m *simpleEntry) bool {
	return s.flaw == plainSetAndDel || s.generation(m.Keys) <= m.generation
}

func (s *simple) generation(keys []cache.DependencyKey) uint64 {
	n := s.epoch
	for _, k := range keys {
		n = max(n, s.changed[k])
	}
	return n
}

func (s *simple) load(ctx context.Context, l authz.Lookup) (*simpleEntry, error) {
	s.mu.Lock()
	m := &simpleEntry{generation: s.last}
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
		m.generation = s.last
	}
	s.entries[l] = m
	return m, nil
}

func (s *simple) loadShared(ctx context.Context, l authz.Lookup) (*simpleEntry, error) {
	s.mu.Lock()
	name := fmt.Sprint(l)
	if s.flaw != loadsByToken {
		name += fmt.Sprint(s.generation([]cache.DependencyKey{cache.TokenKey(l.Digest)}))
	}
	shared, joined := s.loads[name]
	if !joined {
		shared = &sharedLoad{done: make(chan struct{})}
		s.loads[name] = shared
		go func() {
			shared.simpleEntry, shared.err = s.load(context.WithoutCancel(ctx), l)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.loads, name)
			close(shared.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-shared.done:
	}
	if shared.err != nil {
		return nil, shared.err
	}
	s.mu.Lock()
	again := joined && s.flaw != loadsByToken && s.generation(shared.Keys) > shared.generation
	s.mu.Unlock()
	if again {
		return s.load(ctx, l)
	}
	return shared.simpleEntry, nil
}

func (s *simple) BeginPoll() cache.Poll {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polls++
	return cache.NewPoll(s.snapshot, s.polls, s.now())
}

// Apply applies a reply. If extendLease is false, it records the changes but does not extend the lease.
func (s *simple) Apply(p cache.Poll, r cache.Reply, extendLease bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Number() != s.polls && s.flaw != lateReplies {
		return
	}
	another := r.Fingerprint != s.fingerprint && s.flaw != fingerprintIgnored
	gap := r.Cleanings != s.cleanings && r.Cleanings != s.cleanings+1 && s.flaw != gapIgnored
	if s.snapshot == "" || another || gap {
		s.startEpoch()
	}
	if s.flaw != hintsForReading {
		if r.AllChanged {
			s.startEpoch()
		}
		for _, keys := range r.Changes {
			s.change(keys)
		}
	}
	s.snapshot, s.cleanings, s.fingerprint = r.Snapshot, r.Cleanings, r.Fingerprint
	currentAt := p.Sent()
	if s.flaw == leaseByReceipt {
		currentAt = s.now()
	}
	if s.flaw != ageIgnored {
		currentAt -= r.FingerprintAge
	}
	switch {
	case r.Fingerprint == "":
		s.until = 0
	case extendLease:
		s.until = currentAt + bound
	}
}

func (s *simple) change(keys []cache.DependencyKey) {
	s.last++
	for _, k := range keys {
		s.changed[k] = s.last
	}
	for l, m := range s.entries {
		if slices.ContainsFunc(m.Keys, func(k cache.DependencyKey) bool { return slices.Contains(keys, k) }) {
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

// deletable reports whether a cleaning may delete the row of the log.
func (s *simple) deletable(db *server, r logRow) bool {
	if s.flaw == cleaningByAge {
		return s.now() > r.at+bound
	}
	return db.visibleInMark(r)
}

func (s *simple) processHint(keys []cache.DependencyKey) {
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
	if s.flaw == leaseByHint && s.fingerprint != "" {
		s.until = s.now() + bound
	}
}

func (s *simple) Close() {}
