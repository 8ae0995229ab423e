// Package pgbouncer runs a real PgBouncer between a test and its Postgres. An imitation would not show how a pooler affects
// prepared statements, session settings and a failover.
//
// The PgBouncer listens only on 127.0.0.1, and requires the same passwords as Postgres.
package pgbouncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/internal/modulefile"
	"github.com/keywicket/keywicket/internal/syncbuffer"
)

// Mode defines how long a client keeps a connection to Postgres.
type Mode string

// The modes that keywicket supports.
const (
	Transaction Mode = "transaction" // until the end of its transaction
	Session     Mode = "session"     // until it closes its own connection
)

// Config configures a pooler. Only Logins is required.
type Config struct {
	// Logins are URLs with passwords, one for each login that uses the pooler. All URLs have the same server. Their
	// databases have no effect.
	Logins []string
	// Mode is the pooling mode. Default: Transaction.
	Mode Mode
	// PoolSize is the maximum number of connections to Postgres for each login and database. Default: 5.
	PoolSize int
	// MaxClients is the maximum number of connections of all clients. Each connection is an open file. Default: 1000.
	MaxClients int
	// Settings are further settings of pgbouncer.ini. They cannot override the settings of this package.
	Settings map[string]string
	// Restart restarts the pooler if it exits unexpectedly, as an init system does. PgBouncer 1.18 sometimes exits with "bad server
	// state" when the server disappears.
	Restart bool
}

// Pooler is a running PgBouncer.
type Pooler struct {
	config  Config
	dir     string // its owner is the field user
	user    *process.User
	program string
	server  *url.URL // the first login; its host is the address of Postgres
	address string
	log     syncbuffer.Buffer

	mu       sync.Mutex
	process  *process.Process
	closed   bool
	restarts int
	failed   error // the error of a restart that failed
}

// startTimeout is the time limit of a start or stop, which normally takes some milliseconds.
const startTimeout = 30 * time.Second

var errNotFound = errors.New(`no PgBouncer: run "make .tools/pgbouncer", or set PGBOUNCER to its binary`)

// Start starts a pooler and returns when it listens. It does not check that Postgres can be reached.
func Start(ctx context.Context, config Config) (_ *Pooler, err error) {
	config.Mode = cmp.Or(config.Mode, Transaction)
	config.PoolSize = cmp.Or(config.PoolSize, 5)
	config.MaxClients = cmp.Or(config.MaxClients, 1000)
	if len(config.Logins) == 0 {
		return nil, errors.New("pgbouncer: no logins are given")
	}
	p := &Pooler{config: config}
	defer func() {
		if err != nil {
			_ = p.Close()
			err = fmt.Errorf("pgbouncer: %w", err)
		}
	}()
	if p.server, err = url.Parse(config.Logins[0]); err != nil {
		return nil, errors.New("a login's URL cannot be parsed") // the error err contains the URL with its password
	}
	// PgBouncer refuses to run as root, as Postgres does. PgBouncer's setting "user" is not used here. A process that changes
	// its user loses its parent-death signal, so PgBouncer would then outlive this process.
	if p.user, err = postgres.Owner(); err != nil {
		return nil, err
	}
	if p.dir, err = os.MkdirTemp("", "keywicket-pgbouncer-"); err != nil {
		return nil, err
	}
	if p.program, err = p.find(); err != nil {
		return nil, err
	}
	if err := p.writeLogins(); err != nil {
		return nil, err
	}
	if p.user != nil {
		if err := os.Chown(p.dir, int(p.user.UID), int(p.user.GID)); err != nil {
			return nil, err
		}
	}
	// Another process may use the free port before the pooler does.
	const tries = 3
	for try := 1; ; try++ {
		if err = p.run(ctx); err == nil && config.Restart {
			go p.supervise()
		}
		if err == nil || try == tries || !strings.Contains(err.Error(), "Address already in use") {
			return p, err
		}
	}
}

// find returns the path of PgBouncer. If the environment variable PGBOUNCER is set, find uses its value. Otherwise find
// searches PATH for pgbouncer. Then it searches the module's folder for .tools/pgbouncer.
func (p *Pooler) find() (string, error) {
	if path := os.Getenv("PGBOUNCER"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("PGBOUNCER=%s cannot be run: %w", path, errNotFound)
		}
		return filepath.Abs(found)
	}
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	path, ok := modulefile.Find(".tools/pgbouncer")
	if !ok {
		return "", errNotFound
	}
	if p.user == nil {
		return path, nil
	}
	// The pooler's user may lack access to the module's folder, so the program is copied.
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(p.dir, "pgbouncer")
	err = os.WriteFile(copied, text, 0o755) //nolint:gosec // a program must be executable
	return copied, cmp.Or(err, os.CopyFS(copied+".d", os.DirFS(path+".d")))
}

// writeLogins writes the names and passwords. The pooler uses them for its clients and for Postgres. Only the pooler's user
// can read the folder.
func (p *Pooler) writeLogins() error {
	var list strings.Builder
	quote := strings.NewReplacer(`"`, `""`)
	for _, login := range p.config.Logins {
		u, err := url.Parse(login)
		if err != nil || u.Host != p.server.Host {
			return errors.New("the logins have different servers")
		}
		password, _ := u.User.Password()
		fmt.Fprintf(&list, `"%s" "%s"`+"\n", quote.Replace(u.User.Username()), quote.Replace(password))
	}
	return os.WriteFile(filepath.Join(p.dir, "logins.txt"), []byte(list.String()), 0o644) //nolint:gosec // see above
}

// configure writes pgbouncer.ini. The file needs no ignore_startup_parameters for lib/pq and keywicket, because PgBouncer keeps
// application_name, client_encoding, datestyle and timezone for each client. PgBouncer refuses role and options. This is
// correct. If PgBouncer ignored role, a client would have the rights of its login, not of the role.
func (p *Pooler) configure(port string) error {
	settings := maps.Clone(p.config.Settings)
	if settings == nil {
		settings = map[string]string{}
	}
	maps.Copy(settings, map[string]string{
		"listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "",
		"auth_type": "scram-sha-256", "auth_file": filepath.Join(p.dir, "logins.txt"),
		"pool_mode": string(p.config.Mode), "default_pool_size": strconv.Itoa(p.config.PoolSize), "max_client_conn": strconv.Itoa(p.config.MaxClients),
		"log_connections": "0", "log_disconnections": "0", "log_stats": "0",
	})
	var ini strings.Builder
	fmt.Fprintf(&ini, "[databases]\n* = host=%s port=%s\n[pgbouncer]\n", p.server.Hostname(), cmp.Or(p.server.Port(), "5432"))
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&ini, "%s = %s\n", name, settings[name])
	}
	return os.WriteFile(filepath.Join(p.dir, "pgbouncer.ini"), []byte(ini.String()), 0o644) //nolint:gosec // only the pooler's user can read the folder
}

func (p *Pooler) run(ctx context.Context) (err error) {
	if p.address, err = freeAddress(); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(p.address)
	if err := p.configure(port); err != nil {
		return err
	}
	if err := p.startProcess(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.log.String(), "process up") { // PgBouncer logs this after it has begun to listen
		select {
		case <-tick.C:
		case <-p.process.Done():
			return cmp.Or(p.process.Err(), errors.New("the program exited during the start: "+p.log.String()))
		case <-ctx.Done():
			return fmt.Errorf("the program does not listen: %w: %s", ctx.Err(), p.log.String())
		}
	}
	return nil
}

var errClosed = errors.New("the pooler is closed")

func (p *Pooler) startProcess() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	p.process, err = process.Start(process.Config{
		Path: p.program, Args: []string{filepath.Join(p.dir, "pgbouncer.ini")}, Dir: p.dir, User: p.user, Output: &p.log,
		StopSignal: syscall.SIGKILL, // PgBouncer has no state to save. After other signals, each version waits for something different
	})
	return err
}

// supervise restarts the pooler each time it exits, until it is closed.
func (p *Pooler) supervise() {
	const pause = 50 * time.Millisecond // the new process may exit immediately
	for {
		p.mu.Lock()
		running := p.process
		p.mu.Unlock()
		<-running.Done()
		time.Sleep(pause)
		if err := p.startProcess(); err != nil {
			if !errors.Is(err, errClosed) {
				p.mu.Lock()
				p.failed = err
				p.mu.Unlock()
			}
			return
		}
		p.mu.Lock()
		p.restarts++
		p.mu.Unlock()
	}
}

// Restarts returns how often the pooler has exited unexpectedly.
func (p *Pooler) Restarts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// Address returns the pooler's host and port.
func (p *Pooler) Address() string { return p.address }

// URL returns databaseURL with the pooler's address. The login in databaseURL must be one of Config.Logins.
func (p *Pooler) URL(databaseURL string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", errors.New("pgbouncer: the URL cannot be parsed")
	}
	u.Host = p.address
	return u.String(), nil
}

// PID returns the pooler's process ID.
func (p *Pooler) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process.PID()
}

// Log returns the end of the pooler's log.
func (p *Pooler) Log() string {
	const maxBytes = 4000
	text := p.log.String()
	return text[max(0, len(text)-maxBytes):]
}

// Close stops the pooler, closes every connection through it, and removes its files. It returns an error if the pooler had exited
// unexpectedly. Closing twice is not an error.
func (p *Pooler) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	err := p.failed
	if p.process != nil {
		err = errors.Join(err, p.process.Stop(startTimeout), p.process.Err())
	}
	if p.dir != "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}
