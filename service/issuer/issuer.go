// Package issuer runs the OAuth 2.0 issuer.
package issuer

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/service/listener"
	"github.com/keywicket/keywicket/service/logger"
	"github.com/keywicket/keywicket/service/metrics"
	"github.com/keywicket/keywicket/service/operations"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/issuer"
)

// Run serves until a stop signal cancels the context. The issuer is a separate process with its own database login, so that no
// sidecar needs the right to create grants.
func Run(ctx context.Context, cfg config.Config, version string, stderr io.Writer) error {
	url, err := cfg.DatabaseURL()
	if err != nil {
		return err
	}
	log, flush := logger.New(cfg.Log, stderr)
	defer flush()
	o, err := oauthConfig(cfg)
	if err != nil {
		return err
	}
	api := cfg.APIs[cfg.Issuer.API]
	sessions, err := session.New(session.Config{APIs: map[string]authz.API{cfg.Issuer.API: api}}, log)
	if err != nil {
		return err
	}
	defer sessions.Close()
	m := metrics.NewIssuer(sessions)
	o.Verifier, o.Observe = sessions, m.Observe
	grants, err := issuer.Open(url)
	if err != nil {
		return err
	}
	defer func() { _ = grants.Close() }()
	server, err := oauth.NewServer(o, grants, log)
	if err != nil {
		return fmt.Errorf("issuer.%w", err)
	}
	address, err := listener.Open("issuer.listen", cfg.Issuer.Listen)
	if err != nil {
		return err
	}
	mux := operations.Handler(operations.NewReadiness(ctx, grants.Ready, nil, sessions), m.Handler())
	mux.Handle("/", server.Handler())
	log.Info("issuing", "listen", address.Addr().String(), "url", o.Issuer, "api", o.API, "version", version)
	cleanCtx, stop := context.WithCancel(ctx)
	cleaned := make(chan struct{})
	go func() {
		defer close(cleaned)
		cleanPeriodically(cleanCtx, grants, m, log)
	}()
	defer func() { stop(); <-cleaned }()
	return listener.ServeHTTP(ctx, address, mux, cfg.Listen.Drain, log)
}

// cleanPeriodically deletes codes and tokens that expired more than a day ago. It also deletes grants without codes and tokens.
// It starts immediately, and repeats the deletion every 10 minutes until the context is canceled.
func cleanPeriodically(ctx context.Context, grants *issuer.Issuer, m *metrics.Issuer, log *slog.Logger) {
	const interval = 10 * time.Minute
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		tokens, emptyGrants, err := grants.Clean(ctx)
		m.CountCleaned(tokens)
		switch {
		case err != nil && ctx.Err() == nil:
			log.Warn("expired codes and tokens could not be deleted; they will be deleted at the next attempt", "error", err)
		case tokens > 0:
			log.Info("expired codes and tokens were deleted", "codes_and_tokens", tokens, "grants", emptyGrants)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// oauthConfig returns the configuration of the issuer. The format of access tokens comes from the API's configuration, and the scopes
// come from the API's table.
func oauthConfig(cfg config.Config) (oauth.Config, error) {
	name := cfg.Issuer.API
	o := oauth.Config{
		Issuer: cfg.Issuer.URL, API: name, Sessions: cfg.APIs[name].Session, Cookie: cfg.Issuer.Cookie, SignInURL: cfg.Issuer.SignIn,
		AddressLimit: cfg.Issuer.AddressLimit, ClientLimit: cfg.Issuer.ClientLimit, ReuseWindow: cfg.Issuer.ReuseWindow,
	}
	tables, err := cfg.Tables()
	if err != nil {
		return o, err
	}
	for _, f := range cfg.APIs[name].Credentials {
		if f.Kind == authz.KindOAuthToken {
			o.Format = f
		}
	}
	switch {
	case o.Format.Prefix == "":
		return o, fmt.Errorf("issuer.api: %q has no credentials of the kind oauth_token; the configured APIs are %s", name, strings.Join(slices.Sorted(maps.Keys(cfg.APIs)), ", "))
	case cfg.APIs[name].Session.Issuer == "":
		return o, fmt.Errorf("apis.%s.session.issuer: empty: set the issuer of user sessions, because a user needs a session to consent", name)
	}
	t := tables[name]
	for _, level := range []table.Level{table.LevelWorkspace, table.LevelUser} {
		for _, scope := range t.AppScopes(level) {
			o.Scopes = append(o.Scopes, oauth.Scope{Name: scope, Description: t.Scopes[level][scope], Workspace: level == table.LevelWorkspace})
		}
	}
	return o, nil
}
