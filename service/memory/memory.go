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

// reserve is the part of the memory limit that is not for the cache, in bytes. It is for policies and their evaluation, remembered
// decisions, the recorded use of tokens, and connections. When all of these are at their limits, they occupy half of the reserve.
// The other half is for garbage. With less memory for garbage, Go would collect garbage more often.
const reserve = 128 << 20

// Limit sets Go's memory limit to the size of the cache plus [reserve], unless GOMEMLIMIT is set.
func Limit(cacheBytes int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(cacheBytes + reserve)
	}
}

// Tune releases the memory that only the start-up needed. Unless GOGC is set, Tune also keeps the GC percentage at [gcPercent] from
// now on. Call Tune once, at the end of the start-up.
func Tune() {
	release()
	if os.Getenv("GOGC") == "" {
		tuneGC(100)
	}
}

// Between two garbage collections, the heap may grow by headroom bytes, and to smallHeap bytes at most. If 90 % of the live heap is
// more than this growth, the heap may grow by 90 % instead. Go's default is 100 %. With a small cache, 10 MB are live. With Go's
// default, a sidecar would then spend a tenth of its time on collections.
const (
	headroom  = 56 << 20
	smallHeap = 72 << 20
)

// tuneGC sets the GC percentage now and after each following collection. The parameter percent is the current value. If the new
// value differs by at most 5 %, tuneGC does not change the percentage.
func tuneGC(percent int) {
	live := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	gometrics.Read(live)
	if target := gcPercent(live[0].Value.Uint64()); target < percent*19/20 || target > percent*21/20 {
		debug.SetGCPercent(target)
		percent = target
	}
	runtime.AddCleanup(new([16]byte), tuneGC, percent) // the array is garbage, so the next collection calls tuneGC
}

// gcPercent returns the GC percentage for a heap with this number of live bytes. The result is from 90 to 5,600.
func gcPercent(live uint64) int {
	live = max(live, 1<<20)
	growth := min(headroom, smallHeap-min(live, smallHeap))
	return int(max(90, growth*100/live)) //nolint:gosec // 5,600 at most
}

// release returns two kinds of memory to the system: the garbage of the start-up, and the pages of the program's own file. The
// kernel loads such a page again on its next use. Two thirds of the pages are never used again. Without /proc, the pages stay in
// memory.
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

// programPages returns the mappings that the kernel can load again from the program's file: read-only mappings without anonymous or
// swapped pages. The loader of a position-independent program writes to constants before it makes them read-only. The mappings of
// such constants have anonymous pages, so programPages omits them.
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
