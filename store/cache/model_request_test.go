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
	lookup       modelLookup
	step         int
	at           time.Duration
	readState    int // at the beginning of the look-up, the cache had read the changes of the states up to this index: see I1 in model_test.go
	overdueState int // index of the last state that was older than the staleness bound at the beginning of the look-up: see I2 in model_test.go
	cancel       context.CancelFunc
	canceled     bool
	done         chan struct{}
	found        authz.LookupResult
	err          error
}

// load is one call of the method Load, which waits until a step of the schedule continues it.
type load struct {
	request *request
	lookup  authz.Lookup
	began   time.Duration
	queried bool // the SELECT was executed
	answer  cache.Answer
	reply   chan error
}

// databaseError is the error of a load that fails. The field `step` is the step of the schedule at which the load fails.
type databaseError struct{ step int }

func (e databaseError) Error() string { return fmt.Sprintf("the database failed at step %d", e.step) }

// requestOf is the key under which the context of a load contains the request.
type requestOf struct{}

// startLookup starts a look-up. If answerNow is true, the loads of the look-up return immediately.
func (m *model) startLookup(q modelLookup, answerNow bool) {
	r := &request{lookup: q, step: m.steps, at: m.now(), readState: m.readState, done: make(chan struct{})}
	for i, at := range m.commits {
		if r.at > at+bound {
			r.overdueState = i + 1
		}
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), requestOf{}, r))
	r.cancel = cancel
	m.requests = append(m.requests, r)
	go func() {
		defer close(r.done)
		defer cancel()
		r.found, r.err = m.cache.Lookup(ctx, q.lookup(m.suffix))
	}()
	for synctest.Wait(); answerNow; synctest.Wait() {
		i := slices.IndexFunc(m.loads, func(l *load) bool { return l.request == r })
		if i < 0 {
			return
		}
		m.answer(m.loads[i], nil)
	}
}

// Load implements [cache.Source]. It waits until steps of the schedule execute the SELECT of this load and let Load return.
func (m *model) Load(ctx context.Context, lookup authz.Lookup) (cache.Answer, error) {
	l := &load{request: ctx.Value(requestOf{}).(*request), lookup: lookup, began: m.now(), reply: make(chan error, 1)}
	m.mu.Lock()
	at, _ := slices.BinarySearchFunc(m.loads, l, func(a, b *load) int { return a.request.step - b.request.step })
	m.loads = slices.Insert(m.loads, at, l)
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.loads = slices.DeleteFunc(m.loads, func(other *load) bool { return other == l })
	}()
	select {
	case err := <-l.reply:
		return l.answer, err
	case <-ctx.Done():
		return cache.Answer{}, ctx.Err()
	}
}

// waiting returns loads in progress. If queried is true, it returns the loads whose SELECT was executed. If queried is false, it
// returns the loads whose SELECT was not executed.
func (m *model) waiting(queried bool) []*load {
	return slices.DeleteFunc(slices.Clone(m.loads), func(l *load) bool { return l.queried != queried })
}

func (m *model) query(l *load) {
	if l != nil && !l.queried {
		l.queried = true
		l.answer = m.states[len(m.states)-1].answer(l.lookup, m.suffix, m.now())
		m.slowest = max(m.slowest, m.now()-l.began)
	}
}

func (m *model) answer(l *load, err error) {
	if l == nil {
		return
	}
	m.query(l)
	if err != nil {
		l.answer = cache.Answer{}
	}
	l.reply <- err
}
