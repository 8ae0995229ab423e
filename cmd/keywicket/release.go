package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

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
		var anonymous int
		if n, _ := fmt.Sscanf(line, "Anonymous: %d kB", &anonymous); n == 1 && anonymous == 0 && candidate {
			found = append(found, m)
		}
	}
	return found
}
