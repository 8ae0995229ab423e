package harness

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Await waits until the condition is true. It fails the test after 30 s.
func Await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	if err := Poll(t.Context(), what, condition); err != nil {
		t.Fatal(err)
	}
}

// Poll is like Await, but returns an error. Every goroutine may call Poll, but only the test's own goroutine may call Await.
func Poll(ctx context.Context, what string, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("timeout: %s", what)
		case <-tick.C:
		}
	}
	return nil
}
