package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A container has no files of time zones. The binary has them built in, by OPA's own import, so that
// time.clock([ns, "Europe/Berlin"]) is no error there.
func TestTimeZonesAreBuiltIn(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Split(string(out), "\n"), "time/tzdata") {
		t.Error("the command does not import time/tzdata")
	}
}
