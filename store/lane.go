package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/cache"
)

const (
	// A lane sends one query in laneInterval, and laneBurst of them at once after a rest. Look-ups beyond that share the next
	// query, which is sent earlier once it is worth it. Most of what a query costs is the query and not its rows, so a flood of
	// unknown tokens takes little from others.
	laneInterval = 2 * time.Millisecond
	laneBurst    = 25

	batchWorth = 16  // look-ups for which a query does not wait for the interval
	batchLimit = 256 // look-ups in one query
)

// lane is where the look-ups of one kind wait for the next query.
type lane struct {
	lookups *lookups
	query   string

	mu      sync.Mutex
	waiting list.List // of *waiter
	queries int       // under way
	crowded bool      // the last query was for more than one look-up
	paidFor time.Time // queries are paid for up to this time; one costs laneInterval
	timed   bool      // a timer will send the next query
}

// waiter is one look-up.
type waiter struct {
	lookup authz.Lookup
	told   chan outcome  // has room for one: nobody may be there any more
	place  *list.Element // in the lane
}

type outcome struct {
	answer cache.Answer
	err    error
}

// join adds the look-up to the next query. One that was already sent may read what was so before the look-up began.
func (n *lane) join(l authz.Lookup) *waiter {
	w := &waiter{lookup: l, told: make(chan outcome, 1)}
	n.mu.Lock()
	defer n.mu.Unlock()
	w.place = n.waiting.PushBack(w)
	n.send()
	return w
}

// leave takes the look-up out of the lane, if its query was not sent yet.
func (n *lane) leave(w *waiter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting.Remove(w.place)
}

// send sends the next query, or sees to it that it is sent later. The lane is locked.
func (n *lane) send() {
	if n.waiting.Len() == 0 || n.queries == n.lookups.connections {
		return // the query that ends next sends the next one
	}
	now := time.Now()
	// Callers who ask one after the other have nobody to share a query with.
	if alone := n.queries == 0 && n.waiting.Len() == 1 && !n.crowded; !alone {
		if n.paidFor.Before(now) {
			n.paidFor = now
		}
		early := n.paidFor.Sub(now) - laneBurst*laneInterval
		if early > 0 && n.waiting.Len() < batchWorth {
			if !n.timed {
				n.timed = true
				time.AfterFunc(early, func() {
					n.mu.Lock()
					defer n.mu.Unlock()
					n.timed = false
					n.send()
				})
			}
			return
		}
		if early <= 0 {
			n.paidFor = n.paidFor.Add(laneInterval)
		}
	}
	batch := n.batch()
	n.crowded = len(batch) > 1
	n.queries++
	go func() {
		n.answer(batch)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.queries--
		n.send()
	}()
}

// batch takes those who have waited longest, as many as fit. The lane is locked.
func (n *lane) batch() (batch []*waiter) {
	for len(batch) < batchLimit && n.waiting.Len() > 0 {
		batch = append(batch, n.waiting.Remove(n.waiting.Front()).(*waiter))
	}
	return batch
}

// answer tells each waiter its answer, or why there is none. It works for many look-ups, so it has its own time limit: a waiter
// that leaves does not end it.
func (n *lane) answer(batch []*waiter) {
	ctx, cancel := context.WithTimeout(context.Background(), n.lookups.timeout)
	defer cancel()
	n.answerWithin(ctx, batch)
}

func (n *lane) answerWithin(ctx context.Context, batch []*waiter) {
	answers, err := n.ask(ctx, batch)
	if len(batch) > 1 && mayBeOfOne(err) && ctx.Err() == nil {
		// The others are not to suffer from it.
		half := len(batch) / 2
		n.answerWithin(ctx, batch[:half])
		n.answerWithin(ctx, batch[half:])
		return
	}
	for i, w := range batch {
		if err != nil {
			w.told <- outcome{err: err}
			continue
		}
		w.told <- outcome{answer: answers[i]}
	}
}

// errUnreadable is for an answer that this program cannot read.
var errUnreadable = errors.New("the database's answer cannot be read")

// mayBeOfOne reports whether one of several look-ups may be to blame for the error: it asks what Postgres cannot read, or finds
// what cannot be read here. A query that somebody has cancelled is worth another attempt too.
func mayBeOfOne(err error) bool {
	if e := pq.As(err); e != nil {
		class := e.Code.Class()
		return class == pqerror.ClassDataException || class == pqerror.ClassInternalError || e.Code == pqerror.QueryCanceled
	}
	return errors.Is(err, errUnreadable)
}

func (n *lane) ask(ctx context.Context, batch []*waiter) (answers []cache.Answer, err error) {
	defer func() {
		if p := recover(); p != nil { // no caller's recover covers this goroutine
			err = fmt.Errorf("%w: panic: %v", errUnreadable, p)
		}
	}()
	asked := make([]authz.Lookup, len(batch))
	for i, w := range batch {
		asked[i] = w.lookup
	}
	err = retryLost(ctx, n.lookups.attempts, func() error {
		answers, err = n.attempt(ctx, asked)
		return err
	})
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err() // for Postgres's 57014, which errors.Is does not take for a deadline
	}
	return answers, err
}

func (n *lane) attempt(ctx context.Context, asked []authz.Lookup) ([]cache.Answer, error) {
	servers := n.lookups.servers
	for attempt := 1; ; attempt++ {
		answers, started, err := ask(ctx, n.lookups.db, n.query, asked)
		switch {
		case err != nil:
			return nil, err
		case servers.isCurrent(started):
			return answers, nil
		case attempt == n.lookups.attempts:
			return nil, errOtherServer
		}
		// After this the server that answered is the current one, or its connections are closed.
		if err := servers.settle(ctx); err != nil {
			return nil, err
		}
	}
}
