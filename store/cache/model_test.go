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

// The model is a database, its feed of changes and a clock, all of which move only when a schedule says so, around a
// cache that is asked questions. It remembers every state that the database was in. An answer is right if the database
// would have given it in one of these states, and if that is not older than
//
//   - I1: the last that the cache had been told of when it was asked;
//   - I2: the last that had been there for longer than the staleness bound when it was asked.
//
// That the database would have given it at all is I4, an answer is for the token that was asked about, and I5, an error
// becomes no answer, now or later. I3 is looked at by itself: nobody is let in who asked after the expiry.

// bound is the staleness bound of every cache here.
const bound = time.Second

// sidecar is what a schedule drives: the real cache, and those of variants_test.go.
type sidecar interface {
	authz.Directory
	Changed(keys []cache.Key)
	ChangedAll()
	Connected(cause cache.Cause)
	Disconnected()
	Nonce() string
	Heard(nonce string)
	Close()
}

// pinged is told when a nonce was sent, whether or not it is heard.
type pinged interface{ Pinged() }

// world is everything around the cache.
type world struct {
	cache sidecar
	start time.Time
	names string // tells the tokens, users and workspaces of one schedule from another's on the same cache
	tally map[authz.CacheResult]int

	states  []state // states[0], and one more for each commit
	commits []commit
	told    int // the last of the states that the cache was told of, because of I1

	up       bool      // the server has somebody listening
	noticed  bool      // the client knows that there is no connection
	ever     bool      // there was one
	started  bool      // the cache was told of the first
	unheard  int       // the last of the states from before the first
	lost     int       // the last of the states whose notice nobody will hear
	received []message // by the client, and not yet told to the cache, or on their way to it
	sending  []string  // nonces

	steps    int
	requests []*request    // that have no answer yet
	slowest  time.Duration // from the beginning of a load to its SELECT

	mu    sync.Mutex
	loads []*load // under way, by request
}

// commit is a transaction: when, and what it tells.
type commit struct {
	at   time.Duration
	keys []cache.Key // nil: all
}

// message is what the listener hands on: a notice, a nonce, or that it listens again.
type message struct {
	state     int // that a notice tells of; or that is told of by listening again
	nonce     string
	connected bool
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

// begin is a new world for the cache, whose feed has never had a connection.
func (w *world) begin(names string) {
	w.cache.Disconnected()
	*w = world{cache: w.cache, start: w.start, tally: w.tally, names: names, states: []state{firstState}, noticed: true}
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
		w.reply(w.loads[0], nil)
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
		w.reply(pick(w.waiting(true), s.a), nil)
	case fail:
		w.reply(pick(w.loads, s.a), databaseError{w.steps})
	case leave:
		if r := pick(w.requests, s.a); r != nil {
			r.left = true
			r.leave()
		}
	case alter:
		w.commit(changes[s.a%len(changes)])
	case beat:
		w.sending = append(w.sending, w.cache.Nonce())
		if s.b != 0 {
			w.send(len(w.sending) - 1)
		}
	case send:
		if len(w.sending) > 0 {
			w.send(s.a % len(w.sending))
		}
	case deliver:
		for n := 0; len(w.received) > 0 && (s.b != 0 || n <= s.a); n++ {
			w.deliver()
		}
	case start:
		if w.ever && !w.started {
			w.started = true
			w.cache.Connected(cache.CauseStart)
			w.told = max(w.told, w.unheard)
		}
	case cut:
		w.cut(s.a)
	case notice:
		if !w.up && !w.noticed {
			w.noticed = true
			w.cache.Disconnected()
		}
	case connect:
		w.connect()
	case pass:
		time.Sleep(durations[s.a%len(durations)])
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
	for i, c := range w.commits {
		if r.at > c.at+bound {
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
		w.reply(w.loads[i], nil)
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

func (w *world) reply(l *load, err error) {
	if l == nil {
		return
	}
	w.query(l)
	if err != nil {
		l.answer = cache.Answer{}
	}
	l.reply <- err
}

// commit changes the rows, and has the change told if anybody listens.
func (w *world) commit(c change) {
	next := w.states[len(w.states)-1]
	keys := c.do(&next, circumstances{w.names, w.now(), fmt.Sprintf("v%d", len(w.states))})
	w.states = append(w.states, next)
	w.commits = append(w.commits, commit{w.now(), keys})
	if w.up {
		w.received = append(w.received, message{state: len(w.commits)})
	} else {
		w.lost = len(w.commits)
	}
}

func (w *world) send(i int) {
	nonce := w.sending[i]
	w.sending = slices.Delete(w.sending, i, i+1)
	if p, ok := w.cache.(pinged); ok {
		p.Pinged()
	}
	if w.up {
		w.received = append(w.received, message{nonce: nonce})
	}
}

// connect begins to listen. The listener tells so in its place among the messages, but for the first time.
func (w *world) connect() {
	switch {
	case w.up || !w.noticed:
		return
	case w.ever:
		w.received = append(w.received, message{connected: true, state: w.lost})
	default:
		w.unheard = w.lost
	}
	w.up, w.noticed, w.ever = true, false, true
}

// cut ends the connection. Some messages had come through it; what came before it began is here in any case.
func (w *world) cut(some int) {
	if !w.up {
		return
	}
	w.up = false
	before := len(w.received)
	for before > 0 && !w.received[before-1].connected {
		before--
	}
	here := min(before+some, len(w.received))
	for _, m := range w.received[here:] {
		w.lost = max(w.lost, m.state)
	}
	w.received = slices.Clone(w.received[:here])
}

func (w *world) deliver() {
	m := w.received[0]
	w.received = w.received[1:]
	switch {
	case m.connected:
		w.cache.Connected(cache.CauseReconnect)
	case m.nonce != "":
		w.cache.Heard(m.nonce)
	case w.commits[m.state-1].keys == nil:
		w.cache.ChangedAll()
	default:
		w.cache.Changed(w.commits[m.state-1].keys)
	}
	w.told = max(w.told, m.state)
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
