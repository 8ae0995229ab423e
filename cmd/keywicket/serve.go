package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/directory"
)

type serveCommand struct {
	ListenGRPC       string `help:"Address of the ext_authz server: host:port or unix:///path." name:"listen-grpc" placeholder:"ADDRESS"`
	ListenOperations string `help:"Address of /livez, /readyz and /metrics: host:port or unix:///path." name:"listen-operations" placeholder:"ADDRESS"`
	PoliciesDir      string `help:"Folder of policies. Default: the built-in policies." name:"policies-dir" placeholder:"DIR"`
	LogLevel         string `help:"Log level: debug, info, warn or error." name:"log-level" enum:",debug,info,warn,error" default:"" placeholder:"LEVEL"`
}

// apply returns a function that sets the values of the flags in a configuration.
func (c *serveCommand) apply(s *invocation) func(*config) {
	return func(to *config) {
		set(&to.Database.URL, s.databaseURL)
		set(&to.Listen.GRPC, c.ListenGRPC)
		set(&to.Listen.Operations, c.ListenOperations)
		set(&to.Policies.Dir, c.PoliciesDir)
		set(&to.Log.Level, c.LogLevel)
	}
}

// set assigns value unless it is empty.
func set(to *string, value string) {
	if value != "" {
		*to = value
	}
}

// Run serves until the process receives a signal to stop. It validates all of the configuration before the sidecar answers the first
// check. An unreachable database is not an error.
func (c *serveCommand) Run(s *invocation) (err error) {
	ignoreHangup()
	cfg, err := loadConfig(s.configFile, s.environ, c.apply(s))
	if err != nil {
		return err
	}
	url, err := cfg.databaseURL()
	if err != nil {
		return err
	}
	log, flush := newLogger(cfg.Log, s.stderr)
	defer flush()
	limitMemory(int64(cfg.Cache.MaxBytes))
	engine, err := loadPolicies(s.ctx, cfg)
	if s.ctx.Err() != nil {
		return nil // a signal to stop during the start-up: there is nothing to drain
	}
	if err != nil {
		return err
	}
	for _, warning := range slices.Concat(cfg.warnings(), engine.Warnings()) {
		log.Warn("configuration", "warning", warning)
	}
	verifications := cfg.sessionBytes()
	d, err := directory.Open(directory.Config{
		URL:                url,
		MaxOpenConnections: cfg.Database.MaxOpenConnections,
		LookupTimeout:      cfg.Database.LookupTimeout,
		FeedURL:            cfg.Database.FeedURL,
		NoHints:            !cfg.Database.Hints,
		Pooler:             cfg.Database.Pooler,
		Version:            version(),
		Policies:           engine.Hash(),
		NoCache:            cfg.Cache.MaxBytes == 0,
		Cache: cache.Config{
			MaxBytes:       int64(cfg.Cache.MaxBytes) - verifications,
			StalenessBound: cfg.Cache.StalenessBound,
			MaxAge:         cfg.Cache.MaxAge,
			StaleIfError:   cfg.Cache.StaleIfError,
		},
	}, log)
	if err != nil {
		return err
	}
	// The store closes last, because Close writes the token usage of the drained checks.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), cfg.Listen.Drain)
		defer cancel()
		err = errors.Join(err, d.Close(ctx))
	}()
	sessions, err := session.New(session.Config{APIs: cfg.APIs, MaxBytes: verifications}, log)
	if err != nil {
		return err
	}
	defer sessions.Close()
	m := newMetrics(d, sessions, engine)
	authorizer, err := authz.New(authz.Config{
		APIs: cfg.APIs, DefaultAPI: cfg.DefaultAPI, AllowedHeaders: cfg.AllowedHeaders, Sessions: sessions,
	}, measuredDirectory{d, m}, engine)
	if err != nil {
		return err
	}
	server := envoy.NewServer(envoy.Config{
		ForwardCredential: cfg.ForwardCredential,
		Drain:             cfg.Listen.Drain,
		AllowSample:       cfg.Log.AllowSample,
		Observe:           m.observe,
	}, authorizer, log)
	return serve(s.ctx, cfg, log, server, newReadiness(s.ctx, d.Ready, d.Notices, sessions), m)
}

// ignoreHangup keeps a server running after its terminal closes.
func ignoreHangup() { signal.Ignore(syscall.SIGHUP) }

// sessionBytes returns the part of the cache's bytes for verified sessions: at most an eighth, and 0 if no API has sessions. At least
// [cache.MinBytes] stay for the cache itself.
func (c config) sessionBytes() int64 {
	for _, api := range c.APIs {
		if api.Session.Issuer != "" {
			return min(int64(c.Cache.MaxBytes)/8, max(0, int64(c.Cache.MaxBytes)-cache.MinBytes))
		}
	}
	return 0
}

// serve answers checks until the context running ends, and during the two phases after that: lame duck and drain. The operations
// server stops after the last check, so that probes and metrics cover these phases too.
func serve(running context.Context, cfg config, log *slog.Logger, server *envoy.Server, ready readiness, m *metrics) error {
	checks, err := listen("listen.grpc", cfg.Listen.GRPC)
	if err != nil {
		return err
	}
	probes, err := listen("listen.operations", cfg.Listen.Operations)
	if err != nil {
		return errors.Join(err, checks.Close())
	}
	server.SetServing(false)
	log.Info("serving", "grpc", checks.Addr().String(), "operations", probes.Addr().String(),
		"apis", slices.Sorted(maps.Keys(cfg.APIs)), "version", version())
	group, ctx := errgroup.WithContext(running)
	serving, drain := context.WithCancel(context.WithoutCancel(running))
	defer drain()
	draining, drained := context.WithCancel(context.WithoutCancel(running))
	defer drained()
	group.Go(func() error {
		defer drained()
		return server.Serve(serving, checks)
	})
	group.Go(func() error { return serveOperations(draining, probes, operations(ready, m)) })
	group.Go(func() error {
		defer drain()
		if awaitReady(ctx, ready) {
			tuneMemory()
			server.SetServing(true)
		}
		<-ctx.Done() // a signal to stop, or the error of a server
		if running.Err() != nil {
			lameDuck(server, cfg.Listen.LameDuck, log)
		}
		return nil
	})
	err = group.Wait()
	log.Info("stopped")
	return err
}

// loadPolicies loads the policies and checks them against the APIs of the configuration.
func loadPolicies(ctx context.Context, cfg config) (*policies.Engine, error) {
	engine, err := policies.Load(ctx, cfg.Policies)
	if err == nil {
		err = engine.Uses().CheckDeclared(cfg.APIs)
	}
	if err != nil {
		return nil, policyError(cfg, err)
	}
	return engine, checkTables(cfg, engine.Tables())
}

// policyError adds the folder of the policies to each line of err. An error of a policy has one line for each problem.
func policyError(cfg config, err error) error {
	return linesError{err, fmt.Sprintf("policies (%s): ", cmp.Or(cfg.Policies.Dir, "built in"))}
}

// checkTables returns an error for an API without a table, and for an unknown scope of an API's sessions. Without a table, the API
// would deny every request; a session with an unknown scope would have no rights. Both are mistakes.
func checkTables(cfg config, tables map[string]table.Table) error {
	for _, name := range slices.Sorted(maps.Keys(cfg.APIs)) {
		if _, ok := tables[name]; !ok {
			return fmt.Errorf("apis.%s: the policies have no apis/%s/data.yaml; they have %s",
				name, name, strings.Join(slices.Sorted(maps.Keys(tables)), ", "))
		}
		session := cfg.APIs[name].Session
		for _, scope := range session.Scopes {
			if _, ok := tables[name].Scope(scope); !ok && session.Issuer != "" {
				return fmt.Errorf("apis.%s.session.scopes: %q is not a scope of %s; scopes are %s", name, scope, name,
					strings.Join(tables[name].ScopeNames(table.LevelWorkspace, table.LevelUser), ", "))
			}
		}
	}
	return nil
}

// listen opens a listener on host:port or unix:///path. key is the configuration key for error messages.
func listen(key, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return listenUnix(key, path)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("%s: %q is neither host:port nor unix:///path", key, address)
	}
	listener, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use: stop what listens there, or choose another address", key, address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return listener, nil
}

// listenUnix opens a listener on a Unix socket. It replaces the socket of a killed process: a socket that accepts no connection. It
// replaces no other file.
func listenUnix(key, path string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: %q is not an absolute path: write unix:///path", key, path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s: %s exists and is not a socket: choose another path", key, path)
		}
		if conn, err := net.Dial("unix", path); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s: %s is in use: stop what listens there, or choose another path", key, path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("%s: remove the unused socket %s: %w", key, path, err)
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return listener, nil
}
