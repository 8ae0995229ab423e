package envoy

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// The caller has to have time for the answer, however much or little it has in all.
func TestCheckEndsBeforeItsCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := timeLimit(t.Context()); got != checkTimeout {
			t.Errorf("without a deadline: %v", got)
		}
		for timeout, want := range map[time.Duration]time.Duration{
			-time.Second:           -800 * time.Millisecond,
			0:                      0,
			10 * time.Millisecond:  8 * time.Millisecond,
			500 * time.Millisecond: 400 * time.Millisecond,
			time.Hour:              longestCheck,
			math.MaxInt64:          longestCheck,
		} {
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(timeout))
			defer cancel()
			if got := timeLimit(ctx); got != want {
				t.Errorf("of %v: %v, not %v", timeout, got, want)
			}
		}
	})
}
