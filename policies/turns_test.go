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
	in := authz.Input{API: "velocity", Method: "GET", Denial: authz.ReasonMissing}
	synctest.Test(t, func(t *testing.T) {
		e.turns = newTurns()
		for range cap(e.turns) { // others are being evaluated
			e.turns <- struct{}{}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Decide(ctx, in); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it has not waited: %v", err)
		}
		<-e.turns
		for range 2 * cap(e.turns) { // each gives its turn back
			if _, err := e.Decide(t.Context(), in); err != nil {
				t.Error(err)
			}
		}
	})
}
