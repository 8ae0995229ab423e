package cache_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

// The model consists of a database, its change log, a reader of the log, and a clock. They surround the cache under test and move
// only when a schedule says so. The model keeps every state that the database has had. An answer is right if the database would have
// given it in one of these states, and if that state is not older than
//
//   - I1: the last state that the cache had read of when the look-up began;
//   - I2: the last state that was older than the staleness bound when the look-up began. A state begins when its COMMIT is
//     answered.
//
// An answer that the database never gave violates I4 (an answer is for the requested token) or I5 (an error never becomes an answer,
// now or later). I3 is checked separately: a look-up that began after the expiry is not allowed.

// bound is the staleness bound of every cache here.
const bound = time.Second

// sidecar is a cache under test: the real one, or one of variants_test.go.
type sidecar interface {
	authz.Directory
	Poll() cache.Poll
	Told(p cache.Poll, r cache.Reply, trust bool)
	Close()
}

// customLog is a sidecar that uses the change log in another way than the package store and its migrations.
type customLog interface {
	// changes returns the rows that a reading finds, and the since of the next reading.
	changes(s *server, since string) (found []logRow, next string)
	// outdated reports whether a cleaning deletes a row.
	outdated(s *server, r logRow) bool
	// arrived may modify a reply just before the cache takes it.
	arrived(s *server, r *cache.Reply)
	// hinted takes a notification.
	hinted(keys []cache.Key)
}

// world is everything around the cache.
type world struct {
	cache sidecar
	start time.Time
	names string // suffix of token, user and workspace names; it differs between the schedules on the same cache
	tally map[authz.CacheResult]int

	server  server
	backups []server        // one for each commit on the server
	worlds  int             // number of worlds so far
	version int             // version of the row that was written last
	hints   [][]cache.Key   // notifications that have not arrived yet
	states  []state         // states[0], and one more for each commit
	commits []time.Duration // time at which each commit was answered

	readings []*reading // in progress, the latest first
	latest   *reading   // the only reading whose reply counts
	known    int        // index of the last state that the cache has read of, for I1
	unlogged []int      // indexes of the states that the log does not contain

	steps    int
	requests []*request    // without an answer so far
	slowest  time.Duration // longest time from the beginning of a load to its SELECT

	mu    sync.Mutex
	loads []*load // in progress, by request
}

// reading is a poll and its result.
type reading struct {
	poll     cache.Poll
	done     bool // the database has executed it
	state    int  // index of the state that it sees
	verified *verified
	reply    cache.Reply
}

type request struct {
	question question
	step     int
	at       time.Duration
	known    int // index of the last state that the cache had read of
	late     int // index of the last state that was older than the bound
	cancel   context.CancelFunc
	canceled bool
	done     chan struct{}
	found    authz.Found
	err      error
}

// load is one call of Load. It waits until the schedule lets it continue.
type load struct {
	request *request
	lookup  authz.Lookup
	began   time.Duration
	queried bool // the SELECT was done
	answer  cache.Answer
	reply   chan error
}

// databaseError is the error of a load that fails at a step.
type databaseError struct{ step int }

func (e databaseError) Error() string { return fmt.Sprintf("no database at step %d", e.step) }

// requestOf is the key of the request in a load's context.
type requestOf struct{}

// simulation runs schedules, one after the other, against one kind of cache.
type simulation struct {
	cache func(cache.Source) sidecar
	tally map[authz.CacheResult]int // of answers
}

// run returns the index of the first schedule with a wrong answer, and what is wrong. All schedules run against the same cache,
// because under the race detector creating a real cache takes longer than many schedules.
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
	w.cache.Told(w.cache.Poll(), cache.Reply{}, true)
	*w = world{cache: w.cache, start: w.start, tally: w.tally, names: names, server: newServer()}
	w.states, w.backups = []state{w.server.state}, []server{w.server}
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// run returns what is wrong with the first wrong answer, or "". It leaves no request running.
func (w *world) run(s schedule) (wrong string) {
	for _, step := range s {
		w.steps++
		w.do(step)
		synctest.Wait()
		wrong = cmp.Or(wrong, w.judge())
	}
	for len(w.loads) > 0 {
		w.answer(w.loads[0], nil)
		synctest.Wait()
		wrong = cmp.Or(wrong, w.judge())
	}
	for _, r := range w.requests {
		wrong = cmp.Or(wrong, fmt.Sprintf("step %d asked %s, and gets no answer", r.step, r.question))
		r.cancel()
	}
	return wrong
}

// do executes one step. An impossible step does nothing.
func (w *world) do(s step) {
	switch s.op {
	case ask:
		w.ask(questions[s.a%len(questions)], s.b != 0)
	case query:
		w.query(pick(w.waiting(false), s.a))
	case answer:
		w.answer(pick(w.waiting(true), s.a), nil)
	case fail:
		w.answer(pick(w.loads, s.a), databaseError{w.steps})
	case leave:
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
		w.latest = &reading{poll: w.cache.Poll()}
		w.readings = append([]*reading{w.latest}, w.readings[:min(1, len(w.readings))]...) // one earlier reading may still be late
		if s.b != 0 {
			w.atOnce(w.latest)
		}
	case verify:
		w.verify()
	case read:
		w.read(pick(slices.DeleteFunc(slices.Clone(w.readings), func(r *reading) bool { return r.done }), s.a))
	case reply:
		w.receive(pick(w.readings, s.a), s.b != 0)
	case lose:
		w.lose(pick(w.readings, s.a))
	case hint:
		if len(w.hints) > 0 {
			if c, ok := w.cache.(customLog); ok && s.b == 0 {
				c.hinted(w.hints[0])
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

// ask starts a request. If atOnce is true, its loads are answered immediately.
func (w *world) ask(q question, atOnce bool) {
	r := &request{question: q, step: w.steps, at: w.now(), known: w.known, done: make(chan struct{})}
	for i, at := range w.commits {
		if r.at > at+bound {
			r.late = i + 1
		}
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), requestOf{}, r))
	r.cancel = cancel
	w.requests = append(w.requests, r)
	go func() {
		defer close(r.done)
		defer cancel()
		r.found, r.err = w.cache.Lookup(ctx, q.lookup(w.names))
	}()
	for synctest.Wait(); atOnce; synctest.Wait() {
		i := slices.IndexFunc(w.loads, func(l *load) bool { return l.request == r })
		if i < 0 {
			return
		}
		w.answer(w.loads[i], nil)
	}
}

// Load implements [cache.Source]. It waits until the schedule executes its SELECT and lets it return.
func (w *world) Load(ctx context.Context, lookup authz.Lookup) (cache.Answer, error) {
	l := &load{request: ctx.Value(requestOf{}).(*request), lookup: lookup, began: w.now(), reply: make(chan error, 1)}
	w.mu.Lock()
	at, _ := slices.BinarySearchFunc(w.loads, l, func(a, b *load) int { return a.request.step - b.request.step })
	w.loads = slices.Insert(w.loads, at, l)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.loads = slices.DeleteFunc(w.loads, func(other *load) bool { return other == l })
	}()
	select {
	case err := <-l.reply:
		return l.answer, err
	case <-ctx.Done():
		return cache.Answer{}, ctx.Err()
	}
}

// waiting returns the loads whose SELECT was done, or those whose SELECT was not.
func (w *world) waiting(queried bool) []*load {
	return slices.DeleteFunc(slices.Clone(w.loads), func(l *load) bool { return l.queried != queried })
}

func (w *world) query(l *load) {
	if l != nil && !l.queried {
		l.queried = true
		l.answer = w.states[len(w.states)-1].answer(l.lookup, w.names, w.now())
		w.slowest = max(w.slowest, w.now()-l.began)
	}
}

func (w *world) answer(l *load, err error) {
	if l == nil {
		return
	}
	w.query(l)
	if err != nil {
		l.answer = cache.Answer{}
	}
	l.reply <- err
}

// write makes one of the changes in transaction t, or in a new one if t is nil.
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
	w.visible(t.cleaning != nil || len(t.log) > 0)
}

// visible records the database's next state.
func (w *world) visible(logged bool) {
	w.states = append(w.states, w.server.state)
	w.commits = append(w.commits, w.now())
	if !logged {
		w.unlogged = append(w.unlogged, len(w.commits))
	}
	backup := w.server
	backup.open = nil
	w.backups = append(w.backups, backup)
}

func (w *world) another() string {
	w.worlds++
	return fmt.Sprint(w.worlds)
}

// verify checks the schema, as this sidecar or another one does.
func (w *world) verify() {
	w.server.verified = &verified{w.server.schema, w.server.triggersOff, w.now(), len(w.commits)}
}

// atOnce executes a reading, and checks the schema if the last check is missing or too old, as the package store does.
func (w *world) atOnce(r *reading) {
	if w.server.verified == nil {
		w.verify()
	}
	w.receive(r, false)
	if w.now()-w.server.verified.at >= bound/5 {
		w.verify()
	}
}

// disable disables or enables the triggers. It does nothing while a transaction has written, because ALTER TABLE would wait.
func (w *world) disable() {
	if len(w.server.writing()) == 0 {
		w.server.triggersOff = !w.server.triggersOff
		w.server.schema = w.another()
	}
}

// bypass commits a transaction that disables the triggers while it makes a change.
func (w *world) bypass(change int) {
	before := w.server.triggersOff
	w.server.triggersOff = true
	t := w.write(nil, change)
	w.server.triggersOff = before
	if t != nil {
		w.server.schema = w.another()
		w.commit(t)
	}
}

// restore replaces the server by another one that has lost some commits and all open transactions.
func (w *world) restore(commits int) {
	n := len(w.backups) - 1 - commits%len(w.backups)
	w.server, w.backups, w.hints = w.backups[n], w.backups[:n], nil
	w.server.instance, w.server.verified = w.another(), nil
	w.visible(false)
}

// read executes a reading on the database.
func (w *world) read(r *reading) {
	if r == nil || r.done {
		return
	}
	var found []logRow
	snapshot := w.server.snapshot().String()
	if c, ok := w.cache.(customLog); ok {
		found, snapshot = c.changes(&w.server, r.poll.Since)
	} else {
		found = w.server.changes(parseSnapshot(cmp.Or(r.poll.Since, "1:1:")))
	}
	r.done, r.state, r.verified = true, len(w.commits), w.server.verified
	r.reply = cache.Reply{Snapshot: snapshot, Mark: w.server.number, All: len(found) > mostRows}
	if v := r.verified; v != nil && !v.triggersOff {
		r.reply.World, r.reply.Verified = w.server.instance+" "+v.schema, w.now()-v.at
	}
	for _, row := range found {
		if row.keys == nil {
			r.reply.All = true
		} else {
			r.reply.Changes = append(r.reply.Changes, row.keys)
		}
	}
}

// lose drops a reading: its reply never arrives.
func (w *world) lose(r *reading) {
	w.readings = slices.DeleteFunc(w.readings, func(other *reading) bool { return other == r })
}

// receive delivers the reply. If demoted is true, the sidecar's own row is too old, and the reply does not extend the lease.
func (w *world) receive(r *reading, demoted bool) {
	if r == nil {
		return
	}
	w.read(r)
	w.lose(r)
	if r.verified == nil {
		return // the package store checks the schema first
	}
	if c, ok := w.cache.(customLog); ok {
		c.arrived(&w.server, &r.reply)
	}
	w.cache.Told(r.poll, r.reply, !demoted)
	if r != w.latest {
		return
	}
	w.latest = nil
	known := r.state
	for _, n := range w.unlogged {
		if r.verified.state < n {
			known = min(known, n-1)
		}
	}
	w.known = max(w.known, known)
}

// judge checks the requests that have ended, and returns what is wrong with the first wrong answer.
func (w *world) judge() (wrong string) {
	w.requests = slices.DeleteFunc(w.requests, func(r *request) bool {
		select {
		case <-r.done:
			wrong = cmp.Or(wrong, w.verdict(r))
			return true
		default:
			return false
		}
	})
	return wrong
}

// verdict returns which invariant an answer violates, or "".
func (w *world) verdict(r *request) string {
	if r.err != nil {
		return r.verdictOfError()
	}
	w.tally[r.found.Cache]++
	latest := len(w.states) - 1
	for latest >= 0 && !w.gives(w.states[latest], r) {
		latest--
	}
	asked := fmt.Sprintf("step %d asked %s, which was answered with %s", r.step, r.question, show(r.found))
	switch {
	case latest < 0:
		return "I4 or I5: " + asked + ", but the database never gave that answer"
	case latest < r.known:
		return "I1: " + asked + ", although the cache had read of a later state"
	case latest < r.late:
		return "I2: " + asked + ", although a later state was older than the bound"
	case r.found.Denial == "" && r.at >= w.states[latest].expires(r.question.token):
		return "I3: " + asked + ", although it had expired"
	}
	return ""
}

func (r *request) verdictOfError() string {
	var database databaseError
	switch {
	case !reflect.DeepEqual(r.found, authz.Found{}):
		return fmt.Sprintf("I5: step %d asked %s, and an error came with an answer", r.step, r.question)
	case errors.As(r.err, &database) && database.step >= r.step:
		return ""
	case r.canceled && errors.Is(r.err, context.Canceled):
		return ""
	}
	return fmt.Sprintf("I5: step %d asked %s, and got an error that is not its own: %v", r.step, r.question, r.err)
}

func show(f authz.Found) string {
	if f.Denial != "" {
		return string(f.Denial)
	}
	return fmt.Sprintf("%s %q as %q in %q", f.Principal.ID, f.Principal.Scopes, f.Workspace.Role, f.Workspace.Slug)
}

// gives reports whether the database would have given the answer in this state, at some time until now.
func (w *world) gives(s state, r *request) bool {
	t := s.tokens[r.question.token]
	if r.found.Denial == authz.ReasonExpired {
		// The cache never allows a token after its expiry. In return it may refuse it too early, by the duration of a load.
		return t.there && !t.revoked && w.now() >= s.expires(r.question.token)-w.slowest
	}
	found, _ := s.found(r.question.lookup(w.names), w.names)
	found.Cache = r.found.Cache
	return reflect.DeepEqual(r.found, found)
}
