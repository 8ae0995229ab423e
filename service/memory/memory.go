// Package memory limits and reduces the memory of a process.
package memory

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"strings"
	"syscall"
)

// reserve is the part of the memory limit that is not for the cache, in bytes. It is for five things: policies, their evaluation,
// remembered decisions, the recorded use of tokens, and connections. At their limits, these occupy half of the reserve. The other
// half is for garbage, because Go collects garbage more often if there is less space.
const reserve = 128 << 20

// Limit sets Go's memory limit to the size of the cache plus [reserve], unless GOMEMLIMIT is set.
func Limit(cacheBytes int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(cacheBytes + reserve)
	}
}

// Tune releases the memory that only the start-up needed. If GOGC is not set, Tune also starts to adjust the GC percentage after
// each garbage collection: see [gcPercent]. Call Tune once, at the end of the start-up.
func Tune() {
	release()
	if os.Getenv("GOGC") == "" {
		tuneGC(100)
	}
}

// Between two garbage collections, the heap may grow by headroom bytes, but not beyond a size of smallHeap bytes. A growth of 90
// % of the live heap is always permitted. Go's default is a growth of 100 %. With a small cache, the live heap has 10 MB. With
// Go's default, a sidecar would then spend a tenth of its time on garbage collection.
const (
	headroom  = 56 << 20
	smallHeap = 72 << 20
)

// tuneGC sets the GC percentage now and after each garbage collection. The parameter `percent` is the present GC percentage. If
// the new percentage differs from it by at most 5 %, tuneGC makes no change.
func tuneGC(percent int) {
	live := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	gometrics.Read(live)
	if target := gcPercent(live[0].Value.Uint64()); target < percent*19/20 || target > percent*21/20 {
		debug.SetGCPercent(target)
		percent = target
	}
	runtime.AddCleanup(new([16]byte), tuneGC, percent) // the array is garbage, so the next garbage collection calls tuneGC again
}

// gcPercent returns the GC percentage for a heap with the given number of live bytes. The result is between 90 and 5,600.
func gcPercent(live uint64) int {
	live = max(live, 1<<20)
	growth := min(headroom, smallHeap-min(live, smallHeap))
	return int(max(90, growth*100/live)) //nolint:gosec // 5,600 at most
}

// release returns two kinds of memory to the operating system: the garbage of the start-up, and the pages of the program's own
// file. When the program uses such a page again, the kernel loads the page from the file. The program never uses two thirds of
// the pages again. Without /proc, release does not return the pages.
func release() {
	debug.FreeOSMemory()
	const dontNeed = 4 // MADV_DONTNEED of Linux
	for _, m := range ownProgramPages() {
		// After an error, the pages stay in memory.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, dontNeed)
	}
}

type mapping struct{ from, to uintptr }

// ownProgramPages returns the [programPages] of this process, or nil without /proc.
func ownProgramPages() []mapping {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil
	}
	defer func() { _ = smaps.Close() }()
	return programPages(smaps, program)
}

// programPages returns the mappings that the kernel can load again from the program's file. These are read-only mappings without
// anonymous or swapped pages. In a position-independent program, the loader writes to constants before it makes them read-only.
// The mappings of such constants have anonymous pages, so programPages omits these mappings.
func programPages(smaps io.Reader, program string) (found []mapping) {
	var m mapping
	candidate := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		var from, to uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n == 3 {
			m = mapping{from, to}
			candidate = (mode == "r-xp" || mode == "r--p") && strings.HasSuffix(line, " "+program)
			continue
		}
		name, size, _ := strings.Cut(line, ":")
		switch name {
		case "Anonymous", "Swap":
			candidate = candidate && strings.TrimSpace(size) == "0 kB"
		case "VmFlags": // the last line of a mapping
			if candidate {
				found = append(found, m)
			}
		}
	}
	return found
}
