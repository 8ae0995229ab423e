package envoy

import (
	"context"
	"sync"
	"time"
)

// A check ends by itself before Envoy gives up on it, so that the client gets the product's own 503. Envoy sends its timeout
// with each check (0.5 s in deploy/envoy). checkTimeout applies if the caller sends none. longestCheck is the maximum.
const (
	checkTimeout = 400 * time.Millisecond
	longestCheck = 10 * time.Second
)

// timeLimit leaves the caller a fifth of its time to get the answer.
func timeLimit(ctx context.Context) time.Duration {
	deadline, told := ctx.Deadline()
	if !told {
		return checkTimeout
	}
	return min(time.Until(deadline), longestCheck*5/4) * 4 / 5
}

// limited is a context that ends with its time limit. The timer is started for the first who waits: most checks are answered
// from memory and wait for nothing.
type limited struct {
	context.Context // of the call

	until time.Time
	mu    sync.Mutex
	timed context.Context // nil: not started
	end   context.CancelFunc
}

// withLimit gives a check its time limit. The caller calls cancel.
func withLimit(ctx context.Context) *limited {
	return &limited{Context: ctx, until: time.Now().Add(timeLimit(ctx))}
}

func (c *limited) started() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.end = context.WithDeadline(c.Context, c.until)
	}
	return c.timed
}

func (c *limited) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed = canceled
	} else if c.end != nil {
		c.end()
	}
}

// canceled is what a context without a timer becomes when its check is over.
var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Deadline implements [context.Context].
func (c *limited) Deadline() (time.Time, bool) { return c.until, true }

// Done implements [context.Context].
func (c *limited) Done() <-chan struct{} { return c.started().Done() }

// Err implements [context.Context]. It starts no timer.
func (c *limited) Err() error {
	c.mu.Lock()
	timed := c.timed
	c.mu.Unlock()
	switch {
	case timed != nil:
		return timed.Err()
	case c.Context.Err() != nil:
		return c.Context.Err()
	case !time.Now().Before(c.until):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements [context.Context]. Contexts that are made of this one find the one with the timer by it.
func (c *limited) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed != nil && c.end != nil {
		return c.timed.Value(key)
	}
	return c.Context.Value(key)
}
