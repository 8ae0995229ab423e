package harness

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keywicket/keywicket/internal/testmain"
)

// Main is the body of a TestMain function. It starts the deployment that the package's tests share, calls the functions in
// prepare, runs the tests, and exits.
func Main(m *testing.M, d **Deployment, prepare ...func() error) {
	testmain.Exit(run(m, d, prepare))
}

func run(m *testing.M, d **Deployment, prepare []func() error) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if *d, err = startDeployment(ctx); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, (*d).close()) }()
	for _, f := range prepare {
		if err := f(); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// SkipIfShort skips the test if -short is set. Tests that take minutes call it. `make test-long` runs such tests.
func SkipIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow: run make test-long")
	}
}
