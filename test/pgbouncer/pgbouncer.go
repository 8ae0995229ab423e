// Package pgbouncer runs a real PgBouncer between a test and its Postgres. What a pooler does to prepared statements, to
// settings of a session and to a failover is what no imitation has.
//
// It listens on 127.0.0.1 alone, and asks for the passwords that Postgres asks for.
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
	"github.com/keywicket/keywicket/internal/fetched"
	"github.com/keywicket/keywicket/internal/record"
)

// Mode is for how long a client has a connection to Postgres.
type Mode string

// The two that keywicket can be behind.
const (
	Transaction Mode = "transaction" // until the end of its transaction
	Session     Mode = "session"     // until it closes its own connection
)

// Config says what the pooler is in front of. Only Logins is required.
type Config struct {
	// Logins are URLs of one server, one for each login that comes through the pooler. They have passwords. Which database
	// they name does not matter.
	Logins []string
	// Mode. Default: Transaction.
	Mode Mode
	// PoolSize is how many connections to Postgres each login has at most, for each database. Default: 5.
	PoolSize int
	// MaxClients is how many connections all clients have together at most. Each is an open file. Default: 1000.
	MaxClients int
	// Settings are further ones of pgbouncer.ini, and go before those of this package.
	Settings map[string]string
	// Restart starts it again where it ends by itself, as an init system does: 1.18 now and then ends with "bad server state"
	// when the server goes away.
	Restart bool
}

// Pooler is a running PgBouncer.
type Pooler struct {
	config  Config
	dir     string // belongs to user
	user    *process.User
	program string
	server  *url.URL // one of the logins
	address string
	log     record.Log

	mu       sync.Mutex
	process  *process.Process
	closed   bool
	restarts int
	failed   error // to start again
}

// patience is how long a start may take; it takes some milliseconds.
const patience = 30 * time.Second

var errNone = errors.New(`no PgBouncer: run "make .tools/pgbouncer", or set PGBOUNCER to its binary`)

// Start returns when the pooler listens. Whether Postgres can be reached is not asked.
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
		return nil, errors.New("a login's URL cannot be parsed") // the error would quote it
	}
	// PgBouncer refuses to run as root, as Postgres does. By its own setting "user" it would outlive this process: the kernel
	// then forgets that it is to end with its parent.
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
	// A free port can be taken by somebody else before the pooler has it.
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

// find returns the PgBouncer to run: the environment's PGBOUNCER, else pgbouncer on PATH, else .tools/pgbouncer of the module.
func (p *Pooler) find() (string, error) {
	if path := os.Getenv("PGBOUNCER"); path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("PGBOUNCER=%s cannot be run: %w", path, errNone)
		}
		return filepath.Abs(found)
	}
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	path, ok := fetched.Find(".tools/pgbouncer")
	if !ok {
		return "", errNone
	}
	if p.user == nil {
		return path, nil
	}
	// The user may not be able to enter the folder of the module.
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(p.dir, "pgbouncer")
	err = os.WriteFile(copied, text, 0o755) //nolint:gosec // it is run
	return copied, cmp.Or(err, os.CopyFS(copied+".d", os.DirFS(path+".d")))
}

// writeLogins writes the names and passwords. The pooler uses them both for its clients and for Postgres. The folder is for its
// user alone.
func (p *Pooler) writeLogins() error {
	var list strings.Builder
	quote := strings.NewReplacer(`"`, `""`)
	for _, login := range p.config.Logins {
		u, err := url.Parse(login)
		if err != nil || u.Host != p.server.Host {
			return errors.New("the logins are not all of one server")
		}
		password, _ := u.User.Password()
		fmt.Fprintf(&list, `"%s" "%s"`+"\n", quote.Replace(u.User.Username()), quote.Replace(password))
	}
	return os.WriteFile(filepath.Join(p.dir, "logins.txt"), []byte(list.String()), 0o644) //nolint:gosec // see above
}

// configure writes pgbouncer.ini. Nothing of what lib/pq and keywicket send at the start of a connection has to be ignored
// (ignore_startup_parameters): PgBouncer keeps application_name, client_encoding, datestyle and timezone for each client. It
// refuses role and options, as it should: a login that has to take a role would have the rights of the login without it.
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
	return os.WriteFile(filepath.Join(p.dir, "pgbouncer.ini"), []byte(ini.String()), 0o644) //nolint:gosec // as the logins
}

func (p *Pooler) run(ctx context.Context) (err error) {
	if p.address, err = freeAddress(); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(p.address)
	if err := p.configure(port); err != nil {
		return err
	}
	if err := p.begin(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.log.String(), "process up") { // it listens by then
		select {
		case <-tick.C:
		case <-p.process.Done():
			return cmp.Or(p.process.Err(), errors.New("it ended at once: "+p.log.String()))
		case <-ctx.Done():
			return fmt.Errorf("it does not listen: %w: %s", ctx.Err(), p.log.String())
		}
	}
	return nil
}

var errClosed = errors.New("the pooler is closed")

func (p *Pooler) begin() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	p.process, err = process.Start(process.Config{
		Path: p.program, Args: []string{filepath.Join(p.dir, "pgbouncer.ini")}, Dir: p.dir, User: p.user, Output: &p.log,
		StopSignal: syscall.SIGKILL, // it has nothing to lose, and its versions differ in what they wait for
	})
	return err
}

// supervise starts the pooler again whenever it has ended, until it is closed.
func (p *Pooler) supervise() {
	const pause = 50 * time.Millisecond // it may end at once
	for {
		p.mu.Lock()
		running := p.process
		p.mu.Unlock()
		<-running.Done()
		time.Sleep(pause)
		if err := p.begin(); err != nil {
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

// Restarts is how often it has ended by itself.
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

// Address is host and port of the pooler.
func (p *Pooler) Address() string { return p.address }

// URL leads through the pooler to where the URL leads. Its login has to be one of Config.Logins.
func (p *Pooler) URL(databaseURL string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", errors.New("pgbouncer: the URL cannot be parsed")
	}
	u.Host = p.address
	return u.String(), nil
}

// PID is the pooler's process id.
func (p *Pooler) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process.PID()
}

// Log is the last of what the pooler has logged.
func (p *Pooler) Log() string {
	const most = 4000
	text := p.log.String()
	return text[max(0, len(text)-most):]
}

// Close ends the pooler and every connection through it, and removes its files. The error says also that the pooler had ended
// before. Closing twice is no error.
func (p *Pooler) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	err := p.failed
	if p.process != nil {
		err = errors.Join(err, p.process.Stop(patience), p.process.Err())
	}
	if p.dir != "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}
