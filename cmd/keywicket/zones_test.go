package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Containers have no time zone files. OPA imports time/tzdata, so the binary contains these files, and time.clock([ns,
// "Europe/Berlin"]) works in a container.
func TestTimeZonesAreBuiltIn(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Split(string(out), "\n"), "time/tzdata") {
		t.Error("the command does not import time/tzdata")
	}
}
