// Package postgres runs a temporary Postgres: a real server that is ready in under a second and leaves nothing behind. The demo and
// every test that touches the store use one. keywicket needs row locks, notifications, grants of roles and the error of a canceled
// query. No imitation of Postgres has all of these.
//
// The server listens only on 127.0.0.1 and requires a random password. It is fast because its data need not survive a crash.
package postgres

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	_ "github.com/lib/pq" // the driver for the readiness check

	"github.com/keywicket/keywicket/demo/process"
)

// Config is the configuration of a Server. The zero value is a server in a temporary folder on a free port.
type Config struct {
	// Dir is the folder in which the server creates its own folder. Empty: the system's temporary folder. If root calls Start,
	// the server runs as another user, who must be able to enter Dir.
	Dir string

	// Port is the port on 127.0.0.1. 0: a free port.
	Port int

	// Settings are the server's parameters, such as max_connections. They override this package's defaults, except for the port,
	// the listen address and the socket folder.
	Settings map[string]string

	// Log receives the output of initdb and of the server. Nil: the output is dropped. Errors always contain its last lines.
	Log io.Writer
}

// Server is a Postgres server that ends with this process. Its methods may be called from any goroutine. A lock serializes them.
type Server struct {
	config   Config
	bin      string
	user     *process.User
	dir      string // contains the data folder; user owns it
	port     int
	password string

	mu     sync.Mutex
	server *process.Process // nil: stopped
}

const (
	// stopGrace is the time limit of a shutdown. After this time, the server is killed.
	stopGrace = 10 * time.Second
	// readyTimeout limits the start of the server, which usually takes less than a second.
	readyTimeout = 30 * time.Second
)

// Start creates a database cluster, starts a server on it, and returns when the server accepts connections. It removes the
// variables of Postgres clients (PGPORT, PGSERVICE, …) from this process's environment. These variables are for the user's own
// databases. They would affect every connection to this server.
func Start(ctx context.Context, config Config) (*Server, error) {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "PG") && name != "PG_BIN" {
			if err := os.Unsetenv(name); err != nil {
				return nil, fmt.Errorf("postgres: %w", err)
			}
		}
	}
	return start(ctx, config, serverFolders)
}

func start(ctx context.Context, config Config, serverFolders []string) (_ *Server, err error) {
	if config.Port != 0 {
		if err := checkFree(config.Port); err != nil {
			return nil, err
		}
	}
	s := &Server{config: config, port: config.Port, password: rand.Text()}
	if s.user, err = Owner(); err != nil {
		return nil, err
	}
	if s.dir, err = home(config.Dir, s.user); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.bin, err = find(s.dir, serverFolders, config.Log); err != nil {
		return nil, err
	}
	if s.user != nil && checkReachable(s.bin) != nil {
		// The user cannot reach the server's programs, so copy them. For example, the command `make` may have downloaded the
		// programs into a folder that only root can enter.
		programs := filepath.Join(s.dir, "programs")
		if err := os.CopyFS(programs, os.DirFS(filepath.Dir(s.bin))); err != nil {
			return nil, fmt.Errorf("postgres: copy the server's programs to a folder that its user can enter: %w", err)
		}
		s.bin = filepath.Join(programs, "bin")
	}
	if err := s.init(ctx); err != nil {
		return nil, err
	}
	// Another process can take a free port before the server listens on it. Try again only once, because a second collision is
	// hardly a coincidence.
	for try := 0; ; try++ {
		if config.Port == 0 {
			if s.port, err = freePort(); err != nil {
				return nil, err
			}
		}
		err = s.run(ctx)
		if err == nil || config.Port != 0 || try > 0 || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// URL returns a connection string to a database of the server, as its superuser. The database "postgres" always exists.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", s.password), Host: s.address(), Path: "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// PID returns the server's process id, for tests that freeze or kill the server. It returns 0 after Stop.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return 0
	}
	return s.server.PID()
}

// Stop shuts the server down, keeps the data, and ends every connection. Calling Stop twice is not an error.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.halt()
}

// Restart starts the server with the same port and data. If the server is running, Restart stops it first. A stopped or killed
// server can be restarted too.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.halt(); err != nil {
		return err
	}
	return s.run(ctx)
}

// Close stops the server and removes its folder. Calling Close twice is not an error.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.halt(), remove(s.dir))
}

// remove removes the folder. It retries for two seconds, because child processes of an interrupted initdb may still write into the
// folder.
func remove(dir string) error {
	var err error
	for range 100 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func (s *Server) halt() error {
	if s.server == nil {
		return nil
	}
	err := s.server.Stop(stopGrace)
	s.server = nil
	return err
}

func (s *Server) init(ctx context.Context) error {
	// initdb reads a password only from a file. An argument would be visible to every user of the machine.
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(s.password), 0o600); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := chown(password, s.user); err != nil {
		return err
	}
	initdb, err := s.process("initdb", "--pgdata", s.data(), "--username=postgres", "--pwfile", password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		_ = initdb.Stop(0)
		return fmt.Errorf("postgres: initdb: %w", ctx.Err())
	case <-initdb.Done():
	}
	if err := initdb.Err(); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return os.Remove(password)
}

// run starts the server and waits until it accepts connections. The caller must hold the lock, or be the only user of s.
func (s *Server) run(ctx context.Context) error {
	settings := map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", // Close deletes the data
	}
	maps.Copy(settings, s.config.Settings)
	maps.Copy(settings, map[string]string{
		"listen_addresses": "127.0.0.1", "port": strconv.Itoa(s.port), "unix_socket_directories": "",
	})
	args := []string{"-D", s.data()}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	server, err := s.process("postgres", args...)
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, server); err != nil {
		_ = server.Stop(stopGrace)
		return err
	}
	s.server = server
	return nil
}

// awaitReady returns nil after the first successful log-in. It returns an error if the server ends or readyTimeout has passed.
func (s *Server) awaitReady(ctx context.Context, server *process.Process) error {
	db, err := sql.Open("postgres", s.URL("postgres")+"&connect_timeout=5")
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		pingErr := db.PingContext(ctx)
		if pingErr == nil {
			return nil
		}
		select {
		case <-server.Done():
			if err := server.Err(); err != nil {
				return fmt.Errorf("postgres: %w", err)
			}
			return errors.New("postgres: the server ended before it accepted connections")
		case <-ctx.Done():
			return fmt.Errorf("postgres: the server does not accept connections on %s: %w", s.address(), pingErr)
		case <-tick.C:
		}
	}
}

func (s *Server) process(program string, args ...string) (*process.Process, error) {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
	p, err := process.Start(process.Config{
		Path: filepath.Join(s.bin, program), Args: args, Env: append(env, "LC_ALL=C", "TZ=UTC"),
		Dir: s.dir, User: s.user, Output: s.config.Log,
		StopSignal: syscall.SIGINT, // a "fast" shutdown: Postgres ends the sessions and writes a checkpoint
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return p, nil
}

func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// checkFree returns a one-line error if the port is in use, before the server creates any file.
func checkFree(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("postgres: cannot listen on 127.0.0.1:%d: stop the process that listens there, or choose another port: %w",
			port, errors.Unwrap(err))
	}
	return l.Close()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("postgres: find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
