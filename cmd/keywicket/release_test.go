package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// resident is how much of the mappings is in memory, in KiB.
func resident(t *testing.T, of []mapping) (kilobytes int) {
	t.Helper()
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = smaps.Close() }()
	inside := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		var m mapping
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x ", &m.from, &m.to); err == nil {
			inside = slices.Contains(of, m)
		} else if _, err := fmt.Sscanf(lines.Text(), "Rss: %d kB", &n); err == nil && inside {
			kilobytes += n
		}
	}
	return kilobytes
}

// What only the start needs is given back, and the program goes on.
func TestReleaseMemory(t *testing.T) {
	pages := ownProgramPages()
	if len(pages) < 2 {
		t.Fatalf("%v: neither code nor constants", pages)
	}
	before := resident(t, pages)
	releaseMemory()
	if after := resident(t, pages); after >= before*3/4 {
		t.Errorf("%d KiB of the program in memory, of %d", after, before)
	}
}

// What a loader has written into the program's memory is not in its file, and must stay.
func TestProgramPages(t *testing.T) {
	one := func(from, mode, file string, anonymous int) string {
		return fmt.Sprintf("%s000-%sfff %s 00000000 fe:00 42    %s\nSize:   4 kB\nRss:    4 kB\nAnonymous:   %d kB\nAnonHugePages:   0 kB\nVmFlags: rd mr\n",
			from, from, mode, file, anonymous)
	}
	smaps := one("1", "r-xp", "/bin/keywicket", 0) + one("2", "r--p", "/bin/keywicket", 0) +
		one("3", "r--p", "/bin/keywicket", 4) + one("4", "rw-p", "/bin/keywicket", 0) +
		one("5", "r-xp", "/lib/libc.so.6", 0) + one("6", "r--p", "/other/bin/keywicket", 0) + one("7", "r--s", "/bin/keywicket", 0)
	if got := programPages(strings.NewReader(smaps), "/bin/keywicket"); !slices.Equal(got, []mapping{{0x1000, 0x1fff}, {0x2000, 0x2fff}}) {
		t.Errorf("got %x", got)
	}
}
