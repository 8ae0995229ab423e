package reliability

import (
	"regexp"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/wire"
)

// lookups returns the number of look-ups that reached the database.
func lookups(counted func(condition string) int) int {
	return counted(`query LIKE '%FROM keywicket.tokens%digest%'`)
}

// Without a cache, a check makes at most one query.
func TestOneQueryPerCheck(t *testing.T) {
	const checks = 1000
	s := harness.StartRaceStack(t, demo.Config{
		Environ:          []string{"KEYWICKET_CACHE_MAX_BYTES=0", "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=8s"},
		EnvoyConfig:      raiseEnvoyTimeouts, // without this, look-ups may time out, which causes other statements
		PostgresSettings: map[string]string{"shared_preload_libraries": "pg_stat_statements"},
	})
	home, other := harness.CreateWorkspace(t, s), harness.CreateWorkspace(t, s)
	token := func(prefix, scope string) string { return harness.IssueToken(t, s, prefix, home.ID, scope).Token }
	good, sandbox := token("sk_live_", "inbox:read"), token("sk_test_", "inbox:read")
	revokedToken := harness.IssueToken(t, s, "sk_live_", home.ID, "inbox:read")
	harness.Keywicket[harness.ListedToken](t, s, "token", "revoke", revokedToken.ID)
	revoked := revokedToken.Token
	expired := harness.IssueToken(t, s, "sk_live_", home.ID, "inbox:read", "--expires-in", "1ms")
	foreign := token("vel_", "workspace:admin")
	_, format := product.FormatOf("sk_live_")

	// The sidecar records the use of tokens in batches at intervals, independent of the number of checks. While this write uses a
	// connection, a look-up may open another connection, for which the sidecar runs three statements.
	const openStatements = `(query LIKE 'SELECT current_setting(%pg_backend_pid()%' OR query ~ '^(SET|RESET) lock_timeout')`
	others := func(counted func(string) int) int {
		return counted(`query NOT LIKE '%FROM keywicket.tokens%digest%' AND query NOT LIKE 'INSERT INTO keywicket.token_us%'
			AND query !~ '^(BEGIN|COMMIT|SELECT pg_current_xact_id)' AND NOT ` + openStatements)
	}
	type mixed struct {
		harness.Request
		outcome  string
		required []string
	}
	send := func(n int, mix []mixed) {
		t.Helper()
		client := harness.NewClient(t, s, 2)
		var next atomic.Int64
		var workers sync.WaitGroup
		for range 2 {
			workers.Go(func() {
				for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
					m := mix[i%int64(len(mix))]
					if err := client.Send(t, m.Request).HasOutcome(m.outcome, m.required...); err != nil {
						t.Errorf("%s %s: %v", m.Method, m.Path, err)
					}
				}
			})
		}
		workers.Wait()
	}

	counted := harness.StatementCounter(t, s)
	before, othersBefore, opensBefore := lookups(counted), others(counted), counted(openStatements)
	send(checks, []mixed{
		{harness.NewRequest("velaflows", harness.Conversations, good, home.ID), "allow", nil},
		{harness.NewRequest("velaflows", harness.Conversations, sandbox, home.ID), "allow", nil},
		{harness.NewRequest("velaflows", "DELETE /api/v1/crm/leads/7", good, home.ID), "FORBIDDEN missing_scope", []string{"crm:delete"}},
		{harness.NewRequest("velaflows", "GET /api/v1/secrets", good, home.ID), "FORBIDDEN no_route", nil},
		{harness.NewRequest("velaflows", harness.Conversations, good, other.ID), "WORKSPACE_ACCESS_DENIED workspace_mismatch", nil},
		{harness.NewRequest("velaflows", harness.Conversations, good, ""), "WORKSPACE_ACCESS_DENIED workspace_required", nil},
		{harness.NewRequest("velaflows", harness.Conversations, revoked, home.ID), "UNAUTHORIZED revoked", nil},
		{harness.NewRequest("velaflows", harness.Conversations, expired.Token, home.ID), "UNAUTHORIZED expired", nil},
		{harness.NewRequest("velaflows", harness.Conversations, format.NewKey().Reveal(), home.ID), "UNAUTHORIZED unknown", nil},
	})
	// Two simultaneous checks may share a query.
	if got := lookups(counted) - before; got < checks/2 || got > checks {
		t.Errorf("%d checks made %d look-ups", checks, got)
	}

	before = lookups(counted)
	send(100, []mixed{
		{harness.NewRequest("velaflows", "GET /healthz", "", ""), "allow", nil},
		{harness.NewRequest("velaflows", "GET /healthz", good, home.ID), "allow", nil},
		{harness.NewRequest("velocity", "POST /api/oauth/token", revoked, ""), "allow", nil},
		{harness.NewRequest("velaflows", harness.Conversations, "", home.ID), "UNAUTHORIZED missing", nil},
		{harness.NewRequest("velaflows", harness.Conversations, "", home.ID, [2]string{"Authorization", "Basic " + good}), "UNAUTHORIZED missing", nil},
		{harness.NewRequest("velaflows", harness.Conversations, "sk_live_short", home.ID), "UNAUTHORIZED malformed", nil},
		{harness.NewRequest("velaflows", harness.Conversations, good+"~!", home.ID), "UNAUTHORIZED malformed", nil},
		{harness.NewRequest("velaflows", harness.Conversations, foreign, home.ID), "UNAUTHORIZED unknown", nil},
		{harness.NewRequest("velocity", "GET /api/issues", good, ""), "UNAUTHORIZED unknown", nil},
		{harness.NewRequest("velaflows", harness.Conversations, "e30.e30.c2lnbmF0dXJl", home.ID), "UNAUTHORIZED unknown", nil},
	})
	if got := lookups(counted) - before; got != 0 {
		t.Errorf("requests that need no look-up made %d look-ups", got)
	}
	if got := others(counted) - othersBefore; got != 0 {
		t.Errorf("there were %d statements other than look-ups", got)
	}
	if got := counted(openStatements) - opensBefore; got > 3 {
		t.Errorf("%d statements opened connections", got)
	}
}

// A warm check (with a cached token) makes no query. A thousand first uses of a token at the same time make one query.
func TestWarmChecksMakeNoQuery(t *testing.T) {
	s := harness.StartRaceStack(t, demo.Config{
		// The callers share one look-up. This look-up continues for later callers, even after the first callers have timed out.
		Environ:          []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=10s", "KEYWICKET_CACHE_STALENESS_BOUND=30s"},
		PostgresSettings: map[string]string{"shared_preload_libraries": "pg_stat_statements"},
	})
	home := harness.CreateWorkspace(t, s)
	key := harness.IssueToken(t, s, "sk_live_", home.ID, "inbox:read")
	harness.Await(t, "the sidecar has read the changes for the workspace and the key", func() bool {
		_, text := harness.Probe(t, s, "/metrics")
		return regexp.MustCompile(`(?m)^keywicket_cache_changes_total [2-9]`).MatchString(text)
	})
	counted := harness.StatementCounter(t, s)
	c := wire.Protocols["direct"](t, s, "")
	defer func() { _ = c.Close() }()
	check := wire.Request{Target: "/api/v1/inbox/conversations", Header: [][2]string{
		{"authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}}
	before := lookups(counted)
	var asking sync.WaitGroup
	for range 1000 {
		asking.Go(func() { c.Send(t, check) }) // on a small machine, some checks time out and get a 503
	}
	asking.Wait()
	if got := lookups(counted) - before; got != 1 {
		t.Errorf("1,000 first uses at the same time made %d look-ups", got)
	}
	others := 0
	before = lookups(counted)
	for range 1000 {
		if c.Send(t, check).Outcome != "allow" {
			others++
		}
	}
	if got := lookups(counted) - before; got != 0 {
		t.Errorf("1,000 warm checks made %d look-ups", got)
	}
	if others != 0 {
		t.Errorf("%d warm checks were not allowed", others)
	}
}
