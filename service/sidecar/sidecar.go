// Package sidecar runs the ext_authz sidecar.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/envoy"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/service/listener"
	"github.com/keywicket/keywicket/service/logger"
	"github.com/keywicket/keywicket/service/memory"
	"github.com/keywicket/keywicket/service/metrics"
	"github.com/keywicket/keywicket/service/operations"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/directory"
)

// Run serves until a stop signal cancels the context. It validates the whole configuration before it answers the first check. An
// unreachable database is not an error.
func Run(ctx context.Context, cfg config.Config, version string, stderr io.Writer) (err error) {
	url, err := cfg.DatabaseURL()
	if err != nil {
		return err
	}
	log, flush := logger.New(cfg.Log, stderr)
	defer flush()
	memory.Limit(int64(cfg.Cache.MaxBytes))
	engine, err := cfg.Engine(ctx)
	if ctx.Err() != nil {
		return nil // a stop signal arrived during the start-up, so there is nothing to drain
	}
	if err != nil {
		return err
	}
	for _, warning := range slices.Concat(cfg.Warnings(), engine.Warnings()) {
		log.Warn("configuration", "warning", warning)
	}
	for _, name := range engine.Ignored() {
		log.Debug("ignored in the policy folder: not part of a policy", "name", name)
	}
	sessionBytes := cfg.SessionBytes()
	directory, err := directory.Open(directory.Config{
		URL:                url,
		MaxOpenConnections: cfg.Database.MaxOpenConnections,
		LookupTimeout:      cfg.Database.LookupTimeout,
		FeedURL:            cfg.Database.FeedURL,
		NoHints:            !cfg.Database.Hints,
		Pooler:             cfg.Database.Pooler,
		Version:            version,
		Policies:           engine.Hash(),
		NoCache:            cfg.Cache.MaxBytes == 0,
		Cache: cache.Config{
			MaxBytes:       int64(cfg.Cache.MaxBytes) - sessionBytes,
			StalenessBound: cfg.Cache.StalenessBound,
			MaxAge:         cfg.Cache.MaxAge,
			StaleIfError:   cfg.Cache.StaleIfError,
		},
	}, log)
	if err != nil {
		return err
	}
	// The directory closes last, because Close writes the token usage of the last checks to the database.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Listen.Drain)
		defer cancel()
		err = errors.Join(err, directory.Close(ctx))
	}()
	sessions, err := session.New(session.Config{APIs: cfg.APIs, MaxBytes: sessionBytes}, log)
	if err != nil {
		return err
	}
	defer sessions.Close()
	m := metrics.NewSidecar(directory, sessions, engine)
	metadata, err := resourceMetadata(cfg.Issuer)
	if err != nil {
		return err
	}
	authorizer, err := authz.New(authz.Config{
		APIs: cfg.APIs, DefaultAPI: cfg.DefaultAPI, AllowedHeaders: cfg.AllowedHeaders, Sessions: sessions, ResourceMetadata: metadata,
		CountUse: directory.CountUse,
	}, m.MeasureDirectory(directory), engine)
	if err != nil {
		return err
	}
	server := envoy.NewServer(envoy.Config{
		ForwardCredential: cfg.ForwardCredential,
		Drain:             cfg.Listen.Drain,
		AllowSample:       cfg.Log.AllowSample,
		Observe:           m.Observe,
	}, authorizer, log)
	return serve(ctx, cfg, version, log, server, operations.NewReadiness(ctx, directory.Ready, directory.Warnings, sessions), m)
}

// resourceMetadata returns the URL of the metadata of the issuer's API, by the name of the API. Without the issuer's URL, it returns
// nothing.
func resourceMetadata(i config.Issuer) (map[string]string, error) {
	if i.URL == "" {
		return nil, nil
	}
	url, err := oauth.ResourceMetadataURL(i.URL)
	if err != nil {
		return nil, fmt.Errorf("issuer.%w", err)
	}
	return map[string]string{i.API: url}, nil
}

// serve answers checks until the context running is canceled, and during two phases after that: lame duck and drain. The
// operations server stops after the last check, so that probes and metrics are available in these phases too.
func serve(running context.Context, cfg config.Config, version string, log *slog.Logger, server *envoy.Server, ready operations.Readiness, m *metrics.Sidecar) error {
	checks, err := listener.Open("listen.grpc", cfg.Listen.GRPC)
	if err != nil {
		return err
	}
	probes, err := listener.Open("listen.operations", cfg.Listen.Operations)
	if err != nil {
		return errors.Join(err, checks.Close())
	}
	server.SetServing(false)
	log.Info("serving", "grpc", checks.Addr().String(), "operations", probes.Addr().String(),
		"apis", slices.Sorted(maps.Keys(cfg.APIs)), "version", version)
	group, ctx := errgroup.WithContext(running)
	grpcCtx, stopGRPC := context.WithCancel(context.WithoutCancel(running))
	defer stopGRPC()
	operationsCtx, stopOperations := context.WithCancel(context.WithoutCancel(running))
	defer stopOperations()
	group.Go(func() error {
		defer stopOperations()
		return server.Serve(grpcCtx, checks)
	})
	group.Go(func() error { return operations.Serve(operationsCtx, probes, operations.Handler(ready, m.Handler())) })
	group.Go(func() error {
		defer stopGRPC()
		if ready.Await(ctx) {
			memory.Tune()
			server.SetServing(true)
		}
		<-ctx.Done() // until a stop signal arrives or one of the servers fails
		if running.Err() != nil {
			lameDuck(server, cfg.Listen.LameDuck, log)
		}
		return nil
	})
	err = group.Wait()
	log.Info("stopped")
	return err
}
