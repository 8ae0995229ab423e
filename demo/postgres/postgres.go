// Package postgres runs a temporary Postgres: a real server that is ready in under a second and leaves nothing behind. The
// demo and every test that touches the store use one. keywicket relies on row locks, notices, role grants and the
// error of a cancelled query, and no imitation has these.
//
// It listens on 127.0.0.1 alone, asks for a password made up for this one server, and trades durability for speed.
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

	_ "github.com/lib/pq" // the driver that readiness is asked with

	"github.com/keywicket/keywicket/demo/process"
)

// Config says where the server lives. The zero value is a server in a temporary folder on a free port.
type Config struct {
	// Dir is the folder in which the server makes one of its own. Empty: the system's temporary folder. A server that
	// root starts runs as somebody else, who has to be able to pass through Dir.
	Dir string

	// Port on 127.0.0.1. 0: a free one.
	Port int

	// Settings are the server's parameters, such as max_connections, and go before those of this package.
	Settings map[string]string

	// Log gets the output of initdb and of the server. Nil drops it; an error carries its last lines all the same.
	Log io.Writer
}

// Server is a Postgres that belongs to this process. Its methods may be called from any goroutine, one at a time takes
// effect.
type Server struct {
	config   Config
	bin      string
	user     *process.User
	dir      string // holds the data folder, and belongs to user
	port     int
	password string

	mu     sync.Mutex
	server *process.Process // nil: stopped
}

const (
	// stopGrace is how long a shutdown may take before the server is killed.
	stopGrace = 10 * time.Second
	// answerTimeout is how long the server may take until it answers; it takes less than a second.
	answerTimeout = 30 * time.Second
)

// Start makes a database cluster, starts a server on it, and returns when it answers. It takes the variables of Postgres's
// clients (PGPORT, PGSERVICE, …) out of this process's environment: they are meant for the user's own databases, and
// every connection to this one would follow them.
func Start(ctx context.Context, config Config) (*Server, error) {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "PG") && name != "PG_BIN" {
			if err := os.Unsetenv(name); err != nil {
				return nil, fmt.Errorf("postgres: %w", err)
			}
		}
	}
	return start(ctx, config, distribution)
}

func start(ctx context.Context, config Config, distribution []string) (_ *Server, err error) {
	if config.Port != 0 {
		if err := free(config.Port); err != nil {
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
	if s.bin, err = find(s.dir, distribution, config.Log); err != nil {
		return nil, err
	}
	if s.user != nil && passable(s.bin) != nil {
		// As where make fetches one, beneath a folder of root's.
		programs := filepath.Join(s.dir, "programs")
		if err := os.CopyFS(programs, os.DirFS(filepath.Dir(s.bin))); err != nil {
			return nil, fmt.Errorf("postgres: copy the server to where its user can run it: %w", err)
		}
		s.bin = filepath.Join(programs, "bin")
	}
	if err := s.init(ctx); err != nil {
		return nil, err
	}
	// A free port can be taken by somebody else before the server has it; a second collision in a row is no accident.
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

// URL is a connection string to a database of the server, as its superuser. The database "postgres" is always there.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", s.password), Host: s.address(), Path: "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// PID is the server's process id, for tests that freeze or kill it. It is 0 after Stop.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return 0
	}
	return s.server.PID()
}

// Stop shuts the server down, which ends every connection, and keeps the data. Stopping twice is no error.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.halt()
}

// Restart starts the server on the same port and data, whether it runs, was stopped, or has died.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.halt(); err != nil {
		return err
	}
	return s.run(ctx)
}

// Close stops the server and removes everything of it. Closing twice is no error.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.halt(), remove(s.dir))
}

// remove tries again for a while: what an interrupted initdb has started may still be writing.
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
	// initdb takes a password from a file alone; an argument would be visible to every user of the machine.
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(s.password), 0o600); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := give(password, s.user); err != nil {
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

// run starts the server and waits until it answers. The caller holds the lock or is alone.
func (s *Server) run(ctx context.Context) error {
	settings := map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", // the data is thrown away
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
	if err := s.answers(ctx, server); err != nil {
		_ = server.Stop(stopGrace)
		return err
	}
	s.server = server
	return nil
}

// answers waits for the first successful log-in, or for the server's end.
func (s *Server) answers(ctx context.Context, server *process.Process) error {
	db, err := sql.Open("postgres", s.URL("postgres")+"&connect_timeout=5")
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		refused := db.PingContext(ctx)
		if refused == nil {
			return nil
		}
		select {
		case <-server.Done():
			if err := server.Err(); err != nil {
				return fmt.Errorf("postgres: %w", err)
			}
			return errors.New("postgres: the server ended before it answered")
		case <-ctx.Done():
			return fmt.Errorf("postgres: the server does not answer on %s: %w", s.address(), refused)
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
		StopSignal: syscall.SIGINT, // a "fast" shutdown: ends the sessions, writes a checkpoint
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return p, nil
}

func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// free tells a port in use in one line, before anything has been made.
func free(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("postgres: cannot listen on 127.0.0.1:%d: stop what listens there, or choose another port: %w",
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
