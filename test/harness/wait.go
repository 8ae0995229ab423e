package harness

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Await waits until the condition is true. It fails the test after 30 s.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if err := Poll(t.Context(), what, holds); err != nil {
		t.Fatal(err)
	}
}

// Poll is Await for other goroutines: it returns an error.
func Poll(ctx context.Context, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("timeout: %s", what)
		case <-tick.C:
		}
	}
	return nil
}
