// Package race tells tests whether the race detector is on.
package race

import "testing"

// Skip skips the test if the race detector is on. It is for two kinds of tests. The first kind starts no goroutines and runs much
// slower with the race detector. The second kind counts allocations or other values that the detector changes.
func Skip(t *testing.T) {
	t.Helper()
	if Enabled {
		t.Skip("`make test` runs this test, because that command does not use the race detector")
	}
}
