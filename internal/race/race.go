// Package race tells tests whether the race detector is on.
package race

import "testing"

// Skip skips a test that starts no goroutines and takes a multiple of its time under the race detector, or counts what the race
// detector changes. `make test` runs these tests without it (tools/tests-that).
func Skip(t *testing.T) {
	t.Helper()
	if enabled {
		t.Skip("make test runs it without the race detector")
	}
}
