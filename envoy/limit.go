package envoy

import (
	"context"
	"sync"
	"time"
)

// A check times out before Envoy's timeout, so that the client gets the sidecar's own 503. Envoy sends its timeout with each check
// (0.5 s in deploy/envoy). checkTimeout applies if the caller sends no timeout. maxCheckTimeout is the maximum time of a check.
const (
	checkTimeout    = 400 * time.Millisecond
	maxCheckTimeout = 10 * time.Second
)

// timeLimit returns the time limit of a check: four fifths of the caller's remaining time. The remaining fifth is for the response.
func timeLimit(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return checkTimeout
	}
	return min(time.Until(deadline), maxCheckTimeout*5/4) * 4 / 5
}

// limitedContext is a context with a time limit. It starts its timer only when a caller waits for the context. The cache answers
// most checks, and these checks do not wait.
type limitedContext struct {
	context.Context // the call's context

	until       time.Time
	mu          sync.Mutex
	timed       context.Context // nil: the timer is not started
	cancelTimed context.CancelFunc
}

// withLimit returns the context of a check, with its time limit. The caller must call cancel.
func withLimit(ctx context.Context) *limitedContext {
	return &limitedContext{Context: ctx, until: time.Now().Add(timeLimit(ctx))}
}

// startTimer returns the context with the timer, and starts it if necessary.
func (c *limitedContext) startTimer() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed, c.cancelTimed = context.WithDeadline(c.Context, c.until)
	}
	return c.timed
}

func (c *limitedContext) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		c.timed = canceled
	} else if c.cancelTimed != nil {
		c.cancelTimed()
	}
}

// canceled replaces the timer's context if a check finishes before the timer was started.
var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Deadline implements [context.Context].
func (c *limitedContext) Deadline() (time.Time, bool) { return c.until, true }

// Done implements [context.Context].
func (c *limitedContext) Done() <-chan struct{} { return c.startTimer().Done() }

// Err implements [context.Context]. It does not start the timer.
func (c *limitedContext) Err() error {
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

// Value implements [context.Context]. If the timer has been started, Value calls the context with the timer. Package context uses
// Value to attach a derived context to its parent without a goroutine.
func (c *limitedContext) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed != nil && c.cancelTimed != nil {
		return c.timed.Value(key)
	}
	return c.Context.Value(key)
}
