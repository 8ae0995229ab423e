package bench

import (
	"fmt"
	"os"
	"testing"
)

// processRoles maps an environment variable to a function. If the variable is set, this test binary runs the function instead
// of the tests. The function's argument is the variable's value. Each role is a separate process, so that its CPU time is
// measured separately.
var processRoles = map[string]func(string) error{
	floodVariable:  func(address string) error { return flood(address, os.Stdin, os.Stdout) },
	noopVariable:   serveNoop,
	clientVariable: func(string) error { return serveLoad(os.Stdin, os.Stdout) },
}

func TestMain(m *testing.M) {
	for variable, role := range processRoles {
		if value := os.Getenv(variable); value != "" {
			if err := role(value); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}
