package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keywicket/keywicket/demo/envoyproxy"
	"github.com/keywicket/keywicket/demo/own"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/demo/upstream"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

// Config is the configuration of a Stack. The zero value uses free ports, and the running program as the sidecar.
type Config struct {
	// Keywicket is the binary to run as the sidecar. Default: the running program.
	Keywicket string
	// Environ adds KEYWICKET_… settings to the environment of the sidecar and the issuer.
	Environ []string
	// Sidecars is the number of sidecars behind Envoy. Default: 1.
	Sidecars int
	// If Issuer is true, the stack includes the OAuth issuer, and Environ must contain the issuer's sign-in settings. Without an
	// issuer, Envoy routes the issuer's paths to the live upstream. The live upstream returns each request in its response.
	Issuer bool
	// If Console is true, the stack includes the console, and Environ must contain the console's cookie and sign-in settings. Without a
	// console, Envoy routes the console's paths to the live upstream.
	Console bool
	// Own are a user's own policies. Default: the built-in policies of VelaFlows and Velocity.
	Own *own.Policies
	// VelaFlows and Velocity are the addresses of Envoy's listeners. Default: free ports on 127.0.0.1. With other APIs, the first
	// two APIs have these addresses.
	VelaFlows, Velocity string
	// EnvoyConfig changes Envoy's rendered configuration. Default: no change.
	EnvoyConfig func([]byte) []byte
	// Database returns the URLs that the sidecar uses for its look-ups and its change feed, such as those of a database proxy.
	// Default: the URL of the database itself.
	Database func(databaseURL string) (lookups, feed string)
	// PostgresSettings are parameters of the Postgres server, such as shared_preload_libraries.
	PostgresSettings map[string]string
	// Log receives the logs of all processes. Default: the file Stack.LogFile.
	Log io.Writer
}

// Stack is a running Postgres, upstreams, sidecars, Envoy and, if configured, an issuer.
type Stack struct {
	Postgres      *postgres.Server
	Live, Sandbox *upstream.Server
	Sidecar       *Sidecar // the first of Sidecars
	Sidecars      []*Sidecar
	Issuer        *Issuer  // the OAuth issuer; nil if Config.Issuer is false
	Console       *Console // nil if Config.Console is false
	Envoy         *envoyproxy.Proxy
	// URLs has the base URL of each API, without a slash at the end. VelaFlows and Velocity are two of them.
	URLs                map[string]string
	VelaFlows, Velocity string
	LogFile             string // the file with the logs of all processes; empty if Config.Log receives them
	ConfigFile          string // the file with Own.Configuration; empty without it

	folder *folder
	log    *os.File
}

// databaseName is the name of the stack's database.
const databaseName = "postgres"

// Start starts the stack, and returns when the stack can serve requests. If a part cannot start, Start stops the other parts, and
// returns an error with the remedy.
func Start(ctx context.Context, c Config) (_ *Stack, err error) {
	if _, err := envoyproxy.Find(); err != nil {
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
	if err := s.openFiles(&c); err != nil {
		return nil, err
	}
	s.Postgres, err = postgres.Start(ctx, postgres.Config{Dir: s.folder.path, Settings: c.PostgresSettings, Log: c.Log})
	if err != nil {
		return nil, err
	}
	logins, err := s.migrate(ctx)
	if err != nil {
		return nil, err
	}
	if s.Live, err = upstream.Start("live", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if s.Sandbox, err = upstream.Start("sandbox", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	return s, s.startServers(ctx, c, logins)
}

// openFiles opens the log file and writes the configuration file. It sets them in the configuration of the stack.
func (s *Stack) openFiles(c *Config) (err error) {
	if c.Log == nil {
		s.LogFile = filepath.Join(s.folder.path, "log")
		if s.log, err = os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return fmt.Errorf("open the log file: %w", err)
		}
		c.Log = s.log
	}
	if c.Own == nil {
		return nil
	}
	c.Environ = slices.Concat(c.Environ, c.Own.Environ)
	if len(c.Own.Configuration) > 0 {
		s.ConfigFile = filepath.Join(s.folder.path, "keywicket.yaml")
		if err := os.WriteFile(s.ConfigFile, c.Own.Configuration, 0o600); err != nil {
			return fmt.Errorf("write the configuration file: %w", err)
		}
		c.Environ = append(c.Environ, "KEYWICKET_CONFIG="+s.ConfigFile)
	}
	return nil
}

// DatabaseURL returns the database URL of an operator, who has all rights.
func (s *Stack) DatabaseURL() string { return s.Postgres.URL(databaseName) }

// Close stops all processes in the order in which a request passes through them, and removes every file.
func (s *Stack) Close() error {
	var errs []error
	if s.Envoy != nil {
		errs = append(errs, s.Envoy.Stop())
	}
	errs = append(errs, s.stopKeywicket())
	for _, u := range []*upstream.Server{s.Live, s.Sandbox} {
		if u != nil {
			errs = append(errs, u.Close())
		}
	}
	if s.Postgres != nil {
		errs = append(errs, s.Postgres.Close())
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
		s.log = nil
	}
	if s.folder != nil {
		errs = append(errs, s.folder.remove())
	}
	return errors.Join(errs...)
}

// Wait returns nil when the context is canceled. It returns an error when Envoy, the first sidecar, the issuer or the console ends by itself.
func (s *Stack) Wait(ctx context.Context) error {
	var issuer, console <-chan struct{} // stay nil without an issuer or a console; a nil channel is never ready
	if s.Console != nil {
		console = s.Console.Done()
	}
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
	case <-console:
		return cmp.Or(s.Console.Err(), errors.New("the console has ended"))
	}
}

// startServers starts the sidecars, the issuer and then Envoy. The sidecars and the issuer need Envoy's address, because users and
// apps reach the issuer through Envoy.
func (s *Stack) startServers(ctx context.Context, c Config, database logins) error {
	environ := c.Environ
	for {
		a, urls := envoyAddresses(c)
		c.Environ = environ
		if c.Issuer {
			c.Environ = append(slices.Clip(c.Environ), "KEYWICKET_ISSUER_URL="+urls["velocity"])
		}
		if c.Console {
			for name, url := range urls {
				c.Environ = append(slices.Clip(c.Environ), "KEYWICKET_CONSOLE_APIS_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"_URL="+url)
			}
		}
		if err := s.startKeywicket(ctx, c, database); err != nil {
			return err
		}
		a.Clusters = map[string]string{
			"keywicket": strings.Join(s.sidecarAddresses(), ","), "upstream_live": s.Live.Addr(), "upstream_sandbox": s.Sandbox.Addr(),
			"issuer": s.Live.Addr(), "console": s.Live.Addr(),
		}
		if s.Console != nil {
			a.Clusters["console"] = s.Console.Addr
		}
		if s.Issuer != nil {
			a.Clusters["issuer"] = s.Issuer.Addr
		}
		config, err := bootstrap.Render(a)
		if c.Own != nil {
			config, err = bootstrap.RenderAPIs(a, c.Own.Listeners())
		}
		if err != nil {
			return err
		}
		if c.EnvoyConfig != nil {
			config = c.EnvoyConfig(config)
		}
		s.Envoy, err = envoyproxy.Start(ctx, envoyproxy.Config{Config: config, Dir: s.folder.path, Log: c.Log})
		if err == nil {
			s.URLs, s.VelaFlows, s.Velocity = urls, urls["velaflows"], urls["velocity"]
			return nil
		}
		// If another process has taken a free port before Envoy listened on it, try other ports. If a configured port is in use,
		// return the error, because other ports are not allowed.
		configuredInUse := c.VelaFlows != "" && !isFree(c.VelaFlows) || c.Velocity != "" && !isFree(c.Velocity)
		if !errors.Is(err, syscall.EADDRINUSE) || configuredInUse || ctx.Err() != nil {
			return err
		}
		err = s.stopKeywicket()
		if s.Issuer, s.Console, s.Sidecar, s.Sidecars = nil, nil, nil, nil; err != nil {
			return err
		}
	}
}

// envoyAddresses returns the addresses of the admin interface and of each API's listener, and the APIs' base URLs. The first APIs get
// the configured addresses.
func envoyAddresses(c Config) (a bootstrap.Addresses, urls map[string]string) {
	names, configured := own.SampleAPIs, []string{c.VelaFlows, c.Velocity}
	if c.Own != nil {
		names = c.Own.Names()
	}
	if names[0] == "velocity" {
		configured = configured[1:]
	}
	free := freeAddresses(len(names) + 1)
	a = bootstrap.Addresses{Admin: free[len(names)], Listeners: make(map[string]string)}
	urls = make(map[string]string)
	for i, name := range names {
		address := free[i]
		if i < len(configured) && configured[i] != "" {
			address = configured[i]
		}
		a.Listeners[name], urls[name] = address, "http://"+address
	}
	return a, urls
}

// startKeywicket starts the sidecars and, if the configuration has them, the issuer and the console.
func (s *Stack) startKeywicket(ctx context.Context, c Config, database logins) (err error) {
	for range cmp.Or(c.Sidecars, 1) {
		running, err := startSidecar(ctx, c, database.sidecar)
		if err != nil {
			return err
		}
		s.Sidecars = append(s.Sidecars, running)
	}
	s.Sidecar = s.Sidecars[0]
	if c.Issuer {
		if s.Issuer, err = startIssuer(ctx, c, database.issuer); err != nil {
			return err
		}
	}
	if c.Console {
		s.Console, err = startConsole(ctx, c, database.console)
	}
	return err
}

// stopKeywicket stops the console, the issuer and the sidecars.
func (s *Stack) stopKeywicket() error {
	var errs []error
	if s.Console != nil {
		errs = append(errs, s.Console.Stop())
	}
	if s.Issuer != nil {
		errs = append(errs, s.Issuer.Stop())
	}
	for _, sidecar := range s.Sidecars {
		errs = append(errs, sidecar.Stop())
	}
	return errors.Join(errs...)
}

func (s *Stack) sidecarAddresses() (addresses []string) {
	for _, sidecar := range s.Sidecars {
		addresses = append(addresses, sidecar.GRPC)
	}
	return addresses
}

// freeAddresses returns n different addresses that are free now. It keeps all listeners open until it has found n addresses, so
// that it finds no address twice.
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

// environ returns this process's environment with the additions. It removes keywicket's settings, because they would affect the
// stack.
func environ(additions ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "KEYWICKET_") })
	return append(env, additions...)
}
