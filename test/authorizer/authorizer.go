// Package authorizer makes decisions inside the test's own process. It uses the sidecar's own code and the database of a
// deployment, but neither Envoy nor gRPC.
package authorizer

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/supabase"
)

// Authorizer decides with the built-in policy.
type Authorizer struct {
	Tables     map[string]table.Table // by API
	authorizer *authz.Authorizer
}

// Start returns an authorizer, which is closed when the deployment ends.
func Start(d *harness.Deployment) (*Authorizer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	directory, err := directory.Open(
		directory.Config{
			URL: d.DatabaseURL(), LookupTimeout: 10 * time.Second, // no client waits here, and CI is slow
			Cache: cache.Config{StalenessBound: harness.Staleness},
		},
		slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	d.OnClose(func() error { return directory.Close(context.Background()) })
	engine, err := policies.Load(ctx, policies.Config{})
	if err != nil {
		return nil, err
	}
	apis := maps.Clone(product.APIs)
	velocity := apis["velocity"]
	velocity.Session = authz.SessionFormat{Issuer: supabase.IssuerClaim, JWKSURL: d.Sessions.URL, HS256Secret: authz.Secret(d.Sessions.Secret)}
	apis["velocity"] = velocity
	sessions, err := session.New(session.Config{APIs: apis}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	d.OnClose(func() error { sessions.Close(); return nil })
	err = harness.Poll(ctx, "the public keys of the issuers are fetched", func() bool { _, err := sessions.Ready(); return err == nil })
	if err != nil {
		return nil, err
	}
	decide, err := authz.New(authz.Config{APIs: apis, Sessions: sessions}, directory, engine)
	return &Authorizer{engine.Tables(), decide}, err
}

// Check returns the decision for a request.
func (a *Authorizer) Check(t testing.TB, r harness.Request) harness.Response {
	t.Helper()
	in := authz.Request{API: r.API, Method: r.Method, Path: r.Path, Host: "api.example"}
	for _, h := range r.Header {
		in.Header = append(in.Header, authz.HeaderValue{Name: strings.ToLower(h[0]), Value: h[1]})
	}
	answer, err := a.authorizer.Check(t.Context(), in)
	if err != nil {
		t.Errorf("%s %s: %v", r.Method, r.Path, err)
	}
	if answer.Allow {
		return harness.Response{Outcome: "allow"}
	}
	return harness.Response{Outcome: string(answer.Code) + " " + string(answer.Reason), RequiredScopes: answer.RequiredScopes}
}
