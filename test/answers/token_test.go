package answers

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
)

func TestKeyLifetime(t *testing.T) {
	home, other := harness.CreateWorkspace(t, deployment.Stack), harness.CreateWorkspace(t, deployment.Stack)
	client := harness.NewClient(t, deployment.Stack, 1)

	key := harness.IssueToken(t, deployment.Stack, "sk_live_", home.Slug, "inbox:read,contacts:read", "--expires-in", "90d")
	if !strings.HasPrefix(key.Token, key.Prefix) || len(key.Prefix) != 16 || len(key.Token) < 48 {
		t.Errorf("the key has %d characters and the visible prefix %s", len(key.Token), key.Prefix)
	}
	if key.ExpiresAt == nil || time.Until(*key.ExpiresAt).Round(24*time.Hour) != 90*24*time.Hour {
		t.Errorf("the key expires at %v", key.ExpiresAt)
	}
	request := harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID)
	client.Expect(t, request, "allow")
	client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, key.Token, other.ID), "WORKSPACE_ACCESS_DENIED workspace_mismatch")
	client.Expect(t, harness.NewRequest("velaflows", "DELETE /api/v1/crm/leads/7", key.Token, home.ID), "FORBIDDEN missing_scope", "crm:delete")

	for range 2 {
		revoked := harness.Keywicket[harness.ListedToken](t, deployment.Stack, "token", "revoke", key.ID)
		if revoked.Status != "revoked" || revoked.RevokedAt == nil {
			t.Errorf("token revoke prints %+v", revoked)
		}
		time.Sleep(harness.Staleness)
		client.Expect(t, request, "UNAUTHORIZED revoked")
	}

	shortLived := harness.IssueToken(t, deployment.Stack, "vel_", home.Slug, "issues:read", "--expires-in", "100ms")
	deployment.AwaitExpiry(t, shortLived.ID)
	client.Expect(t, harness.NewRequest("velocity", "GET /api/issues", shortLived.Token, ""), "UNAUTHORIZED expired")
}

// Only the key determines the upstream. The client's headers have no effect.
func TestSandboxKeysReachOnlyTheSandbox(t *testing.T) {
	home := harness.CreateWorkspace(t, deployment.Stack)
	client := harness.NewClient(t, deployment.Stack, 1)
	for prefix, environments := range map[string][2]string{"sk_live_": {"live", "sandbox"}, "sk_test_": {"sandbox", "live"}} {
		want, claimed := environments[0], environments[1]
		key := harness.IssueToken(t, deployment.Stack, prefix, home.ID, "inbox:read")
		for _, claims := range [][][2]string{
			nil, {{"x-keywicket-environment", claimed}}, {{"X-Keywicket-Environment", claimed}, {"x-keywicket-environment", claimed}},
		} {
			a := client.Expect(t, harness.NewRequest("velaflows", harness.Conversations, key.Token, home.ID, claims...), "allow")
			received := a.Echo.Headers["x-keywicket-environment"]
			if a.Echo.Upstream != want || !slices.Equal(received, []string{want}) {
				t.Errorf("%s with %v reached %s, which received %v", prefix, claims, a.Echo.Upstream, received)
			}
		}
	}
	before := deployment.Stack.Sandbox.Count()
	client.Expect(t, harness.NewRequest("velaflows", "GET /healthz", "", "", [2]string{"x-keywicket-environment", "sandbox"}), "allow")
	if deployment.Stack.Sandbox.Count() != before {
		t.Error("a request without a key reached the sandbox")
	}
}

func TestLastUse(t *testing.T) {
	const keys, uses = 20, 5
	home := harness.CreateWorkspace(t, deployment.Stack)
	client := harness.NewClient(t, deployment.Stack, 1)
	statements := harness.StatementCounter(t, deployment.Stack)
	writes := func() int { return statements(`query LIKE 'INSERT INTO keywicket.token_usage%'`) }
	tokens := func() map[string]harness.ListedToken {
		byID := make(map[string]harness.ListedToken)
		for _, l := range harness.Keywicket[[]harness.ListedToken](t, deployment.Stack, "token", "list", "--workspace", home.Slug) {
			byID[l.ID] = l
		}
		return byID
	}

	var used []harness.Token
	unused, _ := deployment.CreateToken(t, "vel_", registry.NewToken{Name: t.Name(), Scopes: []string{"issues:read"}, Workspace: home.ID})
	for range keys {
		token, key := deployment.CreateToken(t, "vel_", registry.NewToken{Name: t.Name(), Scopes: []string{"issues:read"}, Workspace: home.ID})
		used = append(used, harness.Token{ID: token.ID, Token: key})
	}
	for id, l := range tokens() {
		if l.LastUsedAt != nil {
			t.Errorf("%s has the last use %v before its first use", id, l.LastUsedAt)
		}
	}
	start, before := time.Now(), writes()
	for range uses {
		for _, key := range used {
			client.Expect(t, harness.NewRequest("velocity", "GET /api/issues", key.Token, ""), "allow")
		}
	}
	harness.Await(t, "the last use is listed", func() bool {
		list := tokens()
		return !slices.ContainsFunc(used, func(k harness.Token) bool { return list[k.ID].LastUsedAt == nil })
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
	// The sidecar has written the first counts. It writes the other counts after ten minutes.
	var counted []struct {
		ID              string `db:"token_id"`
		Allowed, Denied int
	}
	if err := harness.OpenDatabase(t, deployment.Stack).SelectContext(t.Context(), &counted, `SELECT token_id, sum(allowed) AS allowed, sum(denied) AS denied
		FROM keywicket.token_use JOIN keywicket.tokens ON id = token_id WHERE workspace_id = $1 GROUP BY token_id`, home.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range counted {
		if c.ID == unused.ID || c.Allowed < 1 || c.Allowed > uses || c.Denied != 0 {
			t.Errorf("wrong counts: %+v", c)
		}
	}
	if len(counted) != keys {
		t.Errorf("%d of %d keys have counts", len(counted), keys)
	}
	// The sidecar writes at most once every 5 s, plus once after the first use and once after the last use.
	if got, most := writes()-before, int(end.Sub(start)/(5*time.Second))+2; got < 1 || got > most {
		t.Errorf("%d uses were written by %d statements, at most %d expected", keys*uses, got, most)
	}
}
