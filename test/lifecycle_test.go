package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/jmoiron/sqlx"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// These tests follow one deployment over time: keys are created and revoked, the database fails and returns, the sidecar
// stops. None of them is parallel, because they count everything that a stack does.

// wire is a client's access to a stack over persistent connections.
type wire struct {
	stack  *demo.Stack
	opened atomic.Int64 // connections
	last   []byte       // body of the last answer; only for a wire that one goroutine uses
	limit  int
	http.Transport
}

// newWire returns a client with at most so many connections to each listener.
func newWire(t *testing.T, s *demo.Stack, connections int) (*wire, *http.Client) {
	w := &wire{stack: s, limit: connections}
	w.MaxConnsPerHost, w.MaxIdleConnsPerHost = connections, connections
	t.Cleanup(w.CloseIdleConnections)
	return w, &http.Client{Transport: w, Timeout: 30 * time.Second}
}

// RoundTrip redirects a request that request.send created for the shared stack to the wire's own stack.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) {
			if !c.Reused {
				w.opened.Add(1)
			}
		},
	}))
	for from, to := range map[string]string{
		world.stack.VelaFlows: w.stack.VelaFlows, world.stack.Velocity: w.stack.Velocity,
	} {
		if "http://"+r.URL.Host == from {
			r.URL.Host = strings.TrimPrefix(to, "http://")
			break
		}
	}
	r.Host = ""
	response, err := w.Transport.RoundTrip(r)
	if err != nil || w.limit > 1 {
		return response, err
	}
	w.last, err = io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(w.last))
	return response, nil
}

// ask returns a request of the API. An empty token or workspace is left out.
func ask(api, line, token, workspace string, more ...[2]string) request {
	method, path, _ := strings.Cut(line, " ")
	r := request{api: api, method: method, path: path, header: more}
	if token != "" {
		r.header = append(r.header, [2]string{"Authorization", "Bearer " + token})
	}
	if workspace != "" {
		r.header = append(r.header, [2]string{headerNames[api], workspace})
	}
	return r
}

const conversations = "GET /api/v1/inbox/conversations" // needs inbox:read

// wantOutcome sends the request and compares the answer with the design's table of answers.
func wantOutcome(t *testing.T, client *http.Client, r request, outcome string, required ...string) answer {
	t.Helper()
	a := r.send(t, client)
	if err := a.hasOutcome(outcome, required...); err != nil {
		t.Errorf("%s %s: %v", r.method, r.path, err)
	}
	return a
}

// command returns a command of the real binary, as an operator of the stack runs it.
func command(ctx context.Context, s *demo.Stack, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, world.binary, args...)
	c.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KEYWICKET_") })
	// A program with the race detector waits a second before it exits, unless GORACE sets another time.
	c.Env = append(c.Env, "KEYWICKET_DATABASE_URL="+s.DatabaseURL(), "GORACE=atexit_sleep_ms=0")
	return c
}

// operator runs a command that has to succeed, and decodes the JSON that it prints.
func operator[T any](t *testing.T, s *demo.Stack, args ...string) (printed T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := command(ctx, s, append(args, "--output", "json")...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("keywicket %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	if err := json.Unmarshal(out, &printed); err != nil {
		t.Fatalf("keywicket %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return printed
}

// issued is the output of `token create`, listed is an entry of `token list`.
type issued struct {
	ID, Token, Prefix string
	ExpiresAt         *time.Time `json:"expires_at"`
}

type listed struct {
	ID, Status string
	LastUsedAt *time.Time `json:"last_used_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

// issue creates a token of the workspace.
func issue(t *testing.T, s *demo.Stack, prefix, workspace, scopes string, more ...string) issued {
	t.Helper()
	return operator[issued](t, s, append([]string{
		"token", "create", "--prefix", prefix, "--workspace", workspace, "--name", t.Name(), "--scope", scopes,
	}, more...)...)
}

// tenant creates a workspace.
func tenant(t *testing.T, s *demo.Stack) registry.Workspace {
	t.Helper()
	slug := fmt.Sprintf("tenant-%d", tenants.Add(1))
	return operator[registry.Workspace](t, s, "workspace", "create", "--slug", slug, "--name", "Tenant")
}

var tenants atomic.Int64

// separateStack starts a stack for tests that the shared stack would not survive, or that would affect later tests. Examples
// are a database that stops, a sidecar that ends, another configuration.
func separateStack(t *testing.T, c demo.Config) *demo.Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c.Keywicket = world.binary
	s, err := demo.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// await returns when the condition holds. It fails the test after a time limit.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	if err := awaited(t.Context(), what, holds); err != nil {
		t.Fatal(err)
	}
}

// awaited is await for other goroutines: it returns an error.
func awaited(ctx context.Context, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("timeout: %s", what)
		case <-tick.C:
		}
	}
	return nil
}

// openDatabase opens the stack's database as its superuser.
func openDatabase(t *testing.T, s *demo.Stack) *sqlx.DB {
	t.Helper()
	db, err := database.Open(s.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestKeyLives(t *testing.T) {
	home, other := tenant(t, world.stack), tenant(t, world.stack)
	_, client := newWire(t, world.stack, 1)

	key := issue(t, world.stack, "sk_live_", home.Slug, "inbox:read,contacts:read", "--expires-in", "90d")
	if !strings.HasPrefix(key.Token, key.Prefix) || len(key.Prefix) != 16 || len(key.Token) < 48 {
		t.Errorf("a key of %d characters with the visible prefix %s", len(key.Token), key.Prefix)
	}
	if key.ExpiresAt == nil || time.Until(*key.ExpiresAt).Round(24*time.Hour) != 90*24*time.Hour {
		t.Errorf("it expires at %v", key.ExpiresAt)
	}
	works := ask("velaflows", conversations, key.Token, home.ID)
	wantOutcome(t, client, works, "allow")
	wantOutcome(t, client, ask("velaflows", conversations, key.Token, other.ID), "WORKSPACE_ACCESS_DENIED workspace_mismatch")
	wantOutcome(t, client, ask("velaflows", "DELETE /api/v1/crm/leads/7", key.Token, home.ID), "FORBIDDEN missing_scope", "crm:delete")

	for range 2 {
		revoked := operator[listed](t, world.stack, "token", "revoke", key.ID)
		if revoked.Status != "revoked" || revoked.RevokedAt == nil {
			t.Errorf("token revoke prints %+v", revoked)
		}
		time.Sleep(staleness)
		wantOutcome(t, client, works, "UNAUTHORIZED revoked")
	}

	brief := issue(t, world.stack, "vel_", home.Slug, "issues:read", "--expires-in", "100ms")
	awaitExpiry(t, brief.ID)
	wantOutcome(t, client, ask("velocity", "GET /api/issues", brief.Token, ""), "UNAUTHORIZED expired")
}

// The key alone determines the upstream. Headers of the client do not.
func TestSandboxKeysReachTheSandboxAlone(t *testing.T) {
	home := tenant(t, world.stack)
	_, client := newWire(t, world.stack, 1)
	for prefix, environments := range map[string][2]string{"sk_live_": {"live", "sandbox"}, "sk_test_": {"sandbox", "live"}} {
		want, claimed := environments[0], environments[1]
		key := issue(t, world.stack, prefix, home.ID, "inbox:read")
		for _, claims := range [][][2]string{
			nil, {{"x-keywicket-environment", claimed}}, {{"X-Keywicket-Environment", claimed}, {"x-keywicket-environment", claimed}},
		} {
			a := wantOutcome(t, client, ask("velaflows", conversations, key.Token, home.ID, claims...), "allow")
			told := a.echo.Headers["x-keywicket-environment"]
			if a.echo.Upstream != want || !slices.Equal(told, []string{want}) {
				t.Errorf("%s with %v reached %s, which received %v", prefix, claims, a.echo.Upstream, told)
			}
		}
	}
	before := world.stack.Sandbox.Count()
	wantOutcome(t, client, ask("velaflows", "GET /healthz", "", "", [2]string{"x-keywicket-environment", "sandbox"}), "allow")
	if world.stack.Sandbox.Count() != before {
		t.Error("a request without a key chose the sandbox")
	}
}

func TestLastUse(t *testing.T) {
	const keys, uses = 20, 5
	home := tenant(t, world.stack)
	_, client := newWire(t, world.stack, 1)
	counted := statements(t, world.stack)
	writes := func() int { return counted(`query LIKE 'INSERT INTO keywicket.token_usage%'`) }
	tokens := func() map[string]listed {
		byID := make(map[string]listed)
		for _, l := range operator[[]listed](t, world.stack, "token", "list", "--workspace", home.Slug) {
			byID[l.ID] = l
		}
		return byID
	}

	var used []issued
	unused, _ := newToken(t, "vel_", registry.NewToken{Name: t.Name(), Scopes: []string{"issues:read"}, Workspace: home.ID})
	for range keys {
		token, key := newToken(t, "vel_", registry.NewToken{Name: t.Name(), Scopes: []string{"issues:read"}, Workspace: home.ID})
		used = append(used, issued{ID: token.ID, Token: key})
	}
	for id, l := range tokens() {
		if l.LastUsedAt != nil {
			t.Errorf("%s has the last use %v before its first use", id, l.LastUsedAt)
		}
	}
	start, before := time.Now(), writes()
	for range uses {
		for _, key := range used {
			wantOutcome(t, client, ask("velocity", "GET /api/issues", key.Token, ""), "allow")
		}
	}
	await(t, "the last use is listed", func() bool {
		list := tokens()
		return !slices.ContainsFunc(used, func(k issued) bool { return list[k.ID].LastUsedAt == nil })
	})
	end := time.Now()
	for id, l := range tokens() {
		switch {
		case id == unused.ID:
			if l.LastUsedAt != nil {
				t.Error("an unused key has a last use")
			}
		case l.LastUsedAt.Before(start.Add(-time.Second)) || l.LastUsedAt.After(end.Add(time.Second)):
			t.Errorf("used between %v and %v; the listed last use is %v", start, end, l.LastUsedAt)
		}
	}
	// One write every 5 s, one before the first use and one after the last.
	if got, most := writes()-before, int(end.Sub(start)/(5*time.Second))+2; got < 1 || got > most {
		t.Errorf("%d uses were written by %d statements, at most %d expected", keys*uses, got, most)
	}
}

// statements returns a function that counts executed statements of the sidecar's login. The condition is SQL.
func statements(t *testing.T, s *demo.Stack) (counted func(condition string) int) {
	t.Helper()
	db := openDatabase(t, s)
	if _, err := db.ExecContext(t.Context(), `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`); err != nil {
		t.Fatal(err)
	}
	return func(condition string) (calls int) {
		t.Helper()
		err := db.GetContext(t.Context(), &calls, `SELECT COALESCE(sum(calls), 0) FROM pg_stat_statements
			WHERE userid IN (SELECT oid FROM pg_roles WHERE pg_has_role(oid, 'keywicket_sidecar', 'member') AND NOT rolsuper)
			AND (`+condition+`)`)
		if err != nil {
			t.Fatal(err)
		}
		return calls
	}
}

// lookups returns the number of look-ups that reached the database.
func lookups(counted func(condition string) int) int {
	return counted(`query LIKE '%FROM keywicket.tokens%digest%'`)
}

// Without a cache, a check makes one query or none.
func TestOneQueryPerCheck(t *testing.T) {
	const checks = 1000
	s := separateStack(t, demo.Config{
		Environ:          []string{"KEYWICKET_CACHE_MAX_BYTES=0", "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"},
		PostgresSettings: map[string]string{"shared_preload_libraries": "pg_stat_statements"},
	})
	home, other := tenant(t, s), tenant(t, s)
	token := func(prefix, scope string) string { return issue(t, s, prefix, home.ID, scope).Token }
	good, sandbox := token("sk_live_", "inbox:read"), token("sk_test_", "inbox:read")
	gone := issue(t, s, "sk_live_", home.ID, "inbox:read")
	operator[listed](t, s, "token", "revoke", gone.ID)
	revoked := gone.Token
	brief := issue(t, s, "sk_live_", home.ID, "inbox:read", "--expires-in", "1ms")
	foreign := token("vel_", "workspace:admin")
	_, format := formatOf("sk_live_")

	// The use of tokens is written in batches at intervals, independent of the number of checks.
	others := func(counted func(string) int) int {
		return counted(`query NOT LIKE '%FROM keywicket.tokens%digest%' AND query NOT LIKE '%keywicket.token_usage%'
			AND query !~ '^(BEGIN|COMMIT|SET LOCAL lock_timeout)'`)
	}
	type mixed struct {
		request
		outcome  string
		required []string
	}
	send := func(n int, mix []mixed) {
		t.Helper()
		_, client := newWire(t, s, 2)
		var next atomic.Int64
		var workers sync.WaitGroup
		for range 2 {
			workers.Go(func() {
				for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
					m := mix[i%int64(len(mix))]
					if err := m.send(t, client).hasOutcome(m.outcome, m.required...); err != nil {
						t.Errorf("%s %s: %v", m.method, m.path, err)
					}
				}
			})
		}
		workers.Wait()
	}

	counted := statements(t, s)
	before, beside := lookups(counted), others(counted)
	send(checks, []mixed{
		{ask("velaflows", conversations, good, home.ID), "allow", nil},
		{ask("velaflows", conversations, sandbox, home.ID), "allow", nil},
		{ask("velaflows", "DELETE /api/v1/crm/leads/7", good, home.ID), "FORBIDDEN missing_scope", []string{"crm:delete"}},
		{ask("velaflows", "GET /api/v1/secrets", good, home.ID), "FORBIDDEN no_route", nil},
		{ask("velaflows", conversations, good, other.ID), "WORKSPACE_ACCESS_DENIED workspace_mismatch", nil},
		{ask("velaflows", conversations, good, ""), "WORKSPACE_ACCESS_DENIED workspace_required", nil},
		{ask("velaflows", conversations, revoked, home.ID), "UNAUTHORIZED revoked", nil},
		{ask("velaflows", conversations, brief.Token, home.ID), "UNAUTHORIZED expired", nil},
		{ask("velaflows", conversations, format.NewKey().Reveal(), home.ID), "UNAUTHORIZED unknown", nil},
	})
	// Two simultaneous checks may share a query.
	if got := lookups(counted) - before; got < checks/2 || got > checks {
		t.Errorf("%d checks made %d look-ups", checks, got)
	}

	before = lookups(counted)
	send(100, []mixed{
		{ask("velaflows", "GET /healthz", "", ""), "allow", nil},
		{ask("velaflows", "GET /healthz", good, home.ID), "allow", nil},
		{ask("velocity", "POST /api/oauth/token", revoked, ""), "allow", nil},
		{ask("velaflows", conversations, "", home.ID), "UNAUTHORIZED missing", nil},
		{ask("velaflows", conversations, "", home.ID, [2]string{"Authorization", "Basic " + good}), "UNAUTHORIZED missing", nil},
		{ask("velaflows", conversations, "sk_live_short", home.ID), "UNAUTHORIZED malformed", nil},
		{ask("velaflows", conversations, good+"~!", home.ID), "UNAUTHORIZED malformed", nil},
		{ask("velaflows", conversations, foreign, home.ID), "UNAUTHORIZED unknown", nil},
		{ask("velocity", "GET /api/issues", good, ""), "UNAUTHORIZED unknown", nil},
		{ask("velaflows", conversations, "e30.e30.c2lnbmF0dXJl", home.ID), "UNAUTHORIZED unknown", nil},
	})
	if got := lookups(counted) - before; got != 0 {
		t.Errorf("requests that need no look-up made %d", got)
	}
	if got := others(counted) - beside; got != 0 {
		t.Errorf("there were %d statements other than look-ups", got)
	}
}

// Otherwise Envoy would count a denial as an answer of the API.
func TestDenialsAreNotTheAPIsErrors(t *testing.T) {
	s := separateStack(t, demo.Config{})
	home := tenant(t, s)
	good := issue(t, s, "sk_live_", home.ID, "inbox:read").Token
	_, client := newWire(t, s, 1)
	wantOutcome(t, client, ask("velaflows", conversations, good, home.ID), "allow")
	wantOutcome(t, client, ask("velaflows", conversations, "", home.ID), "UNAUTHORIZED missing")
	wantOutcome(t, client, ask("velocity", "GET /api/issues", "", ""), "UNAUTHORIZED missing")
	stats := send(t, "GET", "http://"+s.Envoy.Admin()+"/stats?filter=upstream_live.*upstream_rq_[245]xx", "", "").raw
	if !strings.Contains(stats, "upstream_rq_2xx: 1") || strings.Contains(stats, "4xx") {
		t.Errorf("Envoy counts for the API:\n%s", stats)
	}
}

// A refused request ends at Envoy, and its connection stays usable.
func TestDenialsEndAtEnvoy(t *testing.T) {
	home, other := tenant(t, world.stack), tenant(t, world.stack)
	n := registry.NewToken{Name: t.Name(), Scopes: []string{"inbox:read"}, Workspace: home.ID}
	_, good := newToken(t, "sk_live_", n)
	gone, revoked := newToken(t, "sk_live_", n)
	if _, err := world.registry.RevokeToken(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	brief := issue(t, world.stack, "sk_live_", home.ID, "inbox:read", "--expires-in", "100ms")
	awaitExpiry(t, brief.ID)
	_, format := formatOf("sk_live_")

	w, client := newWire(t, world.stack, 1)
	allowed := ask("velaflows", conversations, good, home.ID)
	wantOutcome(t, client, allowed, "allow")
	for _, denied := range []struct {
		request
		outcome  string
		required []string
	}{
		{ask("velaflows", conversations, "", home.ID), "UNAUTHORIZED missing", nil},
		{ask("velaflows", conversations, "sk_live_short", home.ID), "UNAUTHORIZED malformed", nil},
		{ask("velaflows", conversations, format.NewKey().Reveal(), home.ID), "UNAUTHORIZED unknown", nil},
		{ask("velaflows", conversations, brief.Token, home.ID), "UNAUTHORIZED expired", nil},
		{ask("velaflows", conversations, revoked, home.ID), "UNAUTHORIZED revoked", nil},
		{ask("velaflows", conversations, good, ""), "WORKSPACE_ACCESS_DENIED workspace_required", nil},
		{ask("velaflows", conversations, good, other.ID), "WORKSPACE_ACCESS_DENIED workspace_mismatch", nil},
		{ask("velaflows", "PUT /api/v1/secrets", good, home.ID), "FORBIDDEN no_route", nil},
		{ask("velaflows", "POST /api/v1/crm/leads", good, home.ID), "FORBIDDEN missing_scope", []string{"crm:create"}},
	} {
		before := served()
		wantOutcome(t, client, denied.request, denied.outcome, denied.required...)
		if got := served() - before; got != 0 {
			t.Errorf("%s: %d requests reached an upstream", denied.outcome, got)
		}
		wantOutcome(t, client, allowed, "allow")
		if got := served() - before; got != 1 {
			t.Errorf("after %s: %d requests reached an upstream, not 1", denied.outcome, got)
		}
	}
	if got := w.opened.Load(); got != 1 {
		t.Errorf("the requests went over %d connections, not one", got)
	}
}

// probeOf requests a path such as /livez or /readyz of the sidecar.
func probeOf(t *testing.T, s *demo.Stack, path string) (code int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Sidecar.Operations+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestDatabaseGoesAndComesBack(t *testing.T) {
	// For slow machines the look-up timeout is twice the default: after the outage every connection is opened again.
	s := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}})
	home := tenant(t, s)
	key := issue(t, s, "sk_live_", home.ID, "inbox:read")
	works := ask("velaflows", conversations, key.Token, home.ID)
	_, format := formatOf("sk_live_")
	w, client := newWire(t, s, 1)

	const connections = 4
	many := func() (failed []error) {
		_, client := newWire(t, s, connections)
		var mu sync.Mutex
		var workers sync.WaitGroup
		for range connections {
			workers.Go(func() {
				for range 100 {
					if err := works.send(t, client).hasOutcome("allow"); err != nil {
						mu.Lock()
						failed = append(failed, err)
						mu.Unlock()
					}
				}
			})
		}
		workers.Wait()
		return failed
	}
	// This opens so many connections from the sidecar to the database before the database stops.
	await(t, "all requests are allowed", func() bool { return len(many()) == 0 })
	wantOutcome(t, client, works, "allow")

	if err := s.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	// Remembered answers are valid until the staleness bound.
	await(t, "the sidecar asks the database", func() bool {
		return ask("velaflows", conversations, key.Token, home.ID).send(t, client).outcome == "UNAVAILABLE unavailable"
	})
	before := s.Live.Count()
	for _, token := range []string{key.Token, format.NewKey().Reveal()} {
		for range 3 {
			a := ask("velaflows", conversations, token, home.ID).send(t, client)
			if a.status != http.StatusServiceUnavailable || a.outcome != "UNAVAILABLE unavailable" ||
				a.header.Get("Retry-After") != "1" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %s %v", a.status, a.outcome, a.header)
			}
			// Envoy's own 503 has no decision ID.
			if !bytes.Contains(w.last, []byte(`"decision_id":"`)) {
				t.Errorf("the body is not the sidecar's: %s", w.last)
			}
		}
	}
	wantOutcome(t, client, ask("velaflows", conversations, "", home.ID), "UNAUTHORIZED missing")
	if got := s.Live.Count() - before; got != 0 {
		t.Errorf("%d requests reached the upstream", got)
	}
	wantOutcome(t, client, ask("velaflows", "GET /healthz", key.Token, ""), "allow")
	if got := s.Live.Count() - before; got != 1 {
		t.Errorf("%d requests reached the upstream, not the one for a public route", got)
	}
	if code, body := probeOf(t, s, "/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s", code, body)
	}
	code, body := probeOf(t, s, "/readyz")
	var why struct {
		Ready   bool
		Reasons []string
	}
	if err := json.Unmarshal([]byte(body), &why); err != nil || code != http.StatusServiceUnavailable || why.Ready ||
		len(why.Reasons) != 1 || !strings.Contains(why.Reasons[0], "database") {
		t.Errorf("/readyz: %d %s %v", code, body, err)
	}

	pid := s.Sidecar.PID()
	back := func(from string) {
		t.Helper()
		if err := s.Postgres.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, "the sidecar is ready", func() bool {
			code, _ := probeOf(t, s, "/readyz")
			return code == http.StatusOK
		})
		// All connect at once, and on a busy machine a few of them time out. No dead connection may cost a failed request.
		if failed := many(); len(failed) > connections {
			t.Errorf("back from %s, and ready: %d requests failed, the first: %v", from, len(failed), failed[0])
		}
		await(t, "all requests are allowed again", func() bool { return len(many()) == 0 })
	}
	back("having been stopped")
	// No request is sent in between, so that all of the sidecar's connections are dead.
	if err := syscall.Kill(s.Postgres.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	back("having been killed")
	wantOutcome(t, client, works, "allow")
	if err := syscall.Kill(pid, 0); err != nil || s.Sidecar.PID() != pid {
		t.Errorf("the sidecar was restarted: %v", err)
	}
	if got := w.opened.Load(); got != 1 {
		t.Errorf("the requests went over %d connections, not one", got)
	}
}

// A check is under way when the sidecar gets the signal to stop. It waits for the database, which a lock delays. All of this
// has to fit into the 0.4 s that a check may take.
func TestSidecarDrains(t *testing.T) {
	s := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}})
	home := tenant(t, s)
	key := issue(t, s, "sk_live_", home.ID, "inbox:read")
	_, client := newWire(t, s, 1)
	db := openDatabase(t, s)
	lock, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback() }()
	if _, err := lock.ExecContext(t.Context(), `LOCK TABLE keywicket.tokens IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}

	stopped := make(chan error, 1)
	go func() {
		stopped <- errors.Join(
			awaited(t.Context(), "the look-up waits for the lock", func() bool {
				var waiting bool
				err := db.GetContext(t.Context(), &waiting, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)`)
				return err == nil && waiting
			}),
			s.Sidecar.Signal(syscall.SIGTERM),
			awaited(t.Context(), "the sidecar takes no more connections", func() bool {
				c, err := net.Dial("tcp", s.Sidecar.GRPC)
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			}),
			func() error { // a load balancer can poll the sidecar until the last check is answered
				response, err := http.Get("http://" + s.Sidecar.Operations + "/livez")
				if err == nil {
					err = response.Body.Close()
				}
				return err
			}(),
			lock.Commit(),
		)
	}()
	wantOutcome(t, client, ask("velaflows", conversations, key.Token, home.ID), "allow")
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Sidecar.Done():
		if err := s.Sidecar.Err(); err != nil { // nil is the exit status 0
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the sidecar did not end")
	}
	list := operator[[]listed](t, s, "token", "list")
	if len(list) != 1 || list[0].LastUsedAt == nil {
		t.Errorf("the use of the token is not written: %+v", list)
	}

	// Then no sidecar is left to decide.
	before := s.Live.Count()
	a := ask("velaflows", conversations, key.Token, home.ID).send(t, client)
	if a.status != http.StatusServiceUnavailable || a.outcome != "UNAVAILABLE unavailable" || s.Live.Count() != before {
		t.Errorf("without a sidecar: %d %s, %d requests reached the upstream", a.status, a.outcome, s.Live.Count()-before)
	}
}

// After the first signal to stop, a sidecar is unready at once, and continues to answer. After a second signal, it does not
// wait any longer.
func TestLameDuck(t *testing.T) {
	log := new(syncbuffer.Buffer)
	s := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_LISTEN_LAME_DUCK=10m"}, Log: log})
	home := tenant(t, s)
	key := issue(t, s, "sk_live_", home.ID, "inbox:read")
	works := ask("velaflows", conversations, key.Token, home.ID)
	_, client := newWire(t, s, 1)
	wantOutcome(t, client, works, "allow")
	connect := func() *grpc.ClientConn {
		conn, err := grpc.NewClient(s.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	known := healthv1.NewHealthClient(connect())
	await(t, "the sidecar is serving", func() bool {
		h, err := known.Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err == nil && h.GetStatus() == healthv1.HealthCheckResponse_SERVING
	})

	if err := s.Sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "health is NOT_SERVING", func() bool {
		h, err := known.Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err == nil && h.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING
	})
	if code, body := probeOf(t, s, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "told to stop") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	for _, path := range []string{"/livez", "/metrics"} {
		if code, body := probeOf(t, s, path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	wantOutcome(t, client, works, "allow")
	answer, err := authv3.NewAuthorizationClient(connect()).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: conversations[len("GET "):], Headers: map[string]string{
				"authorization": "Bearer " + key.Token, "x-workspace-id": home.ID,
			},
		}},
		ContextExtensions: map[string]string{"api": "velaflows"},
	}})
	if err != nil {
		t.Fatalf("over a new connection: %v", err)
	}
	if got := outcomeOf(t, answer); got != "allow" {
		t.Errorf("over a new connection: %s", got)
	}

	if err := s.Sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Sidecar.Done():
		if err := s.Sidecar.Err(); err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("after two signals to stop, the sidecar did not end")
	}
	if said := log.String(); strings.Count(said, "told to stop: answering for another 10m0s") != 1 {
		t.Errorf("the log does not report exactly once that the sidecar continues to answer: %s", said)
	}
}

// hostilePaths paths are never allowed, with any credential. Envoy refuses most of them, but another PEP may send them.
var hostilePaths = []string{
	"", "/", "*", "//", "?", "?/healthz", "#", "healthz", "//healthz", "/healthz/", "/healthz//", "/./healthz", "/healthz/.",
	"/x/../healthz", "/healthz;", "/healthz;x=y", "/healthz%00", "/healthz\x00", "/healthz%2f", "/healthz#", "/healthz ",
	"/healthz%20", "/%68ealthz%2F", "/HEALTHZ", "http://api.example/healthz",
	"/healthz/../api/v1/contacts", "/healthz/..;/api/v1/contacts", "/healthz%2f..%2fapi%2fv1%2fcontacts",
	"api/v1/contacts/7", "//api/v1/contacts/7", "/api//v1/contacts/7", "/api/v1/contacts/", "/api/v1/contacts//",
	"/api/v1/contacts/.", "/api/v1/contacts/..", "/api/v1/contacts/%2e", "/api/v1/contacts/%2e%2e", "/api/v1/contacts/.%2E",
	"/api/v1/contacts/a%2fb", "/api/v1/contacts/a%2Fb", "/api/v1/contacts/a%5cb", `/api/v1/contacts/a\b`,
	"/api/v1/contacts/a;b", "/api/v1/contacts/a%3bb", "/api/v1/contacts/a%23b", "/api/v1/contacts/a#b",
	"/api/v1/contacts/a%3fb", "/api/v1/contacts/a%25b", "/api/v1/contacts/%252e%252e", "/api/v1/contacts/a%00b",
	"/api/v1/contacts/a\x00b", "/api/v1/contacts/a%0ab", "/api/v1/contacts/a\nb", "/api/v1/contacts/a%7fb",
	"/api/v1/contacts/a b", "/api/v1/contacts/a\tb", "/api/v1/contacts/%", "/api/v1/contacts/%7", "/api/v1/contacts/%zz",
	"/api/v1/contacts/%ff", "/api/v1/contacts/%c0%ae%c0%ae", "/api/v1/contacts/\u00e9", "/api/v1/contacts/a|b",
	"/API/v1/contacts/7", "/api/v1/contacts%2f7", strings.Repeat("/a", 50_000), strings.Repeat("/..", 10_000),
}

func TestDirectChecks(t *testing.T) {
	home := tenant(t, world.stack)
	_, key := newToken(t, "sk_live_", registry.NewToken{Name: t.Name(), Scopes: []string{"admin:all"}, Workspace: home.ID})
	conn, err := grpc.NewClient(world.stack.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	pdp := authv3.NewAuthorizationClient(conn)

	health, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}

	contact := &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/api/v1/contacts/7", Host: "api.example"}
	with := func(h *authv3.AttributeContext_HttpRequest, path string, headers ...*corev3.HeaderValue) *authv3.AttributeContext_HttpRequest {
		return &authv3.AttributeContext_HttpRequest{
			Method: h.GetMethod(), Path: path, Host: h.GetHost(), HeaderMap: &corev3.HeaderMap{Headers: headers},
		}
	}
	bearer := &corev3.HeaderValue{Key: "authorization", RawValue: []byte("Bearer " + key)}
	workspace := &corev3.HeaderValue{Key: "x-workspace-id", Value: home.ID}
	cooked := func(headers map[string]string) *authv3.AttributeContext_HttpRequest {
		return &authv3.AttributeContext_HttpRequest{Method: "GET", Path: contact.GetPath(), Headers: headers}
	}
	velaflows := map[string]string{"api": "velaflows"}
	type check struct {
		name       string
		http       *authv3.AttributeContext_HttpRequest
		extensions map[string]string
		want       string
	}
	checks := []check{
		{"needless escapes", with(contact, "/%61pi/v1/contacts/%37", bearer, workspace), velaflows, "allow"},
		{"needless escapes in a public route", with(contact, "/%68ealthz"), velaflows, "allow"},
		{"an ordinary one", with(contact, "/api/v1/contacts/7?a=/../b", bearer, workspace), velaflows, "allow"},
		{"headers that are joined", cooked(map[string]string{"authorization": "Bearer " + key, "x-workspace-id": home.ID}), velaflows, "allow"},
		{"two tokens, joined", cooked(map[string]string{"authorization": "Bearer " + key + ",Bearer " + key, "x-workspace-id": home.ID}), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"the same token twice", with(contact, contact.GetPath(), bearer, bearer, workspace), velaflows, "401 UNAUTHORIZED malformed"},
		{"a token beside an empty one", with(contact, contact.GetPath(), &corev3.HeaderValue{Key: "authorization"}, bearer, workspace), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"a token twice, in two spellings", with(contact, contact.GetPath(), bearer, &corev3.HeaderValue{Key: "Authorization", Value: "Bearer " + key}, workspace), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"a token with a byte that is no text", with(contact, contact.GetPath(), &corev3.HeaderValue{Key: "authorization", RawValue: []byte("Bearer " + key + "\xff")}, workspace), velaflows,
			"401 UNAUTHORIZED malformed"},
		{"a workspace twice", with(contact, contact.GetPath(), bearer, workspace, workspace), velaflows, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch"},
		{"an API that there is not", with(contact, contact.GetPath(), bearer, workspace), map[string]string{"api": "zoo"}, "503 UNAVAILABLE unavailable"},
		{"no API", with(contact, contact.GetPath(), bearer, workspace), nil, "503 UNAVAILABLE unavailable"},
		{"a public route of no API", with(contact, "/healthz"), nil, "503 UNAVAILABLE unavailable"},
		{"no headers", nil, velaflows, "401 UNAUTHORIZED missing"},
	}
	for _, path := range hostilePaths {
		name := path[:min(len(path), 60)]
		checks = append(checks,
			check{name, with(contact, path), velaflows, "401 UNAUTHORIZED missing"},
			check{name, with(contact, path, bearer, workspace), velaflows, "403 FORBIDDEN no_route"})
	}
	for _, c := range checks {
		answer, err := pdp.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: c.http}, ContextExtensions: c.extensions,
		}})
		if err != nil {
			t.Errorf("%q: %v", c.name, err)
			continue
		}
		if got := outcomeOf(t, answer); got != c.want {
			t.Errorf("%q: %s, not %s", c.name, got, c.want)
		}
	}

	// The sidecar does not check a request that is larger than any request's headers.
	answer, err := pdp.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request:           &authv3.AttributeContext_Request{Http: with(contact, "/"+strings.Repeat("a", 1<<20), bearer, workspace)},
		ContextExtensions: velaflows,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := outcomeOf(t, answer); got != "431 REQUEST_TOO_LARGE too_large" {
		t.Errorf("a request of 1 MiB: %s", got)
	}
}

// outcomeOf reads the answer as Envoy does: its status decides. The rest of the answer must agree with the status.
func outcomeOf(t *testing.T, answer *authv3.CheckResponse) string {
	t.Helper()
	denied := answer.GetDeniedResponse()
	if answer.GetStatus() == nil || (answer.GetStatus().GetCode() == int32(codes.OK)) != (answer.GetOkResponse() != nil) ||
		(denied == nil) != (answer.GetOkResponse() != nil) {
		t.Fatalf("the status and the rest of the answer differ: %v", answer)
	}
	if denied == nil {
		return "allow"
	}
	grpcCodes := map[int32]codes.Code{
		401: codes.Unauthenticated, 403: codes.PermissionDenied, 431: codes.ResourceExhausted, 503: codes.Unavailable,
	}
	httpCode := int32(denied.GetStatus().GetCode())
	if codes.Code(answer.GetStatus().GetCode()) != grpcCodes[httpCode] {
		t.Errorf("the status is %v beside %d", answer.GetStatus(), httpCode)
	}
	var body struct{ Error struct{ Code, Reason string } }
	if err := json.Unmarshal([]byte(denied.GetBody()), &body); err != nil {
		t.Fatalf("%v in %s", err, denied.GetBody())
	}
	return fmt.Sprint(httpCode, " ", body.Error.Code, " ", body.Error.Reason)
}
