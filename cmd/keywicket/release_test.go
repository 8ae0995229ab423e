package main

import (
	"bufio"
	"fmt"
	"os"
	"testing"
)

// resident is how much of the mappings is in memory, in KiB.
func resident(t *testing.T, of []mapping) (kilobytes int) {
	t.Helper()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = maps.Close() }()
	inside := false
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var m mapping
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x ", &m.from, &m.to); err == nil {
			inside = false
			for _, one := range of {
				inside = inside || one == m
			}
		} else if _, err := fmt.Sscanf(lines.Text(), "Rss: %d kB", &n); err == nil && inside {
			kilobytes += n
		}
	}
	return kilobytes
}

// What only the start needs is given back, and the program goes on.
func TestReleaseMemory(t *testing.T) {
	pages := programPages()
	if len(pages) < 2 {
		t.Fatalf("%v: neither code nor constants", pages)
	}
	before := resident(t, pages)
	releaseMemory()
	if after := resident(t, pages); after >= before*3/4 {
		t.Errorf("%d KiB of the program in memory, of %d", after, before)
	}
}
