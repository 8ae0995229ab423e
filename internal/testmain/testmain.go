// Package testmain ends the process of a package's tests.
package testmain

import (
	"fmt"
	"os"
)

// Exit ends the process with the exit status of the tests. If the set-up or the end of the package's servers failed, Exit prints the
// error and exits with 1.
func Exit(code int, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
