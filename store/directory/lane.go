package directory

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
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/lookup"
	"github.com/keywicket/keywicket/store/pool"
)

const (
	// A lane sends at most one query per laneInterval, and at most Config.MaxOpenConnections queries at the same time. After a
	// pause, the lane may send up to laneBurst queries without this interval. Look-ups that must wait share the next query. If
	// batchTrigger look-ups wait, the lane sends this query early. A query for many look-ups takes only a little longer than a
	// query for one look-up. So a flood of unknown tokens hardly delays other look-ups.
	laneInterval = 2 * time.Millisecond
	laneBurst    = 25

	batchTrigger = 16  // if this number of look-ups wait, the query does not wait for the interval
	batchLimit   = 256 // maximum number of look-ups in one query
)

// lane batches the look-ups of one kind into queries.
type lane struct {
	lookups *lookups
	query   string

	mu         sync.Mutex
	waiting    list.List // list of *waiter
	queries    int       // number of queries in progress
	lastShared bool      // the last query was for several look-ups
	nextDue    time.Time // time of the next query if the lane sent exactly one query per laneInterval, without bursts
	timerSet   bool      // a timer will send the next query
}

// waiter is one look-up.
type waiter struct {
	lookup authz.Lookup
	result chan outcome  // has a buffer of one, because the look-up may no longer wait
	place  *list.Element // the waiter's element in lane.waiting
}

type outcome struct {
	answer cache.Answer
	err    error
}

// join adds the look-up to the next query. The look-up does not join a query in progress, because that query may have read an
// older state of the database.
func (n *lane) join(l authz.Lookup) *waiter {
	w := &waiter{lookup: l, result: make(chan outcome, 1)}
	n.mu.Lock()
	defer n.mu.Unlock()
	w.place = n.waiting.PushBack(w)
	n.send()
	return w
}

// leave removes the look-up from the lane if its query has not been sent yet.
func (n *lane) leave(w *waiter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting.Remove(w.place)
}

// send sends the next query, or starts a timer that sends it later. The caller holds n.mu.
func (n *lane) send() {
	if n.waiting.Len() == 0 || n.queries == n.lookups.connections {
		return // the next look-up, or the end of a query, calls send again
	}
	now := time.Now()
	// If look-ups come one after the other, they cannot share a query. So a single look-up does not wait for others.
	if alone := n.queries == 0 && n.waiting.Len() == 1 && !n.lastShared; !alone {
		if n.nextDue.Before(now) {
			n.nextDue = now
		}
		wait := n.nextDue.Sub(now) - laneBurst*laneInterval // time until the next query may be sent; negative while the burst lasts
		if wait > 0 && n.waiting.Len() < batchTrigger {
			if !n.timerSet {
				n.timerSet = true
				time.AfterFunc(wait, func() {
					n.mu.Lock()
					defer n.mu.Unlock()
					n.timerSet = false
					n.send()
				})
			}
			return
		}
		if wait <= 0 {
			n.nextDue = n.nextDue.Add(laneInterval)
		}
	}
	batch := n.batch()
	n.lastShared = len(batch) > 1
	n.queries++
	go func() {
		n.answer(batch)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.queries--
		n.send()
	}()
}

// batch removes up to batchLimit look-ups from the lane, in the order of their arrival. The caller holds n.mu.
func (n *lane) batch() (batch []*waiter) {
	for len(batch) < batchLimit && n.waiting.Len() > 0 {
		batch = append(batch, n.waiting.Remove(n.waiting.Front()).(*waiter))
	}
	return batch
}

// answer sends each waiter its answer or error. The query has its own time limit. The query continues when a waiter leaves, because
// other look-ups may share the query.
func (n *lane) answer(batch []*waiter) {
	ctx, cancel := context.WithTimeout(context.Background(), n.lookups.timeout)
	defer cancel()
	n.answerWithin(ctx, batch)
}

func (n *lane) answerWithin(ctx context.Context, batch []*waiter) {
	answers, err := n.queryBatch(ctx, batch)
	if len(batch) > 1 && mayBeCausedByOneLookup(err) && ctx.Err() == nil {
		// Divide the batch to find the look-up that causes the error, so that the other look-ups get their answers.
		half := len(batch) / 2
		n.answerWithin(ctx, batch[:half])
		n.answerWithin(ctx, batch[half:])
		return
	}
	for i, w := range batch {
		if err != nil {
			w.result <- outcome{err: err}
			continue
		}
		w.result <- outcome{answer: answers[i]}
	}
}

// mayBeCausedByOneLookup reports whether a single look-up of the batch may be the cause of the error: Postgres cannot read the
// look-up's values, or this program cannot read its answer. The result is also true if an operator has cancelled the query, because
// another attempt may succeed.
func mayBeCausedByOneLookup(err error) bool {
	if e := pq.As(err); e != nil {
		class := e.Code.Class()
		return class == pqerror.ClassDataException || class == pqerror.ClassInternalError || e.Code == pqerror.QueryCanceled
	}
	return errors.Is(err, lookup.ErrUnreadable)
}

func (n *lane) queryBatch(ctx context.Context, batch []*waiter) (answers []cache.Answer, err error) {
	defer func() {
		if p := recover(); p != nil { // a recover in a caller would not catch a panic in this goroutine
			err = fmt.Errorf("%w: panic: %v", lookup.ErrUnreadable, p)
		}
	}()
	lookups := make([]authz.Lookup, len(batch))
	for i, w := range batch {
		lookups[i] = w.lookup
	}
	err = database.RetryLost(ctx, n.lookups.attempts, func() error {
		answers, err = n.attempt(ctx, lookups)
		return err
	})
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err() // the error of Postgres has the code 57014, which errors.Is does not recognize as a deadline
	}
	return answers, err
}

func (n *lane) attempt(ctx context.Context, lookups []authz.Lookup) ([]cache.Answer, error) {
	servers := n.lookups.servers
	for attempt := 1; ; attempt++ {
		answers, started, err := lookup.Query(ctx, n.lookups.db, n.query, lookups)
		switch {
		case err != nil:
			return nil, err
		case servers.IsCurrent(started):
			return answers, nil
		case attempt == n.lookups.attempts:
			return nil, pool.ErrOtherServer
		}
		// FindCurrent either makes the server that answered the current server, or closes the pool's idle connections. So the next
		// attempt most likely reaches the current server.
		if err := servers.FindCurrent(ctx); err != nil {
			return nil, err
		}
	}
}
