package demo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/demo/proxy"
	"github.com/keywicket/keywicket/demo/upstream"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/store"
)

// Config says how to run a Stack. The zero value runs on free ports, with the running program as the sidecar.
type Config struct {
	// Keywicket is the binary to run as the sidecar. Default: the running program.
	Keywicket string
	// Environ is what the sidecar and the issuer get beyond this process's environment: KEYWICKET_… settings.
	Environ []string
	// Sidecars is how many of them run behind Envoy. Default: 1.
	Sidecars int
	// Issuer has the issuer of OAuth run too, for which Environ has to say where users sign in. Without it its paths lead to the
	// live upstream, which shows what an issuer would get.
	Issuer bool
	// VelaFlows and Velocity are the addresses of Envoy's listeners. Default: free ports on 127.0.0.1.
	VelaFlows, Velocity string
	// EnvoyConfig edits the configuration that Envoy is given. Default: it stays as rendered.
	EnvoyConfig func([]byte) []byte
	// Database leads the sidecar to its database by way of somebody else, for its look-ups and for its change feed. Default:
	// straight.
	Database func(databaseURL string) (lookups, feed string)
	// PostgresSettings are settings of the server, such as shared_preload_libraries.
	PostgresSettings map[string]string
	// Log gets what all of them log. Default: nothing.
	Log io.Writer
}

// Stack is everything, running.
type Stack struct {
	Postgres      *postgres.Server
	Live, Sandbox *upstream.Server
	Sidecar       *Sidecar // the first of Sidecars
	Sidecars      []*Sidecar
	Issuer        *Issuer // of OAuth; nil where there is none
	Envoy         *proxy.Proxy
	// VelaFlows and Velocity are the base URLs of the two APIs, without a slash at the end.
	VelaFlows, Velocity string

	folder *folder
}

// database is the one that the stack lives in.
const database = "postgres"

// Start starts everything, and returns when a request would be answered. What cannot run is one error that says what to
// do, and leaves nothing running.
func Start(ctx context.Context, c Config) (_ *Stack, err error) {
	if _, err := proxy.Find(); err != nil {
		return nil, err
	}
	s := &Stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.folder, err = newFolder(); err != nil {
		return nil, err
	}
	s.Postgres, err = postgres.Start(ctx, postgres.Config{Dir: s.folder.path, Settings: c.PostgresSettings, Log: c.Log})
	if err != nil {
		return nil, err
	}
	sidecar, issuer, err := s.migrate(ctx)
	if err != nil {
		return nil, err
	}
	if s.Live, err = upstream.Start("live", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if s.Sandbox, err = upstream.Start("sandbox", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	for range cmp.Or(c.Sidecars, 1) {
		one, err := startSidecar(ctx, c, sidecar)
		if err != nil {
			return nil, err
		}
		s.Sidecars = append(s.Sidecars, one)
	}
	s.Sidecar = s.Sidecars[0]
	return s, s.startEnvoy(ctx, c, issuer)
}

// DatabaseURL is that of an operator, who may do everything.
func (s *Stack) DatabaseURL() string { return s.Postgres.URL(database) }

// Close stops what runs, in the order of a request's way, and removes every file.
func (s *Stack) Close() error {
	var errs []error
	if s.Envoy != nil {
		errs = append(errs, s.Envoy.Stop())
	}
	if s.Issuer != nil {
		errs = append(errs, s.Issuer.Stop())
	}
	for _, sidecar := range s.Sidecars {
		errs = append(errs, sidecar.Stop())
	}
	for _, u := range []*upstream.Server{s.Live, s.Sandbox} {
		if u != nil {
			errs = append(errs, u.Close())
		}
	}
	if s.Postgres != nil {
		errs = append(errs, s.Postgres.Close())
	}
	if s.folder != nil {
		errs = append(errs, s.folder.remove())
	}
	return errors.Join(errs...)
}

// Wait returns when the context ends, with nil, or when something has ended by itself.
func (s *Stack) Wait(ctx context.Context) error {
	var issuer <-chan struct{} // nil, without an issuer, is never ready
	if s.Issuer != nil {
		issuer = s.Issuer.Done()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-s.Envoy.Done():
		return cmp.Or(s.Envoy.Err(), errors.New("envoy has ended"))
	case <-s.Sidecar.Done():
		return cmp.Or(s.Sidecar.Err(), errors.New("the sidecar has ended"))
	case <-issuer:
		return cmp.Or(s.Issuer.Err(), errors.New("the issuer has ended"))
	}
}

// migrate makes the schema, and two logins, each of which has the rights of one role and no more.
func (s *Stack) migrate(ctx context.Context) (sidecar, issuer string, err error) {
	db, err := store.Open(s.DatabaseURL())
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := store.Migrate(ctx, db); err != nil {
		return "", "", err
	}
	sidecar, err = s.login(ctx, db, "demo_sidecar", "keywicket_sidecar")
	if err != nil {
		return "", "", err
	}
	issuer, err = s.login(ctx, db, "demo_issuer", "keywicket_issuer")
	return sidecar, issuer, err
}

func (s *Stack) login(ctx context.Context, db *sqlx.DB, name, role string) (string, error) {
	password := rand.Text()
	if _, err := db.ExecContext(ctx, `CREATE ROLE `+name+` LOGIN PASSWORD '`+password+`' IN ROLE `+role); err != nil {
		return "", fmt.Errorf("create the login %s: %w", name, err)
	}
	u, err := url.Parse(s.DatabaseURL())
	if err != nil {
		return "", err
	}
	u.User = url.UserPassword(name, password)
	return u.String(), nil
}

// startEnvoy starts Envoy, and before it the issuer, which has to know at which address users and apps find it: Envoy's.
func (s *Stack) startEnvoy(ctx context.Context, c Config, issuerLogin string) error {
	var checks []string
	for _, sidecar := range s.Sidecars {
		checks = append(checks, sidecar.GRPC)
	}
	for {
		free := freeAddresses(3)
		a := bootstrap.Addresses{
			Admin: free[0],
			Listeners: map[string]string{
				"velaflows": cmp.Or(c.VelaFlows, free[1]),
				"velocity":  cmp.Or(c.Velocity, free[2]),
			},
			Clusters: map[string]string{
				"keywicket": strings.Join(checks, ","), "upstream_live": s.Live.Addr(), "upstream_sandbox": s.Sandbox.Addr(),
				"issuer": s.Live.Addr(),
			},
		}
		velaflows, velocity := "http://"+a.Listeners["velaflows"], "http://"+a.Listeners["velocity"]
		if c.Issuer {
			var err error
			if s.Issuer, err = startIssuer(ctx, c, issuerLogin, velocity); err != nil {
				return err
			}
			a.Clusters["issuer"] = s.Issuer.Addr
		}
		config, err := bootstrap.Render(a)
		if err != nil {
			return err
		}
		if c.EnvoyConfig != nil {
			config = c.EnvoyConfig(config)
		}
		s.Envoy, err = proxy.Start(ctx, proxy.Config{Config: config, Dir: s.folder.path, Log: c.Log})
		if err == nil {
			s.VelaFlows, s.Velocity = velaflows, velocity
			return nil
		}
		// A free port may be taken before Envoy gets to it; one that was asked for will not become free by itself.
		asked := c.VelaFlows != "" && !isFree(c.VelaFlows) || c.Velocity != "" && !isFree(c.Velocity)
		if !errors.Is(err, syscall.EADDRINUSE) || asked || ctx.Err() != nil {
			return err
		}
		if s.Issuer != nil {
			err = s.Issuer.Stop()
			if s.Issuer = nil; err != nil {
				return err
			}
		}
	}
}

// freeAddresses are n that nobody listens on just now, each another one: they are all held until the last is found.
func freeAddresses(n int) []string {
	addresses := make([]string, n)
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(fmt.Sprintf("there is no free port on 127.0.0.1: %v", err))
		}
		defer func() { _ = l.Close() }()
		addresses[i] = l.Addr().String()
	}
	return addresses
}

func isFree(address string) bool {
	l, err := net.Listen("tcp", address)
	if err == nil {
		_ = l.Close()
	}
	return err == nil
}

// environ is this process's environment without keywicket's own settings, which would reach into the stack.
func environ(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "KEYWICKET_") })
	return append(env, more...)
}
