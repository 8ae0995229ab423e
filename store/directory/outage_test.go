package directory_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestLookupsSucceedAfterARestart(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	for name, concurrent := range map[string]int{"sequential": 1, "concurrent": 32} {
		t.Run(name, func(t *testing.T) {
			d := f.Directory(t, nil)
			f.OccupyConnections(t, d)() // open eight connections, and leave them idle in the pool
			storetest.StopServer(t)()
			var wg sync.WaitGroup
			for range concurrent {
				wg.Go(func() {
					for range 20 {
						if got, err := d.Lookup(t.Context(), storetest.Lookup(key)); err != nil || got.Denial != "" {
							t.Errorf("%+v, %v", got, err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// A load balancer may discard a connection, and answer the next byte on this connection with a TCP reset.
func TestLookupsSucceedAfterAConnectionReset(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	p := storetest.NewProxy(t, f.URL)
	d := f.Directory(t, func(c *directory.Config) { c.URL = p.URL(c.URL) })
	f.OccupyConnections(t, d)() // open eight connections, and leave them idle in the pool
	p.FaultOnOpenConnections(storetest.Reset)
	for range 20 {
		if got, err := d.Lookup(t.Context(), storetest.Lookup(key)); err != nil || got.Denial != "" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if n := p.Faults(); n < 8 {
		t.Errorf("only %d of 8 connections were reset: the test proves nothing", n)
	}
}

func TestLookupsFailOnlyWhilePostgresIsDown(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	before := f.Directory(t, nil)
	storetest.Must(before.Lookup(t.Context(), storetest.Lookup(key)))

	restart := storetest.StopServer(t)
	during := f.Directory(t, nil) // Open succeeds although the database is down
	for _, d := range []*directory.Directory{before, during} {
		started := time.Now()
		found, err := d.Lookup(t.Context(), storetest.Lookup(key))
		if took := time.Since(started); err == nil || took > time.Second {
			t.Errorf("after %v: %+v, %v", took, found, err)
		}
		if found.Denial != "" || found.Principal.ID != "" {
			t.Errorf("the call returned an error, and also the answer %+v", found)
		}
		if err := d.Ready(t.Context()); err == nil {
			t.Error("Ready returned no error")
		}
		digest := key.Digest()
		password, _ := storetest.Must(url.Parse(f.URL)).User.Password()
		for _, secret := range []string{key.Reveal(), password, fmt.Sprintf("%x", digest[:]), fmt.Sprint(digest)} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error contains a secret: %v", err)
			}
		}
	}
	restart()
	for _, d := range []*directory.Directory{before, during} {
		storetest.Eventually(t, "the directory is ready", func() bool { return d.Ready(t.Context()) == nil })
		if got, err := d.Lookup(t.Context(), storetest.Lookup(key)); err != nil || got.Denial != "" {
			t.Errorf("after the restart: %+v, %v", got, err)
		}
	}
}

// A server that hangs accepts bytes but sends nothing. Such a server does not answer cancel requests either.
func TestLookupTimeoutAppliesIfTheServerHangs(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	const timeout = 400 * time.Millisecond
	d := f.Directory(t, func(c *directory.Config) { c.LookupTimeout = timeout })
	unconnected := f.Directory(t, func(c *directory.Config) { c.LookupTimeout = timeout })
	cached := f.CachedDirectory(t, func(c *directory.Config) { c.LookupTimeout = timeout }) // with a cache, one caller loads the answer, and the other callers wait for this caller
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
	storetest.Must(cached.Lookup(t.Context(), storetest.Lookup("sk_live_other")))

	var pids []int
	if err := f.DB.SelectContext(t.Context(), &pids, `SELECT pid FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	pids = append(pids, storetest.Server.PID())
	resume := sync.OnceFunc(func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	})
	t.Cleanup(resume)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	for name, d := range map[string]*directory.Directory{"connected": d, "not yet connected": unconnected, "with a cache": cached} {
		started := time.Now()
		_, err := d.Lookup(t.Context(), storetest.Lookup(key))
		if took := time.Since(started); !errors.Is(err, context.DeadlineExceeded) || took >= 2*timeout {
			t.Errorf("%s: after %v: %v", name, took, err)
		}
	}
	resume()
	for _, d := range []*directory.Directory{d, unconnected, cached} {
		storetest.Eventually(t, "look-ups succeed after the server continues", func() bool {
			got, err := d.Lookup(t.Context(), storetest.Lookup(key))
			return err == nil && got.Denial == ""
		})
	}
}

// A server that has become unreachable sends no TCP reset. The connection to this server must not stay in the pool until the TCP
// timeout.
func TestSilentConnectionIsClosed(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	p := storetest.NewProxy(t, f.URL)
	d := f.Directory(t, func(c *directory.Config) {
		c.URL, c.MaxOpenConnections, c.LookupTimeout = p.URL(c.URL), 1, 200*time.Millisecond
	})
	storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
	p.FaultOnOpenConnections(storetest.Silence)
	if _, err := d.Lookup(t.Context(), storetest.Lookup(key)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	storetest.Eventually(t, "look-ups use a new connection", func() bool {
		_, err := d.Lookup(t.Context(), storetest.Lookup(key))
		return err == nil
	})
}

func TestErrorForAWrongURLIsOneLineWithoutThePassword(t *testing.T) {
	for name, c := range map[string]struct{ url, want string }{
		"empty":                    {"", "no database URL"},
		"space in host":            {"postgres://u:geheim@ho st/db", "cannot be parsed"},
		"slash in password":        {"postgres://u:geheim/x@host/db", "cannot be parsed"},
		"percent sign in password": {"postgres://u:geheim%zz@host/db", "cannot be parsed"},
		"another database system":  {"mysql://u:geheim@host/db", "not for Postgres"},
		"wrong sslmode":            {"postgres://u:geheim@host/db?sslmode=maybe", "sslmode"},
		"wrong port":               {"postgres://u:geheim@host:99999/db", "port"},
		"space in key=value pairs": {"host=h password=ge heim", "cannot be parsed"},
		"unclosed quote":           {"host=h password='geheim", "cannot be parsed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := directory.Open(directory.Config{URL: c.url}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "heim")) {
				t.Errorf("the error contains the password: %v", err)
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	for want, c := range map[string]directory.Config{
		"max_open_connections": {URL: "postgres://localhost", MaxOpenConnections: -1},
		"lookup_timeout":       {URL: "postgres://localhost", LookupTimeout: -1},
		"usage_interval":       {URL: "postgres://localhost", UsageInterval: -1},
	} {
		if _, err := directory.Open(c, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
