package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store"
)

type issuerCommand struct{}

// Run serves until the process is told to stop. It is a process of its own, with a login of its own, so that a sidecar never
// holds the right to grant anything.
func (c *issuerCommand) Run(s *invocation, cfg config) error {
	outliveTerminal()
	url, err := cfg.databaseURL()
	if err != nil {
		return err
	}
	log, flush := newLogger(cfg.Log, s.stderr)
	defer flush()
	o, err := issuerOf(cfg)
	if err != nil {
		return err
	}
	api := cfg.APIs[cfg.Issuer.API]
	sessions, err := session.New(session.Config{APIs: map[string]authz.API{cfg.Issuer.API: api}}, log)
	if err != nil {
		return err
	}
	defer sessions.Close()
	m := newIssuerMetrics(sessions)
	o.Verifier, o.Observe = sessions, m.observe
	grants, err := store.OpenIssuer(url)
	if err != nil {
		return err
	}
	defer func() { _ = grants.Close() }()
	server, err := oauth.NewServer(o, grants, log)
	if err != nil {
		return fmt.Errorf("issuer.%w", err)
	}
	listener, err := listen("issuer.listen", cfg.Issuer.Listen)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", server.Handler())
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { respond(w, http.StatusOK, map[string]any{"live": true}) })
	mux.HandleFunc("GET /readyz", readinessOf(s.ctx, grants.Ready, nil, sessions).answer)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	log.Info("issuing", "listen", listener.Addr().String(), "url", o.Issuer, "api", o.API, "version", version())
	// The longest that anything here takes is three steps in the database, of three seconds each.
	web := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
	}
	ctx, stop := context.WithCancel(s.ctx)
	cleaned := make(chan struct{})
	go func() {
		defer close(cleaned)
		keepClean(ctx, grants, m, log)
	}()
	defer func() { stop(); <-cleaned }()
	ended := make(chan error, 1)
	defer context.AfterFunc(s.ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), cfg.Listen.Drain)
		defer cancel()
		ended <- web.Shutdown(ctx)
	})()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	err = <-ended
	log.Info("stopped")
	return err
}

// keepClean deletes what is over, now and then, until the context ends.
func keepClean(ctx context.Context, grants *store.Issuer, m issuerMetrics, log *slog.Logger) {
	const often = 10 * time.Minute
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		tokens, emptied, err := grants.Clean(ctx)
		m.cleaned.Add(float64(tokens))
		switch {
		case err != nil && ctx.Err() == nil:
			log.Warn("what is over could not be deleted; it is tried again", "error", err)
		case tokens > 0:
			log.Info("what is over was deleted", "codes_and_tokens", tokens, "grants", emptied)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// issuerOf reads what the issuer has to know of its API: the kind of its access tokens, and which scopes apps can ask for:
// all but the overrides, which would be everything.
func issuerOf(cfg config) (oauth.Config, error) {
	name := cfg.Issuer.API
	o := oauth.Config{
		Issuer: cfg.Issuer.URL, API: name, Sessions: cfg.APIs[name].Session, Cookie: cfg.Issuer.Cookie, SignIn: cfg.Issuer.SignIn,
		AddressLimit: cfg.Issuer.AddressLimit, ClientLimit: cfg.Issuer.ClientLimit,
	}
	tables, err := policies.Tables(cfg.Policies.FS())
	if err == nil {
		err = checkTables(cfg, tables)
	}
	if err != nil {
		return o, policyError(cfg, err)
	}
	for _, f := range cfg.APIs[name].Credentials {
		if f.Kind == authz.KindOAuthToken {
			o.Format = f
		}
	}
	switch {
	case o.Format.Prefix == "":
		return o, fmt.Errorf("issuer.api: %q has no credentials of the kind oauth_token; APIs are %s", name, strings.Join(slices.Sorted(maps.Keys(cfg.APIs)), ", "))
	case cfg.APIs[name].Session.Issuer == "":
		return o, fmt.Errorf("apis.%s.session.issuer: without sessions nobody can consent", name)
	}
	table := tables[name]
	levels := []policies.Level{policies.LevelWorkspace, policies.LevelUser}
	for _, level := range levels {
		for _, scope := range table.ScopeNames(level) {
			if !slices.ContainsFunc(levels, func(l policies.Level) bool { return table.IsOverride(scope, l) }) {
				o.Scopes = append(o.Scopes, oauth.Scope{Name: scope, Description: table.Scopes[level][scope], Workspace: level == policies.LevelWorkspace})
			}
		}
	}
	return o, nil
}
