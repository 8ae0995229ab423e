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

// The model consists of a database, its change log, a reader of the log, and a clock. Only the steps of a schedule change them.
// The model records every state of the database. An answer is correct if the database gives the same answer in one of these
// states, and if this state is not older than either of the following two states:
//   - I1: the last state whose changes the cache had read when the look-up began;
//   - I2: the last state that began more than the staleness bound before the look-up. A state begins when its COMMIT is
//     answered.
//
// If the database gives the answer in no state, the answer violates I4 or I5. I4: an answer is for the requested token. I5: an
// error never becomes an answer, now or later. The model checks I3 separately: a look-up that began after the token's expiry is
// denied.

// bound is the staleness bound of every cache in these tests.
const bound = time.Second

// sidecar is a cache under test: the real cache, or a variant in variants_test.go.
type sidecar interface {
	authz.Directory
	BeginPoll() cache.Poll
	Apply(p cache.Poll, r cache.Reply, trust bool)
	Close()
}

// customLog is a sidecar that uses the change log in another way than the package feed and the migrations.
type customLog interface {
	// changes returns the rows that a reading finds, and the value of since for the next reading.
	changes(s *server, since string) (found []logRow, next string)
	// outdated reports whether a cleaning deletes a row.
	outdated(s *server, r logRow) bool
	// beforeApply may modify a reply just before the cache applies it.
	beforeApply(s *server, r *cache.Reply)
	// notified processes a notification.
	notified(keys []cache.Key)
}

// world is everything around the cache: the clock, the server, readings of the log, and requests.
type world struct {
	cache sidecar
	start time.Time
	names string // suffix of the names of tokens, users and workspaces; each schedule on the same cache has another suffix
	tally map[authz.CacheResult]int

	server  server
	backups []server        // a backup for each commit on the server
	worlds  int             // number of ids that newID has created
	version int             // version of the row that was written last
	hints   [][]cache.Key   // notifications that have not arrived yet
	states  []state         // the first state, and one more for each commit
	commits []time.Duration // time at which each commit was answered

	readings []*reading // readings in progress, the latest first
	latest   *reading   // the only reading whose reply the cache applies
	known    int        // index of the last state whose changes the cache has read, for I1
	unlogged []int      // indexes of the states that the log does not contain

	steps    int
	requests []*request    // requests that still run
	slowest  time.Duration // longest time from the beginning of a load to its SELECT

	mu    sync.Mutex
	loads []*load // loads in progress, in the order of their requests
}

// simulation runs schedules, one after the other, against one kind of cache.
type simulation struct {
	cache func(cache.Source) sidecar
	tally map[authz.CacheResult]int // number of answers by cache result
}

// run runs the schedules. It returns the index of the first schedule with a wrong answer, and a description of the error. All
// schedules run against the same cache, because with the race detector the creation of a real cache takes longer than many
// schedules.
func (m simulation) run(t *testing.T, schedules ...schedule) (bad int, wrong string) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w := &world{start: time.Now(), tally: m.tally}
		w.cache = m.cache(w)
		defer w.cache.Close()
		for i, s := range schedules {
			w.begin(fmt.Sprint(i))
			if wrong = w.run(s); wrong != "" {
				bad = i
				return
			}
		}
	})
	return bad, wrong
}

// begin starts a new world for the cache, which may have read another server's log before.
func (w *world) begin(names string) {
	w.cache.Apply(w.cache.BeginPoll(), cache.Reply{}, true)
	*w = world{cache: w.cache, start: w.start, tally: w.tally, names: names, server: newServer()}
	w.states, w.backups = []state{w.server.state}, []server{w.server}
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// run runs a schedule. It returns a description of the first wrong answer, or "". After it has returned, no request is running.
func (w *world) run(s schedule) (wrong string) {
	for _, step := range s {
		w.steps++
		w.do(step)
		synctest.Wait()
		wrong = cmp.Or(wrong, w.checkAnswers())
	}
	for len(w.loads) > 0 {
		w.answer(w.loads[0], nil)
		synctest.Wait()
		wrong = cmp.Or(wrong, w.checkAnswers())
	}
	for _, r := range w.requests {
		wrong = cmp.Or(wrong, fmt.Sprintf("step %d: %s got no answer", r.step, r.lookup))
		r.cancel()
	}
	return wrong
}

// do executes one step. An impossible step does nothing.
func (w *world) do(s step) {
	switch s.op {
	case startLookup:
		w.startLookup(modelLookups[s.a%len(modelLookups)], s.b != 0)
	case query:
		w.query(pick(w.waiting(false), s.a))
	case answer:
		w.answer(pick(w.waiting(true), s.a), nil)
	case fail:
		w.answer(pick(w.loads, s.a), databaseError{w.steps})
	case cancelLookup:
		if r := pick(w.requests, s.a); r != nil {
			r.canceled = true
			r.cancel()
		}
	case alter:
		w.commit(w.write(nil, s.a))
	case begin:
		w.write(nil, s.a)
	case write:
		if open := w.server.writing(); len(open) > 0 {
			w.write(open[len(open)-1], s.a)
		}
	case commit:
		w.commit(pick(w.server.open, s.a))
	case rollback:
		if t := pick(w.server.open, s.a); t != nil {
			w.server.rollback(t)
		}
	case clean:
		if t := w.server.clean(); s.b != 0 {
			w.commit(t)
		}
	case bypass:
		w.bypass(s.a)
	case disable:
		w.disable()
	case restore:
		w.restore(s.a)
	case poll:
		w.latest = &reading{poll: w.cache.BeginPoll()}
		w.readings = append([]*reading{w.latest}, w.readings[:min(1, len(w.readings))]...) // one earlier reading may still be late
		if s.b != 0 {
			w.executeNow(w.latest)
		}
	case verify:
		w.verify()
	case read:
		w.read(pick(slices.DeleteFunc(slices.Clone(w.readings), func(r *reading) bool { return r.done }), s.a))
	case reply:
		w.receive(pick(w.readings, s.a), s.b != 0)
	case drop:
		w.drop(pick(w.readings, s.a))
	case hint:
		if len(w.hints) > 0 {
			if c, ok := w.cache.(customLog); ok && s.b == 0 {
				c.notified(w.hints[0])
			}
			w.hints = w.hints[1:]
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

// write makes the change with the index n in transaction t, or in a new transaction if t is nil.
func (w *world) write(t *transaction, n int) *transaction {
	w.version++
	return w.server.write(t, changes[n%len(changes)], circumstances{w.names, w.now(), w.version})
}

func (w *world) commit(t *transaction) {
	if t == nil {
		return
	}
	outdated := (*server).marked
	if c, ok := w.cache.(customLog); ok {
		outdated = c.outdated
	}
	w.server.commit(t, outdated)
	for _, r := range t.log {
		w.hints = append(w.hints, r.keys)
	}
	w.recordState(t.cleaning != nil || len(t.log) > 0)
}

// recordState records the database's next state.
func (w *world) recordState(logged bool) {
	w.states = append(w.states, w.server.state)
	w.commits = append(w.commits, w.now())
	if !logged {
		w.unlogged = append(w.unlogged, len(w.commits))
	}
	backup := w.server
	backup.open = nil
	w.backups = append(w.backups, backup)
}

func (w *world) newID() string {
	w.worlds++
	return fmt.Sprint(w.worlds)
}

// disable disables or enables the triggers. While a transaction that has written is open, disable does nothing, because in
// Postgres the ALTER TABLE would wait.
func (w *world) disable() {
	if len(w.server.writing()) == 0 {
		w.server.triggersOff = !w.server.triggersOff
		w.server.schema = w.newID()
	}
}

// bypass commits a transaction that disables the triggers, makes a change and enables the triggers again.
func (w *world) bypass(change int) {
	before := w.server.triggersOff
	w.server.triggersOff = true
	t := w.write(nil, change)
	w.server.triggersOff = before
	if t != nil {
		w.server.schema = w.newID()
		w.commit(t)
	}
}

// restore replaces the server by another server, which has lost some commits and all open transactions.
func (w *world) restore(commits int) {
	n := len(w.backups) - 1 - commits%len(w.backups)
	w.server, w.backups, w.hints = w.backups[n], w.backups[:n], nil
	w.server.instance, w.server.verified = w.newID(), nil
	w.recordState(false)
}
