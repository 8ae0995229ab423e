package answers

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// A denial must not appear in Envoy's counters of the API's responses, because the API did not send the denial.
func TestEnvoyCountsNoDenialAsAnUpstreamError(t *testing.T) {
	t.Parallel()
	s := harness.StartStack(t, demo.Config{})
	home := harness.CreateWorkspace(t, s)
	good := harness.IssueToken(t, s, "sk_live_", home.ID, "inbox:read").Token
	client := harness.NewClient(t, s, 1)
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, good, home.ID), "allow")
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, "", home.ID), "UNAUTHORIZED missing")
	client.Expect(t, harness.NewRequest("velocity", "GET /api/issues", "", ""), "UNAUTHORIZED missing")
	stats := harness.Get(t, http.DefaultClient, "http://"+s.Envoy.Admin()+"/stats?filter=upstream_live.*upstream_rq_[245]xx").Body
	if !strings.Contains(stats, "upstream_rq_2xx: 1") || strings.Contains(stats, "4xx") {
		t.Errorf("Envoy counts for the API:\n%s", stats)
	}
}

// Envoy answers a denied request itself, and the client's connection stays usable.
func TestDeniedRequestsDoNotReachTheUpstream(t *testing.T) {
	home, other := harness.CreateWorkspace(t, deployment.Stack), harness.CreateWorkspace(t, deployment.Stack)
	n := registry.NewToken{Name: t.Name(), Scopes: []string{"inbox:read"}, Workspace: home.ID}
	_, good := deployment.CreateToken(t, "sk_live_", n)
	gone, revoked := deployment.CreateToken(t, "sk_live_", n)
	if _, err := deployment.Registry.RevokeToken(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	brief := harness.IssueToken(t, deployment.Stack, "sk_live_", home.ID, "inbox:read", "--expires-in", "100ms")
	deployment.AwaitExpiry(t, brief.ID)
	_, format := product.FormatOf("sk_live_")

	client := harness.NewClient(t, deployment.Stack, 1)
	allowed := harness.NewRequest("velaflows", harness.Conversations, good, home.ID)
	client.Expect(t, allowed, "allow")
	for _, denied := range []struct {
		harness.Request
		outcome  string
		required []string
	}{
		{harness.NewRequest("velaflows", harness.Conversations, "", home.ID), "UNAUTHORIZED missing", nil},
		{harness.NewRequest("velaflows", harness.Conversations, "sk_live_short", home.ID), "UNAUTHORIZED malformed", nil},
		{harness.NewRequest("velaflows", harness.Conversations, format.NewKey().Reveal(), home.ID), "UNAUTHORIZED unknown", nil},
		{harness.NewRequest("velaflows", harness.Conversations, brief.Token, home.ID), "UNAUTHORIZED expired", nil},
		{harness.NewRequest("velaflows", harness.Conversations, revoked, home.ID), "UNAUTHORIZED revoked", nil},
		{harness.NewRequest("velaflows", harness.Conversations, good, ""), "WORKSPACE_ACCESS_DENIED workspace_required", nil},
		{harness.NewRequest("velaflows", harness.Conversations, good, other.ID), "WORKSPACE_ACCESS_DENIED workspace_mismatch", nil},
		{harness.NewRequest("velaflows", "PUT /api/v1/secrets", good, home.ID), "FORBIDDEN no_route", nil},
		{harness.NewRequest("velaflows", "POST /api/v1/crm/leads", good, home.ID), "FORBIDDEN missing_scope", []string{"crm:create"}},
	} {
		before := deployment.UpstreamRequests()
		client.Expect(t, denied.Request, denied.outcome, denied.required...)
		if got := deployment.UpstreamRequests() - before; got != 0 {
			t.Errorf("%s: %d requests reached an upstream", denied.outcome, got)
		}
		client.Expect(t, allowed, "allow")
		if got := deployment.UpstreamRequests() - before; got != 1 {
			t.Errorf("after %s: %d requests reached an upstream, not 1", denied.outcome, got)
		}
	}
	if got := client.OpenedConnections(); got != 1 {
		t.Errorf("the requests went over %d connections, not one", got)
	}
}
