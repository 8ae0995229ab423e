package bench

import (
	"fmt"
	"os"
	"testing"
)

// roles maps an environment variable to the function that this test binary runs instead of tests if the variable is set. The
// argument is the variable's value. Each role is a separate process, so that its CPU time is measured separately.
var roles = map[string]func(string) error{
	floodVariable:  func(address string) error { return flood(address, os.Stdin, os.Stdout) },
	noopVariable:   serveNoop,
	clientVariable: func(string) error { return serveLoad(os.Stdin, os.Stdout) },
}

func TestMain(m *testing.M) {
	for variable, role := range roles {
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
