package envoy

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever the caller's timeout is, the check ends early enough for the response.
func TestCheckEndsBeforeTheCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := timeLimit(t.Context()); got != checkTimeout {
			t.Errorf("without a deadline: %v", got)
		}
		for timeout, want := range map[time.Duration]time.Duration{
			-time.Second:           -800 * time.Millisecond,
			0:                      0,
			10 * time.Millisecond:  8 * time.Millisecond,
			500 * time.Millisecond: 400 * time.Millisecond,
			time.Hour:              maxCheckTimeout,
			math.MaxInt64:          maxCheckTimeout,
		} {
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(timeout))
			defer cancel()
			if got := timeLimit(ctx); got != want {
				t.Errorf("the limit for the timeout %v is %v, not %v", timeout, got, want)
			}
		}
	})
}

// A limitedContext behaves like a context of the standard library. The cases are the ways in which a caller can wait for the
// context. The test also covers a context for which no caller waits.
func TestLimitedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		call, cancelCall := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		defer cancelCall()
		for name, c := range map[string]func(*limitedContext) error{
			"at its limit": func(l *limitedContext) error { <-l.Done(); return l.Err() },
			"a child context": func(l *limitedContext) error {
				child, cancel := context.WithTimeout(l, time.Hour)
				defer cancel()
				<-child.Done()
				return child.Err()
			},
			"without Done": func(l *limitedContext) error { time.Sleep(checkTimeout); synctest.Wait(); return l.Err() },
			"a child without cancellation": func(l *limitedContext) error {
				detached := context.WithoutCancel(l)
				time.Sleep(2 * checkTimeout)
				if detached.Err() != nil || detached.Value(key{}) != "value" {
					t.Errorf("the child is done: %v, %v", detached.Err(), detached.Value(key{}))
				}
				return l.Err()
			},
		} {
			l, started := withLimit(call), time.Now()
			if deadline, ok := l.Deadline(); !ok || deadline.Sub(started) != checkTimeout {
				t.Errorf("%s: the deadline is in %v", name, deadline.Sub(started))
			}
			if err := c(l); err != context.DeadlineExceeded { //nolint:errorlint // exactly this error, not a wrapped error
				t.Errorf("%s: %v", name, err)
			}
			if elapsed := time.Since(started); elapsed < checkTimeout {
				t.Errorf("%s: the context was done after %v", name, elapsed)
			}
			l.cancel()
		}

		unused := withLimit(call)
		unused.cancel()                                                         // no caller has waited
		if unused.Err() != context.Canceled || unused.Value(key{}) != "value" { //nolint:errorlint // exactly this error, not a wrapped error
			t.Errorf("after the check: %v, %v", unused.Err(), unused.Value(key{}))
		}
		<-unused.Done()
		used := withLimit(call)
		if used.Err() != nil {
			t.Errorf("before the time limit: %v", used.Err())
		}
		child, cancel := context.WithCancel(used)
		defer cancel()
		used.cancel()
		if <-child.Done(); child.Err() != context.Canceled {
			t.Errorf("a child after the check: %v", child.Err())
		}
		abandoned := withLimit(call)
		cancelCall()
		if <-abandoned.Done(); abandoned.Err() != context.Canceled { //nolint:errorlint // exactly this error, not a wrapped error
			t.Errorf("after the caller has canceled: %v", abandoned.Err())
		}
		abandoned.cancel()
	})
}
