package storetest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/internal/testmain"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/schema"
)

// StopServer stops the tests' server, until restart is called or the test ends.
func StopServer(t *testing.T) (restart func()) {
	t.Helper()
	if err := Server.Stop(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	restart = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := Server.Restart(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(restart)
	return restart
}

// ServerWith starts a separate server with the settings.
func ServerWith(t *testing.T, settings map[string]string) *postgres.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := postgres.Start(ctx, postgres.Config{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// CrashBackend kills a backend of Postgres, as the kernel does when memory is exhausted.
func CrashBackend(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// DatabaseOf returns the name of the URL's database.
func DatabaseOf(databaseURL string) string { return Must(url.Parse(databaseURL)).Path[1:] }

// RevokeAll revokes all tokens.
const RevokeAll = `UPDATE keywicket.tokens SET revoked_at = clock_timestamp()`

// The tests of a package share one server. Each test has its own database, a copy of a migrated template.
var (
	Server    *postgres.Server
	ServerLog Log
	databases atomic.Int64
)

// Template is the name of a database that contains only the schema.
const Template = "template_keywicket"

// Main starts a server, runs the tests of a package on it, and ends the process. Call it in TestMain.
func Main(m *testing.M) {
	testmain.Exit(run(m))
}

func run(m *testing.M) (code int, err error) {
	// The tests of several packages run at the same time. So the server of each package uses a free port and its own folder.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	Server, err = postgres.Start(ctx, postgres.Config{Log: &ServerLog, Settings: map[string]string{
		"max_connections": "200",
	}})
	if err != nil {
		return 0, err
	}
	defer func() {
		if stop := Server.Close(); err == nil {
			err = stop
		}
	}()
	if err := requireVersion(ctx, os.Getenv("KEYWICKET_TEST_POSTGRES")); err != nil {
		return 0, err
	}
	if err := migrateTemplate(ctx); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// requireVersion returns an error if the server's major version is not the parameter `major`. The value comes from
// KEYWICKET_TEST_POSTGRES, which `make test-postgres` sets. If major is empty, every version is correct.
func requireVersion(ctx context.Context, major string) error {
	db, err := database.Open(Server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var version string
	if err := db.GetContext(ctx, &version, `SHOW server_version`); err != nil {
		return err
	}
	if major != "" && !strings.HasPrefix(version, major+".") {
		return fmt.Errorf("the server is Postgres %s, not %s", version, major)
	}
	fmt.Println("Postgres", version)
	return nil
}

func migrateTemplate(ctx context.Context) error {
	if err := Administer(ctx, "CREATE DATABASE "+Template); err != nil {
		return err
	}
	db, err := database.Open(Server.URL(Template))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	_, err = schema.Migrate(ctx, db)
	return err
}

// Administer runs a statement in the database postgres.
func Administer(ctx context.Context, statement string) error {
	db, err := database.Open(Server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// EmptyDatabase creates a database without the schema and returns its URL.
func EmptyDatabase(t testing.TB) string { return CopyOf(t, "template0") }

// CopyOf creates a copy of a database and returns its URL. The copy is dropped when the test ends.
func CopyOf(t testing.TB, original string) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	if err := Administer(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+original); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Administer(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return Server.URL(name)
}
