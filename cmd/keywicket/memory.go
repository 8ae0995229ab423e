package main

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

// memoryBeside is what Go may take beside the cache before it collects garbage more often than it otherwise would: policies
// and their evaluation, remembered decisions, the usage of tokens, connections. Half of it is live when all of these are at their bounds.
const memoryBeside = 128 << 20

// limitMemory sets Go's memory limit by the size of the cache, unless GOMEMLIMIT is set.
func limitMemory(cacheBytes int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(cacheBytes + memoryBeside)
	}
}

// settleMemory is for when the start is over. Unless GOGC is set, the heap then grows as [gcPercent] says.
func settleMemory() {
	releaseMemory()
	if os.Getenv("GOGC") == "" {
		keepHeadroom(100)
	}
}

// A small heap grows by headroom between two collections of garbage, but not beyond smallHeap; a large one grows by 90 %. Go's
// default is 100 %: with little in the cache, 10 MB are live, and a tenth of a sidecar's time would be spent on them.
const (
	headroom  = 56 << 20
	smallHeap = 72 << 20
)

// keepHeadroom sets the percentage of growth after each collection. percent is the present one.
func keepHeadroom(percent int) {
	live := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	gometrics.Read(live)
	if wanted := gcPercent(live[0].Value.Uint64()); wanted < percent*19/20 || wanted > percent*21/20 {
		debug.SetGCPercent(wanted)
		percent = wanted
	}
	runtime.AddCleanup(new([16]byte), keepHeadroom, percent) // the array is garbage, so the next collection calls it
}

func gcPercent(live uint64) int {
	live = max(live, 1<<20)
	growth := min(headroom, smallHeap-min(live, smallHeap))
	return int(max(90, growth*100/live)) //nolint:gosec // 5,600 at most
}

// releaseMemory gives back to the system what only the start of a sidecar needs: garbage, and the pages of the program's own
// file. The kernel maps a page again when it is used; two thirds of them never are. Where there is no /proc, the pages stay.
func releaseMemory() {
	debug.FreeOSMemory()
	const dontNeed = 4 // MADV_DONTNEED of Linux
	for _, m := range ownProgramPages() {
		// An error changes nothing: the pages stay.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, dontNeed)
	}
}

type mapping struct{ from, to uintptr }

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

// programPages are the mappings of the program's file that hold nothing but the file: nobody can write to them, and nobody has. A
// loader writes to constants of a position-independent program before it makes them read-only, and these have anonymous pages.
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
