//go:build !race

package envoy_test

import "testing"

// A warm check costs no more than six allocations between the bytes of the CheckRequest and those of the CheckResponse, whatever
// id is in its path.
func TestAllocations(t *testing.T) {
	server, messages := warm(t)
	for _, m := range messages { // the policy is evaluated, and the cache filled
		server.Bytes(t.Context(), m).Free()
	}
	i := 0
	ctx := t.Context()
	if got := testing.AllocsPerRun(1000, func() {
		server.Bytes(ctx, messages[i%len(messages)]).Free()
		i++
	}); got > 6+bytesAllocations {
		t.Errorf("%v allocations, %d of them in this test", got, bytesAllocations)
	}
}
