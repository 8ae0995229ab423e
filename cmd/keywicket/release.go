package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

// releaseMemory gives back to the system what only the start of a sidecar needs: garbage, and the pages of the program's own
// file. The kernel maps a page again when it is used; two thirds of them never are. It does nothing for the file where there is
// no /proc.
func releaseMemory() {
	debug.FreeOSMemory()
	const dontNeed = 4 // MADV_DONTNEED of Linux
	for _, m := range programPages() {
		// An error changes nothing: the pages stay.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, dontNeed)
	}
}

type mapping struct{ from, to uintptr }

// programPages are the mappings of the program's file that nobody can write to, so that nothing but the file is in them.
func programPages() (found []mapping) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil
	}
	defer func() { _ = maps.Close() }()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var m mapping
		var mode string
		n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &m.from, &m.to, &mode)
		if n == 3 && (mode == "r-xp" || mode == "r--p") && strings.HasSuffix(lines.Text(), " "+program) {
			found = append(found, m)
		}
	}
	return found
}
