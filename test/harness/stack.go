package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/test/program"
)

// StartStack starts a stack for one test. A test needs its own stack if it stops the database or the sidecar, or changes the
// configuration, because this would affect other tests. The sidecar is built without the race detector, because its start
// with the detector takes five times the CPU.
func StartStack(t testing.TB, c demo.Config) *demo.Stack {
	t.Helper()
	c.Keywicket = buildPath(t, program.Keywicket)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := demo.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// StartRaceStack is like StartStack, but the sidecar has the race detector if the test has the race detector. The test fails if
// the sidecar has a data race.
func StartRaceStack(t testing.TB, c demo.Config) *demo.Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, end, err := startWithRaceDetector(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// StartDemo starts a complete deployment for one test, with a sign-in page, an issuer and users.
func StartDemo(t testing.TB, c demo.Config) *demo.Demo {
	t.Helper()
	c.Keywicket = buildPath(t, program.Keywicket)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := demo.New(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// buildPath builds a program, and returns its path.
func buildPath(t testing.TB, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startWithRaceDetector starts a stack. Its sidecar has the race detector if the test has the race detector. end stops the
// stack, and returns an error that shows the data races.
func startWithRaceDetector(ctx context.Context, c demo.Config) (s *demo.Stack, end func() error, err error) {
	if c.Keywicket, err = program.RaceKeywicket(); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "keywicket-race-")
	if err != nil {
		return nil, nil, err
	}
	// Without atexit_sleep_ms=0, the race detector delays the exit of the sidecar by a second.
	c.Environ = slices.Concat(c.Environ, []string{"GORACE=log_path=" + filepath.Join(dir, "race") + " atexit_sleep_ms=0"})
	races := func() error {
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		for _, file := range found {
			text, readErr := os.ReadFile(file)
			err = errors.Join(err, readErr, fmt.Errorf("the sidecar has a data race: %s", text))
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	if s, err = demo.Start(ctx, c); err != nil {
		return nil, nil, errors.Join(err, races())
	}
	return s, func() error { return errors.Join(s.Close(), races()) }, nil
}

// OpenDatabase opens the stack's database as its superuser.
func OpenDatabase(t testing.TB, s *demo.Stack) *sqlx.DB {
	t.Helper()
	db, err := database.Open(s.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// StatementCounter returns a function that counts executed statements of the sidecar's login. The parameter `condition` is a
// condition for rows of pg_stat_statements, in SQL. Postgres must run with shared_preload_libraries=pg_stat_statements.
func StatementCounter(t *testing.T, s *demo.Stack) (counted func(condition string) int) {
	t.Helper()
	db := OpenDatabase(t, s)
	if _, err := db.ExecContext(t.Context(), `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`); err != nil {
		t.Fatal(err)
	}
	return func(condition string) (calls int) {
		t.Helper()
		err := db.GetContext(t.Context(), &calls, `SELECT COALESCE(sum(calls), 0) FROM pg_stat_statements
			WHERE userid IN (SELECT oid FROM pg_roles WHERE pg_has_role(oid, 'keywicket_sidecar', 'member') AND NOT rolsuper)
			AND (`+condition+`)`)
		if err != nil {
			t.Fatal(err)
		}
		return calls
	}
}
