package envoy

import (
	"context"
	"sync"
	"time"
)

// A check times out before Envoy's timeout, so that the client gets the sidecar's own 503. Envoy sends its timeout with each check
// (0.5 s in deploy/envoy). checkTimeout is the time limit if the caller sends no timeout. maxCheckTimeout is the maximum time limit
// of a check.
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

// limitedContext is a context with a time limit. It starts its timer only when a caller waits for the context. Most checks are
// answered from the cache and do not wait, so they need no timer.
type limitedContext struct {
	context.Context // the call's context

	deadline     time.Time
	mu           sync.Mutex
	timerContext context.Context // nil: the timer is not started
	cancelTimer  context.CancelFunc
}

// withLimit returns the context of a check, with its time limit. The caller must call cancel.
func withLimit(ctx context.Context) *limitedContext {
	return &limitedContext{Context: ctx, deadline: time.Now().Add(timeLimit(ctx))}
}

// startTimer returns the context with the timer. If the timer has not been started, startTimer starts it.
func (c *limitedContext) startTimer() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timerContext == nil {
		c.timerContext, c.cancelTimer = context.WithDeadline(c.Context, c.deadline)
	}
	return c.timerContext
}

func (c *limitedContext) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timerContext == nil {
		c.timerContext = canceled
	} else if c.cancelTimer != nil {
		c.cancelTimer()
	}
}

// canceled replaces the timer's context if a check finishes before the timer was started.
var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Deadline implements [context.Context].
func (c *limitedContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements [context.Context].
func (c *limitedContext) Done() <-chan struct{} { return c.startTimer().Done() }

// Err implements [context.Context]. It does not start the timer.
func (c *limitedContext) Err() error {
	c.mu.Lock()
	timerContext := c.timerContext
	c.mu.Unlock()
	switch {
	case timerContext != nil:
		return timerContext.Err()
	case c.Context.Err() != nil:
		return c.Context.Err()
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements [context.Context]. If the timer has been started, Value returns the value from timerContext. Package context
// uses Value to attach a derived context to its parent without a goroutine.
func (c *limitedContext) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timerContext != nil && c.cancelTimer != nil {
		return c.timerContext.Value(key)
	}
	return c.Context.Value(key)
}
