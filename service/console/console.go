// Package console runs the console: the settings pages and the management API.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/api"
	"github.com/keywicket/keywicket/console/pages"
	"github.com/keywicket/keywicket/console/scanner"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/service/listener"
	"github.com/keywicket/keywicket/service/logger"
	"github.com/keywicket/keywicket/service/metrics"
	"github.com/keywicket/keywicket/service/operations"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/leaked"
)

// Run serves until a stop signal cancels the context. The console is a separate process with its own database login, so that no
// sidecar needs the right to create tokens.
func Run(ctx context.Context, cfg config.Config, version string, stderr io.Writer) error {
	url, err := cfg.DatabaseURL()
	if err != nil {
		return err
	}
	log, flush := logger.New(cfg.Log, stderr)
	defer flush()
	c, err := pagesConfig(cfg)
	if err != nil {
		return err
	}
	withPages := make(map[string]authz.API)
	managed := make(map[string]settings.API)
	for name, a := range c.APIs {
		withPages[name], managed[name] = cfg.APIs[name], a.API
	}
	sessions, err := session.New(session.Config{APIs: withPages}, log)
	if err != nil {
		return err
	}
	defer sessions.Close()
	c.Sessions = sessions
	store, err := console.Open(url)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	leakedTokens, err := scannerHandler(cfg.Console.Scanner, store, log)
	if err != nil {
		return err
	}
	s := settings.New(store)
	page, err := pages.New(c, s, store, log)
	if err != nil {
		return err
	}
	address, err := listener.Open("console.listen", cfg.Console.Listen)
	if err != nil {
		return err
	}
	m := metrics.NewConsole(sessions)
	mux := operations.Handler(operations.NewReadiness(ctx, store.Ready, nil, sessions), m.Handler())
	mux.Handle(c.Path, page.Handler())
	mux.Handle(c.Path+"/", page.Handler())
	if leakedTokens != nil {
		mux.Handle("POST "+api.Path+"/leaked", leakedTokens)
	}
	mux.Handle(api.Path+"/", api.New(managed, s, store, log).Handler())
	log.Info("serving the console", "listen", address.Addr().String(), "path", c.Path, "apis", strings.Join(slices.Sorted(maps.Keys(c.APIs)), ","), "version", version)
	background, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { cleanPeriodically(background, store, log) })
	tasks.Go(func() { m.CountNotices(background, store.Registry.Notices, log) })
	defer func() { stop(); tasks.Wait() }()
	return listener.ServeHTTP(ctx, address, mux, cfg.Listen.Drain, log)
}

// scannerHandler returns the handler of the endpoint for secret scanners, or nil if there is no endpoint.
func scannerHandler(c config.ConsoleScanner, store *console.Store, log *slog.Logger) (http.Handler, error) {
	if c.KeysURL == "" {
		return nil, nil
	}
	handler, err := scanner.New(scanner.Config{KeysURL: c.KeysURL}, func(ctx context.Context, a database.Actor, credentials []authz.Secret) ([]leaked.Credential, error) {
		return leaked.Revoke(ctx, store.Registry, a, credentials)
	}, log)
	if err != nil {
		return nil, fmt.Errorf("console.scanner.%w", err)
	}
	return handler, nil
}

// cleanPeriodically deletes old idempotency keys every 10 minutes, until the context is canceled.
func cleanPeriodically(ctx context.Context, store *console.Store, log *slog.Logger) {
	const interval = 10 * time.Minute
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := store.DeleteOldKeys(ctx); err != nil && ctx.Err() == nil {
			log.Warn("old idempotency keys could not be deleted; they will be deleted at the next attempt", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pagesConfig returns the configuration of the pages. An API has pages if console.apis.NAME.url is set.
func pagesConfig(cfg config.Config) (pages.Config, error) {
	c := pages.Config{Path: cfg.Console.Path, AddressLimit: cfg.Console.AddressLimit, APIs: make(map[string]pages.API)}
	tables, err := cfg.Tables()
	if err != nil {
		return c, err
	}
	for name, p := range cfg.Console.APIs {
		if p.URL == "" {
			continue
		}
		a, ok := cfg.APIs[name]
		switch {
		case !ok:
			return c, fmt.Errorf("console.apis: %q is not configured under apis; the configured APIs are %s", name, strings.Join(slices.Sorted(maps.Keys(cfg.APIs)), ", "))
		case a.Session.Issuer == "":
			return c, fmt.Errorf("console.apis.%s: the pages need the users' sessions: set apis.%[1]s.session.issuer", name)
		}
		if err := tables[name].CheckConsole(c.Path, a.Credentials); err != nil {
			return c, fmt.Errorf("policies: apis/%s/data.yaml: %w", name, err)
		}
		page := pages.API{
			API: settings.API{
				Name: name, Rules: issuance.Rules{Table: tables[name], Limits: a.TokenLimits}, Formats: a.OperatorFormats(), Sessions: a.Session,
				HasApps: slices.ContainsFunc(a.Credentials, func(f authz.CredentialFormat) bool { return f.Kind == authz.KindOAuthToken }),
			},
			URL: p.URL, Cookie: p.Cookie, SignIn: p.SignIn,
		}
		page.WorkspaceTokens, page.PersonalKeys, page.Apps = titles(page.API, p.Pages)
		c.APIs[name] = page
	}
	if len(c.APIs) == 0 {
		return c, errors.New("console.apis: no API has pages: set console.apis.NAME.url, cookie and sign_in")
	}
	return c, nil
}

// titles returns the titles of an API's pages. A title is empty if the API does not need the page.
func titles(a settings.API, p config.ConsolePages) (workspaceTokens, personalKeys, apps string) {
	for _, f := range a.Formats {
		switch f.Kind {
		case authz.KindWorkspaceToken:
			workspaceTokens = "API Tokens"
		case authz.KindWorkspaceKey:
			workspaceTokens = "API Keys"
		case authz.KindPersonalKey:
			personalKeys = "Account > Personal API Keys"
		}
	}
	if a.HasApps {
		apps = "OAuth Apps"
	}
	chosen := func(title string, builtin *string) {
		if *builtin != "" && title != "" {
			*builtin = title
		}
	}
	chosen(p.WorkspaceTokens, &workspaceTokens)
	chosen(p.PersonalKeys, &personalKeys)
	chosen(p.Apps, &apps)
	return workspaceTokens, personalKeys, apps
}
