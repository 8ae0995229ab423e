package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/store"
)

type serveCommand struct {
	ListenGRPC       string `help:"Address of the ext_authz server: host:port or unix:///path." name:"listen-grpc" placeholder:"ADDRESS"`
	ListenOperations string `help:"Address of /livez and /readyz." name:"listen-operations" placeholder:"ADDRESS"`
	PoliciesDir      string `help:"Folder of policies, instead of those built in." name:"policies-dir" placeholder:"DIR"`
	LogLevel         string `help:"debug, info, warn or error." name:"log-level" enum:",debug,info,warn,error" default:"" placeholder:"LEVEL"`
}

func (c *serveCommand) apply(s *session) func(*config) {
	return func(to *config) {
		set(&to.Database.URL, s.databaseURL)
		set(&to.Listen.GRPC, c.ListenGRPC)
		set(&to.Listen.Operations, c.ListenOperations)
		set(&to.Policies.Dir, c.PoliciesDir)
		if c.LogLevel != "" {
			_ = to.Log.Level.UnmarshalText([]byte(c.LogLevel)) // one of the enum
		}
	}
}

func set(to *string, value string) {
	if value != "" {
		*to = value
	}
}

// Run serves until the process is told to stop. Everything that can be wrong with the configuration is found before
// the first check is answered; a database that is not there yet is not wrong.
func (c *serveCommand) Run(s *session) error {
	cfg, err := loadConfig(s.configFile, s.environ, c.apply(s))
	if err != nil {
		return err
	}
	url, err := cfg.databaseURL()
	if err != nil {
		return err
	}
	log := newLogger(cfg.Log, s.stderr)
	engine, err := loadPolicies(s.ctx, cfg)
	if err != nil {
		return err
	}
	directory, err := store.OpenDirectory(store.Config{
		URL:                url,
		MaxOpenConnections: cfg.Database.MaxOpenConnections,
		LookupTimeout:      cfg.Database.LookupTimeout,
	}, log)
	if err != nil {
		return err
	}
	authorizer, err := authz.New(authz.Config{
		APIs: cfg.APIs, DefaultAPI: cfg.DefaultAPI, AllowedHeaders: cfg.AllowedHeaders,
	}, directory, engine)
	if err == nil {
		err = serve(s.ctx, cfg, log, authorizer, directory)
	}
	// The store is closed last: the use of tokens in the checks just drained is still to be written.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), cfg.Listen.Drain)
	defer cancel()
	return errors.Join(err, directory.Close(ctx))
}

func serve(ctx context.Context, cfg config, log *slog.Logger, a *authz.Authorizer, d *store.Directory) error {
	checks, err := listen("listen.grpc", cfg.Listen.GRPC)
	if err != nil {
		return err
	}
	operations, err := listen("listen.operations", cfg.Listen.Operations)
	if err != nil {
		return errors.Join(err, checks.Close())
	}
	server := envoy.NewServer(envoy.Config{ForwardCredential: cfg.ForwardCredential, Drain: cfg.Listen.Drain}, a, log)
	log.Info("serving", "grpc", checks.Addr().String(), "operations", operations.Addr().String(),
		"apis", slices.Sorted(maps.Keys(cfg.APIs)), "version", version())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(ctx, checks) })
	group.Go(func() error { return serveOperations(ctx, operations, d) })
	err = group.Wait()
	log.Info("stopped")
	return err
}

func loadPolicies(ctx context.Context, cfg config) (*policies.Engine, error) {
	engine, err := policies.Load(ctx, cfg.Policies)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	return engine, checkTables(cfg, engine.Tables())
}

// checkTables: an API without a table would refuse everything, which nobody means.
func checkTables(cfg config, tables map[string]policies.Table) error {
	for _, name := range slices.Sorted(maps.Keys(cfg.APIs)) {
		if _, ok := tables[name]; !ok {
			return fmt.Errorf("apis.%s: the policies have no apis/%s/data.yaml; they have %s",
				name, name, strings.Join(slices.Sorted(maps.Keys(tables)), ", "))
		}
	}
	return nil
}

// listen takes host:port or unix:///path. A socket file that a killed process left behind is taken over; one that
// somebody still answers on is not.
func listen(key, address string) (net.Listener, error) {
	network, address := "tcp", address
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, address = "unix", path
		if conn, err := net.Dial(network, path); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s: %s is in use by another process", key, path)
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
	listener, err := net.Listen(network, address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use: stop what listens there, or choose another address", key, address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return listener, nil
}

func newLogger(c logConfig, to io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(to, options))
	}
	return slog.New(slog.NewJSONHandler(to, options))
}
