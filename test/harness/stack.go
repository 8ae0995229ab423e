package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/database"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/binary"
)

// StartStack starts a stack for one test. Tests need their own for what other tests would notice: a database that stops, a
// sidecar that ends, another configuration.
func StartStack(t testing.TB, c demo.Config) *demo.Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, end, err := start(ctx, c)
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

// StartDemo starts a complete deployment for one test: a sign-in, an issuer, users.
func StartDemo(t testing.TB, c demo.Config) *demo.Demo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	end, err := watchRaces(&c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
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

func start(ctx context.Context, c demo.Config) (s *demo.Stack, end func() error, err error) {
	races, err := watchRaces(&c)
	if err != nil {
		return nil, nil, err
	}
	if s, err = demo.Start(ctx, c); err != nil {
		return nil, nil, errors.Join(err, races())
	}
	return s, func() error { return errors.Join(s.Close(), races()) }, nil
}

// watchRaces makes the stack run keywicket with the race detector. end returns an error that shows the data races it found.
func watchRaces(c *demo.Config) (end func() error, err error) {
	if c.Keywicket, err = binary.Race(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "keywicket-race-")
	if err != nil {
		return nil, err
	}
	c.Environ = append(c.Environ, "GORACE=log_path="+filepath.Join(dir, "race")+" "+noSleep)
	return func() error {
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		for _, file := range found {
			text, readErr := os.ReadFile(file)
			err = errors.Join(err, readErr, fmt.Errorf("keywicket has a data race: %s", text))
		}
		return errors.Join(err, os.RemoveAll(dir))
	}, nil
}

// noSleep: a program with the race detector waits a second before it exits, unless GORACE sets another time.
const noSleep = "atexit_sleep_ms=0"

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

// Statements returns a function that counts executed statements of the sidecar's login. The condition is SQL. The server needs
// shared_preload_libraries=pg_stat_statements.
func Statements(t *testing.T, s *demo.Stack) (counted func(condition string) int) {
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
