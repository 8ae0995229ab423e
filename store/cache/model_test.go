package cache_test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// The model consists of a database, its change log, a reader of the log, and a clock. Only the steps of a schedule change the
// model. The model records every state of the database. An answer is correct if the database gives the same answer in one of
// these states, and if this state is not older than the following two states:
//   - I1: the last state whose changes the cache had read when the look-up began;
//   - I2: the last state that began more than the staleness bound before the look-up. A state begins when its COMMIT is
//     answered.
//
// If the database gives the answer in no state, the answer violates I4 or I5. I4: an answer must be for the requested token. I5:
// an error must not become an answer, now or later. The model checks I3 separately. I3: a look-up that begins after the expiry of
// the token must be denied.

// bound is the staleness bound of every cache in these tests.
const bound = time.Second

// sidecar is a cache under test: the real cache, or a variant in variants_test.go.
type sidecar interface {
	authz.Directory
	BeginPoll() cache.Poll
	Apply(p cache.Poll, r cache.Reply, extendLease bool)
	Close()
}

// customLog is implemented by a sidecar that does not use the change log as the package feed and the migrations do.
type customLog interface {
	// changes returns the rows that a reading finds. The result `next` is the parameter `since` of the next reading.
	changes(s *server, since string) (found []logRow, next string)
	// deletable reports whether a cleaning deletes the row.
	deletable(s *server, r logRow) bool
	// beforeApply may modify a reply just before the cache applies it.
	beforeApply(s *server, r *cache.Reply)
	// processHint processes a notification.
	processHint(keys []cache.DependencyKey)
}

// model is the model of everything around the cache: the clock, the server, readings of the log, and requests.
type model struct {
	cache  sidecar
	start  time.Time
	suffix string // suffix of the names of tokens, users and workspaces; different for each schedule that uses the same cache
	counts map[authz.CacheResult]int

	server  server
	backups []server                // a backup for each commit on the server
	ids     int                     // number of ids that newID has created
	version int                     // number of the last change; the rows that a change writes have its number as their version
	hints   [][]cache.DependencyKey // notifications that have not arrived yet
	states  []state                 // the first state, and the state after each commit
	commits []time.Duration         // time at which each commit was answered

	readings  []*reading // readings in progress, the latest first
	latest    *reading   // the only reading whose reply the cache applies
	readState int        // the cache has read the changes of the states up to this index: see I1 above
	unlogged  []int      // indexes of the states that the log does not contain

	steps    int
	requests []*request    // requests that still run
	slowest  time.Duration // longest time from the beginning of a load to its SELECT

	mu    sync.Mutex
	loads []*load // loads in progress, in the order of their requests
}

// simulation runs schedules, one after the other, against one kind of cache.
type simulation struct {
	cache  func(cache.Source) sidecar
	counts map[authz.CacheResult]int // number of answers by cache result
}

// run runs the schedules. It returns the index of the first schedule with a wrong answer, and a description of the wrong answer.
// All schedules use the same cache, because with the race detector, it takes longer to create a cache than to run many schedules.
func (sim simulation) run(t *testing.T, schedules ...schedule) (bad int, wrong string) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		m := &model{start: time.Now(), counts: sim.counts}
		m.cache = sim.cache(m)
		defer m.cache.Close()
		for i, s := range schedules {
			m.begin(fmt.Sprint(i))
			if wrong = m.run(s); wrong != "" {
				bad = i
				return
			}
		}
	})
	return bad, wrong
}

// begin resets the model, but not the cache. So the cache may have read the log of another server before.
func (m *model) begin(suffix string) {
	m.cache.Apply(m.cache.BeginPoll(), cache.Reply{}, true)
	*m = model{cache: m.cache, start: m.start, counts: m.counts, suffix: suffix, server: newServer()}
	m.states, m.backups = []state{m.server.state}, []server{m.server}
}

func (m *model) now() time.Duration { return time.Since(m.start) }

// run runs a schedule. It returns a description of the first wrong answer, or "". When run returns, no request is running.
func (m *model) run(s schedule) (wrong string) {
	for _, step := range s {
		m.steps++
		m.do(step)
		synctest.Wait()
		wrong = cmp.Or(wrong, m.checkAnswers())
	}
	for len(m.loads) > 0 {
		m.answer(m.loads[0], nil)
		synctest.Wait()
		wrong = cmp.Or(wrong, m.checkAnswers())
	}
	for _, r := range m.requests {
		wrong = cmp.Or(wrong, fmt.Sprintf("step %d: %s got no answer", r.step, r.lookup))
		r.cancel()
	}
	return wrong
}

// do executes one step. If the step is impossible, do does nothing.
func (m *model) do(s step) {
	switch s.op {
	case startLookup:
		m.startLookup(modelLookups[s.a%len(modelLookups)], s.b != 0)
	case query:
		m.query(pick(m.waiting(false), s.a))
	case answer:
		m.answer(pick(m.waiting(true), s.a), nil)
	case fail:
		m.answer(pick(m.loads, s.a), databaseError{m.steps})
	case cancelLookup:
		if r := pick(m.requests, s.a); r != nil {
			r.canceled = true
			r.cancel()
		}
	case alter:
		m.commit(m.write(nil, s.a))
	case begin:
		m.write(nil, s.a)
	case write:
		if open := m.server.writing(); len(open) > 0 {
			m.write(open[len(open)-1], s.a)
		}
	case commit:
		m.commit(pick(m.server.open, s.a))
	case rollback:
		if t := pick(m.server.open, s.a); t != nil {
			m.server.rollback(t)
		}
	case clean:
		if t := m.server.clean(); s.b != 0 {
			m.commit(t)
		}
	case bypass:
		m.bypass(s.a)
	case disable:
		m.disable()
	case restore:
		m.restore(s.a)
	case poll:
		m.latest = &reading{poll: m.cache.BeginPoll()}
		m.readings = append([]*reading{m.latest}, m.readings[:min(1, len(m.readings))]...) // keep the previous reading, whose reply may arrive late
		if s.b != 0 {
			m.executeNow(m.latest)
		}
	case verify:
		m.verify()
	case read:
		m.read(pick(slices.DeleteFunc(slices.Clone(m.readings), func(r *reading) bool { return r.done }), s.a))
	case reply:
		m.receive(pick(m.readings, s.a), s.b != 0)
	case drop:
		m.drop(pick(m.readings, s.a))
	case hint:
		if len(m.hints) > 0 {
			if c, ok := m.cache.(customLog); ok && s.b == 0 {
				c.processHint(m.hints[0])
			}
			m.hints = m.hints[1:]
		}
	case pass:
		time.Sleep(s.duration())
	}
}

func pick[T any](from []*T, n int) *T {
	if len(from) == 0 {
		return nil
	}
	return from[n%len(from)]
}

// write makes the change changes[n] in the transaction t. If t is nil, it makes the change in a new transaction.
func (m *model) write(t *transaction, n int) *transaction {
	m.version++
	return m.server.write(t, changes[n%len(changes)], changeValues{m.suffix, m.now(), m.version})
}

func (m *model) commit(t *transaction) {
	if t == nil {
		return
	}
	deletable := (*server).visibleInMark
	if c, ok := m.cache.(customLog); ok {
		deletable = c.deletable
	}
	m.server.commit(t, deletable)
	for _, r := range t.log {
		m.hints = append(m.hints, r.keys)
	}
	m.recordState(t.cleaning != nil || len(t.log) > 0)
}

// recordState records the state of the database after a commit. If logged is false, the log does not contain the changes of this
// state.
func (m *model) recordState(logged bool) {
	m.states = append(m.states, m.server.state)
	m.commits = append(m.commits, m.now())
	if !logged {
		m.unlogged = append(m.unlogged, len(m.commits))
	}
	backup := m.server
	backup.open = nil
	m.backups = append(m.backups, backup)
}

func (m *model) newID() string {
	m.ids++
	return fmt.Sprint(m.ids)
}

// disable disables the triggers. If the triggers are disabled, it enables them. If a transaction that has written to rows is
// open, it does nothing, because the ALTER TABLE would wait in Postgres.
func (m *model) disable() {
	if len(m.server.writing()) == 0 {
		m.server.triggersOff = !m.server.triggersOff
		m.server.schema = m.newID()
	}
}

// bypass commits a transaction that disables the triggers, makes a change and enables the triggers again.
func (m *model) bypass(change int) {
	before := m.server.triggersOff
	m.server.triggersOff = true
	t := m.write(nil, change)
	m.server.triggersOff = before
	if t != nil {
		m.server.schema = m.newID()
		m.commit(t)
	}
}

// restore replaces the server by another server, which has lost some commits and all open transactions.
func (m *model) restore(commits int) {
	n := len(m.backups) - 1 - commits%len(m.backups)
	m.server, m.backups, m.hints = m.backups[n], m.backups[:n], nil
	m.server.instance, m.server.verified = m.newID(), nil
	m.recordState(false)
}
