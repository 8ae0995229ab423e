package policies

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// Of thousands of checks at once, only as many are evaluated at a time as there are processors.
func TestEvaluationsTakeTurns(t *testing.T) {
	e, err := Load(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	arrived := authz.Input{API: "velocity", Method: "GET", Denial: authz.ReasonMissing}
	lookedUp := authz.Input{API: "velocity", Method: "GET", Denial: authz.ReasonUnknown}
	synctest.Test(t, func(t *testing.T) {
		e.arrived, e.lookedUp = newTurns(), newTurns()
		for _, c := range []struct {
			turns chan struct{}
			in    authz.Input
			other authz.Input // which has turns of its own
		}{{e.arrived, arrived, lookedUp}, {e.lookedUp, lookedUp, arrived}} {
			e.memory.forget()        // what is remembered takes no turn
			for range cap(c.turns) { // others are being evaluated
				c.turns <- struct{}{}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := e.Decide(ctx, c.other); err != nil {
				t.Error(err)
			}
			if _, err := e.Decide(ctx, c.in); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it has not waited: %v", err)
			}
			<-c.turns
			for range 2 * cap(c.turns) { // each gives its turn back
				e.memory.forget()
				if _, err := e.Decide(t.Context(), c.in); err != nil {
					t.Error(err)
				}
			}
			for range cap(c.turns) - 1 {
				<-c.turns
			}
		}
	})
}
