//go:build !race

package envoy_test

import (
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// A warm check costs no more than six allocations between the bytes of the CheckRequest and those of the CheckResponse, whatever
// id is in its path, and whether it is allowed or not. The line of the log that a denial writes is included.
func TestAllocations(t *testing.T) {
	for _, answer := range []authz.Reason{allowedCheck, authz.ReasonUnknown, authz.ReasonMissingScope} {
		t.Run(string(answer), func(t *testing.T) {
			server, messages := warm(t, answer)
			i := 0
			ctx := t.Context()
			if got := testing.AllocsPerRun(1000, func() {
				server.Bytes(ctx, messages[i%len(messages)]).Free()
				i++
			}); got > 6+bytesAllocations {
				t.Errorf("%v allocations, %d of them in this test", got, bytesAllocations)
			}
		})
	}
}
