package envoy_test

import (
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/race"
)

// A check with a warm cache makes at most six allocations, from the bytes of the CheckRequest to the bytes of the CheckResponse.
// This limit applies to allows and denials, with any id in the path. It includes the log line of a denial.
func TestAllocations(t *testing.T) {
	race.Skip(t)
	for _, answer := range []authz.Reason{allowedCheck, authz.ReasonUnknown, authz.ReasonMissingScope} {
		t.Run(string(answer), func(t *testing.T) {
			server, messages := warmServer(t, answer)
			i := 0
			ctx := t.Context()
			if got := testing.AllocsPerRun(1000, func() {
				server.Bytes(ctx, messages[i%len(messages)]).Free()
				i++
			}); got > 6+harnessAllocations {
				t.Errorf("%v allocations, %d of them in the test method Server.Bytes", got, harnessAllocations)
			}
		})
	}
}
