// Package testmain ends the process of a package's tests.
package testmain

import (
	"fmt"
	"os"
)

// Exit ends the process with the exit status of the tests. If err is not nil, Exit prints it and exits with 1. Callers pass the
// error of starting or stopping the servers of the tests.
func Exit(code int, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
