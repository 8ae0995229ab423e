package pgbouncer_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/test/pgbouncer"
)

// connect opens one connection through the pooler. The parameter `parameters` contains further startup parameters.
func connect(t *testing.T, p *pgbouncer.Pooler, loginURL string, parameters ...string) (*sql.Conn, error) {
	t.Helper()
	through, err := p.URL(loginURL)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("postgres", strings.Join(append([]string{through}, parameters...), "&"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := db.Conn(ctx)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func value(t *testing.T, c *sql.Conn, query string) (v string) {
	t.Helper()
	if err := c.QueryRowContext(t.Context(), query).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPooler(t *testing.T) {
	server, err := postgres.Start(t.Context(), postgres.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	loginURL := server.URL("postgres")
	start := func(t *testing.T, mode pgbouncer.Mode) *pgbouncer.Pooler {
		temporary := t.TempDir()
		if err := errors.Join(os.Chmod(temporary, 0o755), os.Chmod(filepath.Dir(temporary), 0o755)); err != nil { // the pooler may run as another user
			t.Fatal(err)
		}
		t.Setenv("TMPDIR", temporary)
		p, err := pgbouncer.Start(t.Context(), pgbouncer.Config{Logins: []string{loginURL}, Mode: mode, PoolSize: 1, Settings: map[string]string{
			"query_wait_timeout": "0.5",
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for range 2 {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("process %d still exists after Close: %v", p.PID(), err)
			}
			if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
				t.Errorf("Close did not remove the files %v, %v", left, err)
			}
			if t.Failed() {
				t.Log(p.Log())
			}
		})
		return p
	}

	t.Run("in transaction mode, successive clients use the same connection to Postgres", func(t *testing.T) {
		p := start(t, pgbouncer.Transaction)
		var backends [2]string
		for i := range backends {
			c, err := connect(t, p, loginURL)
			if err != nil {
				t.Fatal(err)
			}
			backends[i] = value(t, c, `SELECT pg_backend_pid()`)
		}
		if backends[0] != backends[1] {
			t.Errorf("the clients had different connections to Postgres: %v", backends)
		}
	})
	t.Run("in session mode, a client keeps its connection to Postgres", func(t *testing.T) {
		p := start(t, pgbouncer.Session)
		c, err := connect(t, p, loginURL)
		if err != nil {
			t.Fatal(err)
		}
		value(t, c, `SELECT 1`)
		other, err := connect(t, p, loginURL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.ExecContext(t.Context(), `SELECT 1`); err == nil {
			t.Error("a second client got the same connection to Postgres")
		}
		value(t, c, `SELECT 1`)
	})
	t.Run("clients keep their startup settings", func(t *testing.T) {
		p := start(t, pgbouncer.Transaction)
		one, err := connect(t, p, loginURL, "application_name=one", "timezone=UTC")
		if err != nil {
			t.Fatal(err)
		}
		other, err := connect(t, p, loginURL, "application_name=other", "timezone=Asia%2FTokyo")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			for c, want := range map[*sql.Conn]string{one: "one UTC UTF8 ISO, MDY", other: "other Asia/Tokyo UTF8 ISO, MDY"} {
				const query = `SELECT concat_ws(' ', current_setting('application_name'), current_setting('timezone'),
					current_setting('client_encoding'), current_setting('datestyle'))`
				if got := value(t, c, query); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		}
		for _, refused := range []string{"role=pg_monitor", "options=-c%20role%3Dpg_monitor"} {
			if _, err := connect(t, p, loginURL, refused); err == nil {
				t.Errorf("the parameter %s is not refused", refused)
			}
		}
	})
	t.Run("a wrong password is refused", func(t *testing.T) {
		p := start(t, pgbouncer.Transaction)
		u, err := url.Parse(loginURL)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("postgres", "guess")
		if _, err := connect(t, p, u.String()); err == nil {
			t.Error("the login is not refused")
		}
	})
}

func TestErrorExplainsHowToInstallPgBouncer(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PATH", "")
	for _, set := range []string{"", "/nonexistent/pgbouncer"} {
		t.Setenv("PGBOUNCER", set)
		_, err := pgbouncer.Start(t.Context(), pgbouncer.Config{Logins: []string{"postgres://u:p@127.0.0.1:1/d"}})
		if err == nil || !strings.Contains(err.Error(), `run "make .tools/pgbouncer"`) {
			t.Errorf("PGBOUNCER=%s: %v", set, err)
		}
	}
}
