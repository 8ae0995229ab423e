package cache_test

import (
	"context"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

type request struct {
	lookup   modelLookup
	step     int
	at       time.Duration
	known    int // index of the last state whose changes the cache had read when the look-up began
	late     int // index of the last state that began more than the staleness bound before the look-up
	cancel   context.CancelFunc
	canceled bool
	done     chan struct{}
	found    authz.LookupResult
	err      error
}

// load is one call of Load. It waits until the schedule lets it continue.
type load struct {
	request *request
	lookup  authz.Lookup
	began   time.Duration
	queried bool // the SELECT was executed
	answer  cache.Answer
	reply   chan error
}

// databaseError is the error of a load. step is the step of the schedule at which the load fails.
type databaseError struct{ step int }

func (e databaseError) Error() string { return fmt.Sprintf("the database failed at step %d", e.step) }

// requestOf is the key of the request in a load's context.
type requestOf struct{}

// startLookup starts a request. If answerNow is true, its loads return immediately.
func (w *world) startLookup(q modelLookup, answerNow bool) {
	r := &request{lookup: q, step: w.steps, at: w.now(), known: w.known, done: make(chan struct{})}
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
	for synctest.Wait(); answerNow; synctest.Wait() {
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

// waiting returns the loads whose SELECT was executed if queried is true, and otherwise the loads whose SELECT was not executed.
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
