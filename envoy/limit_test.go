package envoy

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// The caller must have time for the response, with any timeout.
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
				t.Errorf("of %v: %v, not %v", timeout, got, want)
			}
		}
	})
}

// A limitedContext ends like a context of the standard library, whatever waits for it first, and also if nothing waits.
func TestLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		call, hangUp := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		defer hangUp()
		for name, c := range map[string]func(*limitedContext) error{
			"at its limit": func(l *limitedContext) error { <-l.Done(); return l.Err() },
			"a child of it": func(l *limitedContext) error {
				child, cancel := context.WithTimeout(l, time.Hour)
				defer cancel()
				<-child.Done()
				return child.Err()
			},
			"without Done": func(l *limitedContext) error { time.Sleep(checkTimeout); synctest.Wait(); return l.Err() },
			"a child without cancellation": func(l *limitedContext) error {
				free := context.WithoutCancel(l)
				time.Sleep(2 * checkTimeout)
				if free.Err() != nil || free.Value(key{}) != "value" {
					t.Errorf("it has ended: %v, %v", free.Err(), free.Value(key{}))
				}
				return l.Err()
			},
		} {
			l, begun := withLimit(call), time.Now()
			if until, ok := l.Deadline(); !ok || until.Sub(begun) != checkTimeout {
				t.Errorf("%s: the deadline is in %v", name, until.Sub(begun))
			}
			if err := c(l); err != context.DeadlineExceeded { //nolint:errorlint // the error itself
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(begun); took < checkTimeout {
				t.Errorf("%s: it ended after %v", name, took)
			}
			l.cancel()
		}

		unused := withLimit(call)
		unused.cancel()                                                         // no caller has waited
		if unused.Err() != context.Canceled || unused.Value(key{}) != "value" { //nolint:errorlint // the error itself
			t.Errorf("after the check: %v, %v", unused.Err(), unused.Value(key{}))
		}
		<-unused.Done()
		used := withLimit(call)
		if used.Err() != nil {
			t.Errorf("at the beginning: %v", used.Err())
		}
		child, cancel := context.WithCancel(used)
		defer cancel()
		used.cancel()
		if <-child.Done(); child.Err() != context.Canceled {
			t.Errorf("a child after the check: %v", child.Err())
		}
		last := withLimit(call)
		hangUp()
		if <-last.Done(); last.Err() != context.Canceled { //nolint:errorlint // the error itself
			t.Errorf("after the caller has canceled: %v", last.Err())
		}
		last.cancel()
	})
}
