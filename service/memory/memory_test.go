package memory

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// resident returns the resident size of the mappings, in KiB.
func resident(t *testing.T, mappings []mapping) (kilobytes int) {
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
			inside = slices.Contains(mappings, m)
		} else if _, err := fmt.Sscanf(lines.Text(), "Rss: %d kB", &n); err == nil && inside {
			kilobytes += n
		}
	}
	return kilobytes
}

// After release, the program uses less memory and continues to work.
func TestReleaseMemory(t *testing.T) {
	pages := ownProgramPages()
	if len(pages) < 2 {
		t.Fatalf("%v: code or constants are missing", pages)
	}
	before := resident(t, pages)
	release()
	if after := resident(t, pages); after >= before*3/4 {
		t.Errorf("%d of %d KiB of the program are still in memory", after, before)
	}
	// New threads, allocations and garbage collections use many of the pages, so the kernel loads these pages again.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			runtime.LockOSThread()
			fmt.Fprint(io.Discard, strings.Fields(strings.Repeat("goes on ", 10_000)))
			runtime.GC()
		})
	}
	all.Wait()
}

// Between two garbage collections, a small heap may grow by headroom bytes, but not beyond 72 MiB. A large heap may grow by 90 %.
func TestHeadroom(t *testing.T) {
	for live, want := range map[uint64]int{0: 5600, 1 << 20: 5600, 8 << 20: 700, 24 << 20: 200, 36 << 20: 100, 1 << 30: 90} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d live bytes: got %d %%, want %d", live, got, want)
		}
	}
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	percent := func() uint64 {
		now := []gometrics.Sample{{Name: "/gc/gogc:percent"}}
		gometrics.Read(now)
		return now[0].Value.Uint64()
	}
	await := func(condition string, isTrue func(uint64) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !isTrue(percent()); runtime.GC() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the GC percentage is %d", condition, percent())
			}
		}
	}
	func() {
		large := make([]byte, 4*headroom)
		defer runtime.KeepAlive(large)
		runtime.GC()
		tuneGC(100)
		await("with a large heap", func(p uint64) bool { return p == 90 })
	}()
	await("with a small heap", func(p uint64) bool { return p > 90 })
}

// If the loader has changed a page, the program's file does not contain its content. So such pages must stay in memory.
func TestProgramPages(t *testing.T) {
	mappingText := func(from, mode, file string, anonymous int, swapped ...int) string {
		return fmt.Sprintf("%s000-%sfff %s 00000000 fe:00 42    %s\nSize:   4 kB\nRss:    4 kB\nAnonymous:   %d kB\nAnonHugePages:   0 kB\nSwap:   %d kB\nVmFlags: rd mr\n",
			from, from, mode, file, anonymous, len(swapped))
	}
	smaps := mappingText("1", "r-xp", "/bin/keywicket", 0) + mappingText("2", "r--p", "/bin/keywicket", 0) +
		mappingText("3", "r--p", "/bin/keywicket", 4) + mappingText("4", "rw-p", "/bin/keywicket", 0) +
		mappingText("5", "r-xp", "/lib/libc.so.6", 0) + mappingText("6", "r--p", "/other/bin/keywicket", 0) + mappingText("7", "r--s", "/bin/keywicket", 0) +
		mappingText("8", "r--p", "/bin/keywicket", 0, 4)
	if got := programPages(strings.NewReader(smaps), "/bin/keywicket"); !slices.Equal(got, []mapping{{0x1000, 0x1fff}, {0x2000, 0x2fff}}) {
		t.Errorf("got %x", got)
	}
}
