package policies

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// The number of concurrent evaluations is at most the number of processors.
func TestEvaluationsAreLimited(t *testing.T) {
	e, err := Load(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	before := authz.Input{API: "velocity", Method: "GET", Denial: authz.ReasonMissing}
	after := authz.Input{API: "velocity", Method: "GET", Denial: authz.ReasonUnknown}
	synctest.Test(t, func(t *testing.T) {
		e.beforeLookup, e.afterLookup = newSemaphore(), newSemaphore()
		for _, c := range []struct {
			semaphore chan struct{}
			in        authz.Input
			other     authz.Input // uses the other semaphore
		}{{e.beforeLookup, before, after}, {e.afterLookup, after, before}} {
			e.memory.forget()            // a remembered decision does not use the semaphore
			for range cap(c.semaphore) { // fills the semaphore, as concurrent evaluations would
				c.semaphore <- struct{}{}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := e.Decide(ctx, c.other); err != nil {
				t.Error(err)
			}
			if _, err := e.Decide(ctx, c.in); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the evaluation did not wait for the semaphore: %v", err)
			}
			<-c.semaphore
			for range 2 * cap(c.semaphore) { // each evaluation releases the semaphore
				e.memory.forget()
				if _, err := e.Decide(t.Context(), c.in); err != nil {
					t.Error(err)
				}
			}
			for range cap(c.semaphore) - 1 {
				<-c.semaphore
			}
		}
	})
}
