// Package test runs keywicket from outside: the real binary, a real Envoy, a real Postgres. cases/ tests the sentences of
// the API documents. matrix_test.go tests every route of both tables.
package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/upstream"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/cache"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/supabase"
)

// world is shared by all tests of this package. It is created once, because its parts take seconds to start.
var world struct {
	binary     string
	stack      *demo.Stack
	registry   *registry.Registry
	grants     *issuer.Issuer
	issuer     *supabase.Issuer  // of Velocity's sessions
	authorizer *authz.Authorizer // in process, with the same database
	tables     map[string]table.Table
}

// apis is the built-in configuration, written a second time: it follows the product's documents, not the code.
var apis = map[string]authz.API{
	"velaflows": {
		Workspace: authz.WorkspaceHeader{Header: "x-workspace-id", By: authz.ByID, Required: true},
		Credentials: []authz.CredentialFormat{
			{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live, VisiblePrefix: 16, BodyLength: 40},
			{Kind: authz.KindWorkspaceToken, Prefix: "sk_test_", Environment: authz.Sandbox, VisiblePrefix: 16, BodyLength: 40},
		},
	},
	"velocity": {
		Workspace: authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
		Credentials: []authz.CredentialFormat{
			{Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live, VisiblePrefix: 12, BodyLength: 38},
			{Kind: authz.KindPersonalKey, Prefix: "velu_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
			{Kind: authz.KindOAuthToken, Prefix: "velo_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
		},
	},
}

// long skips a slow test, which runs in the second part of CI.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow: run make test-long")
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(browserVariable) != "" {
		if err := consent(context.Background(), os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code, err := runWorld(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runWorld(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "keywicket-test-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	world.binary = filepath.Join(dir, "keywicket")
	build := exec.CommandContext(ctx, "go", "build", "-race", "-o", world.binary, "../cmd/keywicket")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the sidecar: %w\n%s", err, out)
	}
	world.issuer = supabase.Start()
	defer world.issuer.Close()
	world.stack, err = demo.Start(ctx, demo.Config{
		Keywicket:        world.binary,
		Environ:          append(world.issuer.Environ(), "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms", shortStaleness), // CI is slow
		PostgresSettings: map[string]string{"shared_preload_libraries": "pg_stat_statements"},
	})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, world.stack.Close()) }()
	if world.registry, err = registry.Open(ctx, world.stack.DatabaseURL()); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, world.registry.Close()) }()
	if world.grants, err = issuer.Open(world.stack.DatabaseURL()); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, world.grants.Close()) }()
	d, err := directory.Open(
		directory.Config{
			URL: world.stack.DatabaseURL(), LookupTimeout: 10 * time.Second, // no client waits here, and CI is slow
			Cache: cache.Config{StalenessBound: staleness},
		},
		slog.New(slog.DiscardHandler))
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, d.Close(context.Background())) }()
	engine, err := policies.Load(ctx, policies.Config{})
	if err != nil {
		return 1, err
	}
	world.tables = engine.Tables()
	velocity := apis["velocity"]
	velocity.Session = authz.SessionFormat{Issuer: supabase.Name, JWKSURL: world.issuer.URL, HS256Secret: authz.Secret(world.issuer.Secret)}
	apis["velocity"] = velocity
	sessions, err := session.New(session.Config{APIs: apis}, slog.New(slog.DiscardHandler))
	if err != nil {
		return 1, err
	}
	defer sessions.Close()
	err = awaited(ctx, "the keys of sessions are fetched", func() bool { _, err := sessions.Ready(); return err == nil })
	if err != nil {
		return 1, err
	}
	if world.authorizer, err = authz.New(authz.Config{APIs: apis, Sessions: sessions}, d, engine); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// staleness is the maximum time after a change for which a sidecar with shortStaleness may still use older data.
const (
	staleness      = 100 * time.Millisecond
	shortStaleness = "KEYWICKET_CACHE_STALENESS_BOUND=100ms"
)

// request is a request as a client sends it.
type request struct {
	api    string // velaflows or velocity
	method string
	path   string
	header [][2]string // in order; a name may occur twice
}

// answer is the result of a request. In process it has only the outcome and the required scopes.
type answer struct {
	outcome        string // "allow", or code and reason: "FORBIDDEN missing_scope"
	requiredScopes []string

	status int
	header http.Header
	echo   upstream.Echo // of an allowed request
}

// check runs the request in the authorizer of this process.
func (r request) check(t testing.TB) answer {
	t.Helper()
	in := authz.Request{API: r.api, Method: r.method, Path: r.path, Host: "api.example"}
	for _, h := range r.header {
		in.Header = append(in.Header, authz.HeaderValue{Name: strings.ToLower(h[0]), Value: h[1]})
	}
	a, err := world.authorizer.Check(t.Context(), in)
	if err != nil {
		t.Errorf("%s %s: %v", r.method, r.path, err)
	}
	if a.Allow {
		return answer{outcome: "allow"}
	}
	return answer{outcome: string(a.Code) + " " + string(a.Reason), requiredScopes: a.RequiredScopes}
}

// send sends the request through Envoy. The client reuses its connections.
func (r request) send(t testing.TB, client *http.Client) answer {
	t.Helper()
	base := world.stack.VelaFlows
	if r.api == "velocity" {
		base = world.stack.Velocity
	}
	q, err := http.NewRequestWithContext(t.Context(), r.method, base+r.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.header {
		q.Header[h[0]] = append(q.Header[h[0]], h[1]) // exactly as written: a test covers that names are case-insensitive
	}
	response, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	a := answer{status: response.StatusCode, header: response.Header, outcome: "allow"}
	if a.status == http.StatusOK {
		if err := json.Unmarshal(text, &a.echo); err != nil {
			t.Fatalf("%s %s: %v in %s", r.method, r.path, err, text)
		}
		return a
	}
	var body struct {
		Error struct {
			Code, Reason   string
			RequiredScopes []string `json:"required_scopes"`
		}
	}
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatalf("%s %s: %v in %s", r.method, r.path, err, text)
	}
	a.outcome, a.requiredScopes = body.Error.Code+" "+body.Error.Reason, body.Error.RequiredScopes
	return a
}

// served returns how many requests have reached an upstream.
func served() int64 { return world.stack.Live.Count() + world.stack.Sandbox.Count() }
