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

// The model is a database, its change log, somebody who reads it, and a clock, all of which move only when a schedule says
// so, around a cache that is asked questions. It remembers every state that the database was in. An answer is right if the
// database would have given it in one of these states, and if that is not older than
//
//   - I1: the last that the cache had been told of when it was asked;
//   - I2: the last that had been there for longer than the staleness bound when it was asked. It is there when its COMMIT is
//     answered.
//
// That the database would have given it at all is I4, an answer is for the token that was asked about, and I5, an error
// becomes no answer, now or later. I3 is looked at by itself: nobody is let in who asked after the expiry.

// bound is the staleness bound of every cache here.
const bound = time.Second

// sidecar is what a schedule drives: the real cache, and those of variants_test.go.
type sidecar interface {
	authz.Directory
	Poll() cache.Poll
	Told(p cache.Poll, r cache.Reply, trust bool)
	Close()
}

// unlike is a sidecar that does not leave the change log to the package store and its migrations.
type unlike interface {
	// changes are the rows that a reading finds, and what the next one is to ask for.
	changes(s *server, since string) (found []logRow, next string)
	// outdated reports whether a cleaning deletes a row.
	outdated(s *server, r logRow) bool
	// arrived may alter a reply, just before it is told.
	arrived(s *server, r *cache.Reply)
	// hinted is told of a notification.
	hinted(keys []cache.Key)
}

// world is everything around the cache.
type world struct {
	cache sidecar
	start time.Time
	names string // tells the tokens, users and workspaces of one schedule from another's on the same cache
	tally map[authz.CacheResult]int

	server  server
	backups []server        // one for each commit on it
	worlds  int             // so far
	version int             // of the row that was written last
	hints   [][]cache.Key   // that are on their way
	states  []state         // states[0], and one more for each commit
	commits []time.Duration // when each was answered

	readings []*reading // under way, the latest first
	latest   *reading   // the only one whose reply counts
	told     int        // the last of the states that the cache was told of, because of I1
	unlogged []int      // the states that the log does not tell of

	steps    int
	requests []*request    // that have no answer yet
	slowest  time.Duration // from the beginning of a load to its SELECT

	mu    sync.Mutex
	loads []*load // under way, by request
}

// reading is a poll, and what becomes of it.
type reading struct {
	poll     cache.Poll
	done     bool // by the database
	state    int  // that it sees
	verified *verified
	reply    cache.Reply
}

type request struct {
	question question
	step     int
	at       time.Duration
	told     int // the last of the states that the cache was told of
	late     int // the last of the states that are older than the bound
	leave    context.CancelFunc
	left     bool
	done     chan struct{}
	found    authz.Found
	err      error
}

// load is one call of Load, which waits to be let on.
type load struct {
	request *request
	lookup  authz.Lookup
	began   time.Duration
	asked   bool // the SELECT was done
	answer  cache.Answer
	reply   chan error
}

// databaseError is from a load, at a step.
type databaseError struct{ step int }

func (e databaseError) Error() string { return fmt.Sprintf("no database at step %d", e.step) }

// requestOf is where a load's context has its request.
type requestOf struct{}

// game is what is played: schedules, one after the other, against one kind of cache.
type game struct {
	cache func(cache.Source) sidecar
	tally map[authz.CacheResult]int // of answers
}

// play returns the first schedule that is answered wrongly, and how. All are played against the same cache: a real one
// takes longer to make, under the race detector, than many schedules take.
func (g game) play(t *testing.T, schedules ...schedule) (bad int, wrong string) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w := &world{start: time.Now(), tally: g.tally}
		w.cache = g.cache(w)
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

// begin is a new world for the cache, which may have read another server's log before.
func (w *world) begin(names string) {
	w.cache.Told(w.cache.Poll(), cache.Reply{}, true)
	*w = world{cache: w.cache, start: w.start, tally: w.tally, names: names, server: newServer()}
	w.states, w.backups = []state{w.server.state}, []server{w.server}
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// run returns what was answered wrongly. In any case it leaves nothing running.
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
		r.leave()
	}
	return wrong
}

// do is one step. One that makes no sense does nothing.
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
			r.left = true
			r.leave()
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
		w.readings = append([]*reading{w.latest}, w.readings[:min(1, len(w.readings))]...) // one of before may still be late
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
			if c, ok := w.cache.(unlike); ok && s.b == 0 {
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

// ask starts a request. If at once, its loads are answered as they come.
func (w *world) ask(q question, atOnce bool) {
	r := &request{question: q, step: w.steps, at: w.now(), told: w.told, done: make(chan struct{})}
	for i, at := range w.commits {
		if r.at > at+bound {
			r.late = i + 1
		}
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), requestOf{}, r))
	r.leave = cancel
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

// Load implements [cache.Source]: it waits until the schedule has its SELECT done and lets it return.
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

// waiting are the loads whose SELECT was done, or was not.
func (w *world) waiting(asked bool) []*load {
	return slices.DeleteFunc(slices.Clone(w.loads), func(l *load) bool { return l.asked != asked })
}

func (w *world) query(l *load) {
	if l != nil && !l.asked {
		l.asked = true
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

// write has a transaction make one of the changes, or a new one if t is nil.
func (w *world) write(t *transaction, n int) *transaction {
	w.version++
	return w.server.write(t, changes[n%len(changes)], circumstances{w.names, w.now(), w.version})
}

func (w *world) commit(t *transaction) {
	if t == nil {
		return
	}
	outdated := (*server).marked
	if c, ok := w.cache.(unlike); ok {
		outdated = c.outdated
	}
	w.server.commit(t, outdated)
	for _, r := range t.log {
		w.hints = append(w.hints, r.keys)
	}
	w.visible(t.cleaning != nil || len(t.log) > 0)
}

// visible is the database's next state.
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

// verify is a look at the schema, by this sidecar or by another one.
func (w *world) verify() {
	w.server.verified = &verified{w.server.schema, w.server.silent, w.now(), len(w.commits)}
}

// atOnce is a reading, and a look at the schema if the last one is too old or missing, as the package store has them.
func (w *world) atOnce(r *reading) {
	if w.server.verified == nil {
		w.verify()
	}
	w.receive(r, false)
	if w.now()-w.server.verified.at >= bound/5 {
		w.verify()
	}
}

// disable waits for whoever has written, as ALTER TABLE does.
func (w *world) disable() {
	if len(w.server.writing()) == 0 {
		w.server.silent = !w.server.silent
		w.server.schema = w.another()
	}
}

// bypass is a transaction that disables the triggers for as long as it takes.
func (w *world) bypass(change int) {
	silent := w.server.silent
	w.server.silent = true
	t := w.write(nil, change)
	w.server.silent = silent
	if t != nil {
		w.server.schema = w.another()
		w.commit(t)
	}
}

// restore puts another server in place of this one. It has lost some commits, and what was open.
func (w *world) restore(commits int) {
	n := len(w.backups) - 1 - commits%len(w.backups)
	w.server, w.backups, w.hints = w.backups[n], w.backups[:n], nil
	w.server.instance, w.server.verified = w.another(), nil
	w.visible(false)
}

// read has the database do a reading.
func (w *world) read(r *reading) {
	if r == nil || r.done {
		return
	}
	var found []logRow
	snapshot := w.server.snapshot().String()
	if c, ok := w.cache.(unlike); ok {
		found, snapshot = c.changes(&w.server, r.poll.Since)
	} else {
		found = w.server.changes(parseSnapshot(cmp.Or(r.poll.Since, "1:1:")))
	}
	r.done, r.state, r.verified = true, len(w.commits), w.server.verified
	r.reply = cache.Reply{Snapshot: snapshot, Mark: w.server.number, All: len(found) > mostRows}
	if v := r.verified; v != nil && !v.silent {
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

// lose is a reading whose reply never arrives.
func (w *world) lose(r *reading) {
	w.readings = slices.DeleteFunc(w.readings, func(other *reading) bool { return other == r })
}

// receive has the reply arrive. It extends no lease if the sidecar's own row is too old (demoted).
func (w *world) receive(r *reading, demoted bool) {
	if r == nil {
		return
	}
	w.read(r)
	w.lose(r)
	if r.verified == nil {
		return // the package store looks first
	}
	if c, ok := w.cache.(unlike); ok {
		c.arrived(&w.server, &r.reply)
	}
	w.cache.Told(r.poll, r.reply, !demoted)
	if r != w.latest {
		return
	}
	w.latest = nil
	told := r.state
	for _, n := range w.unlogged {
		if r.verified.state < n {
			told = min(told, n-1)
		}
	}
	w.told = max(w.told, told)
}

// judge looks at the requests that have ended.
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

// verdict is empty, or says which invariant an answer violates.
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
		return "I4 or I5: " + asked + ", and the database never said so"
	case latest < r.told:
		return "I1: " + asked + ", although the cache had been told of a later state"
	case latest < r.late:
		return "I2: " + asked + ", although a later state had been there for longer than the bound"
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
	case r.left && errors.Is(r.err, context.Canceled):
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

// gives reports whether the database would give the answer in this state, at some time until now.
func (w *world) gives(s state, r *request) bool {
	t := s.tokens[r.question.token]
	if r.found.Denial == authz.ReasonExpired {
		// Nobody is let in late, so somebody may be refused too early, by as much as a load takes.
		return t.there && !t.revoked && w.now() >= s.expires(r.question.token)-w.slowest
	}
	found, _ := s.found(r.question.lookup(w.names), w.names)
	found.Cache = r.found.Cache
	return reflect.DeepEqual(r.found, found)
}
