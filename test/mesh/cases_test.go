package mesh

import (
	"maps"
	"slices"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/threats"
	"github.com/keywicket/keywicket/test/wire"
)

// cases returns three kinds of requests: with headers that a client must not set, with workspace headers, and to several hosts.
func (m *mesh) cases(t *testing.T) []meshCase {
	t.Helper()
	live, sandbox := m.principal(t, "sk_live_", "inbox:read"), m.principal(t, "sk_test_", "inbox:read")
	key, personal := m.principal(t, "vel_", "issues:read"), m.principal(t, "velu_", "issues:read", "user:read")
	id := func(w registry.Workspace) [2]string { return [2]string{"x-workspace-id", w.ID} }
	slug := func(w registry.Workspace) [2]string { return [2]string{"x-workspace-slug", w.Slug} }
	inbox := func(header ...[2]string) wire.Request {
		return live.request(inboxPath, slices.Concat(header, [][2]string{id(m.home)})...)
	}
	denied := func(outcome string) map[string]string { return map[string]string{"": outcome} }
	with := func(identity map[string]string, name, value string) map[string]string {
		identity = maps.Clone(identity)
		identity[name] = value
		return identity
	}

	everything := forged(slices.Concat(identityHeaders, []string{"x-keywicket-subject", "x-keywicket-role"})...)
	role := map[string]string{"x-keywicket-role": "forged"}
	cases := []meshCase{
		{name: "a workspace", Request: inbox(), identity: live.inWorkspace(m.home)},
		{name: "identity headers", Request: inbox(everything...), identity: live.inWorkspace(m.home), hidden: role},
		{name: "identity headers with a user's key", Request: personal.request(profilePath, everything...), identity: personal.identity, hidden: role},
		{name: "identity headers on a public route", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: everything},
			identity: anonymous("velaflows"), hidden: role},
		{name: "identity headers without a credential", Request: wire.Request{Host: velaflowsHost, Target: inboxPath, Header: everything},
			want: denied(wire.Missing)},
		{name: "identity headers in the trailers", Request: wire.Request{Method: "GET", Host: velaflowsHost, Target: inboxPath, Header: inbox().Header,
			Body: "{}", Trailer: everything}, identity: live.inWorkspace(m.home)},
		{name: "overriding headers", Request: inbox(forged(overridingHeaders...)...), identity: live.inWorkspace(m.home)},
		{name: "overriding headers on a public route", Request: wire.Request{Host: velocityHost, Target: publicPath, Header: forged(overridingHeaders...)},
			identity: anonymous("velocity")},
		{name: "Connection lists headers that the sidecar sets", Request: key.request(issuesPath, [2]string{"Connection", "x-keywicket-subject, x-workspace-slug"}),
			want: map[string]string{"HTTP/2": "closed"}, identity: key.inWorkspace(m.home)},
		{name: "a credential on a public route", Request: live.request(publicPath), identity: with(anonymous("velaflows"), "authorization", "Bearer "+live.token)},
		{name: "two credentials", Request: inbox([2]string{"Authorization", "Bearer " + live.token}), want: denied(wire.Malformed)},
		{name: "two credentials of two APIs", Request: inbox([2]string{"Authorization", "Bearer " + key.token}), want: denied(wire.Malformed)},

		{name: "a sandbox key", Request: sandbox.request(inboxPath, id(m.home)), identity: sandbox.inWorkspace(m.home)},
		{name: "a live key with a header for the sandbox", Request: inbox([2]string{"x-keywicket-environment", "sandbox"}), identity: live.inWorkspace(m.home)},
		{name: "a sandbox key with a header for live", Request: sandbox.request(inboxPath, id(m.home), [2]string{"x-keywicket-environment", "live"}),
			identity: sandbox.inWorkspace(m.home)},

		{name: "no workspace where one is required", Request: live.request(inboxPath), want: denied("403 WORKSPACE_ACCESS_DENIED workspace_required")},
		{name: "another workspace", Request: live.request(inboxPath, id(m.other)), want: denied(wire.Mismatch)},
		{name: "the same workspace twice", Request: inbox(id(m.home)), want: denied(wire.Mismatch)},
		{name: "two workspaces", Request: inbox(id(m.other)), want: denied(wire.Mismatch)},
		{name: "a workspace and an empty workspace", Request: inbox([2]string{"x-workspace-id", ""}), want: denied(wire.Mismatch)},
		{name: "a workspace with a byte that is not ASCII", Request: live.request(inboxPath, [2]string{"x-workspace-id", m.home.ID[:23] + "\xff"}),
			want: denied(wire.Mismatch)},
		{name: "a workspace on a public route", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{id(m.home)}},
			identity: anonymous("velaflows")},
		// The other API's header has no special meaning.
		{name: "the other API's workspace header", Request: inbox(slug(m.other)), identity: with(live.inWorkspace(m.home), "x-workspace-slug", m.other.Slug)},
		{name: "a workspace's key without a workspace header", Request: key.request(issuesPath), identity: key.inWorkspace(m.home)},
		{name: "a workspace's key in its workspace", Request: key.request(issuesPath, slug(m.home)), identity: key.inWorkspace(m.home)},
		{name: "a workspace's key in another workspace", Request: key.request(issuesPath, slug(m.other)), want: denied(wire.Mismatch)},
		{name: "a workspace's key with its workspace twice", Request: key.request(issuesPath, slug(m.home), slug(m.home)), want: denied(wire.Mismatch)},
		{name: "a user's key in the user's workspace", Request: personal.request(issuesPath, slug(m.home)), identity: personal.inWorkspace(m.home)},
		{name: "a user's key in another workspace", Request: personal.request(issuesPath, slug(m.other)), want: denied(wire.Mismatch)},
		{name: "a user's key without a workspace header", Request: personal.request(profilePath), identity: personal.identity},
		{name: "a workspace on Velocity's public route", Request: wire.Request{Host: velocityHost, Target: publicPath, Header: [][2]string{slug(m.other)}},
			identity: anonymous("velocity")},
	}
	// Envoy Gateway refuses names with underscores.
	refusedByGateway := map[string]string{threats.EnvoyGateway: "400", threats.EnvoyGateway + " HTTP/2": "reset"}
	for _, name := range []string{
		"x_keywicket_subject", "x-keywicket_subject", "X_Keywicket_Scopes", "x_keywicket_role", "x_workspace_id",
		"x_original_url", "x_rewrite_url", "x-http_method_override", "x_http_method", "x_method_override", "x_envoy_original_path",
	} {
		cases = append(cases, meshCase{name: name, Request: inbox(forged(name)...), want: refusedByGateway, identity: live.inWorkspace(m.home)})
	}
	cases = append(cases, meshCase{name: "x_workspace_slug", Request: key.request(issuesPath, [2]string{"x_workspace_slug", m.other.Slug}),
		want: refusedByGateway, identity: key.inWorkspace(m.home)})
	for _, name := range []string{
		"x.keywicket.subject", "x-keywicket.subject", "x!keywicket#aal", "x~keywicket~role", "x.workspace.id", "x|original|url", "x'http'method",
	} {
		cases = append(cases, meshCase{name: name, Request: inbox(forged(name)...), identity: live.inWorkspace(m.home), hidden: map[string]string{name: "forged"}})
	}
	cases = append(cases, meshCase{name: "x.workspace.slug", Request: key.request(issuesPath, [2]string{"x.workspace.slug", m.other.Slug}),
		identity: key.inWorkspace(m.home), hidden: map[string]string{"x.workspace.slug": m.other.Slug}})
	return append(cases, hostCases(live, key, id(m.home))...)
}

// hostCases returns requests to several hosts. For each host, Envoy and the sidecar must select the same API. Otherwise the
// request must be refused.
func hostCases(live, key principal, home [2]string) []meshCase {
	to := func(host string) wire.Request { return wire.Request{Host: host, Target: publicPath} }
	unknown := map[string]string{"": "401 UNAUTHORIZED unknown"}
	atVelocity, atVelaflows := live.request(inboxPath, home), key.request(issuesPath)
	atVelocity.Host, atVelaflows.Host = velocityHost, velaflowsHost
	cases := []meshCase{
		{name: "a key of VelaFlows at Velocity", Request: atVelocity, want: unknown},
		{name: "a key of Velocity at VelaFlows", Request: atVelaflows, want: unknown},
		{name: "two hosts", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{{"Host", velocityHost}}},
			want: map[string]string{"HTTP/1.1": wire.UnknownHost}, identity: anonymous("velaflows")}, // over HTTP/2, Envoy and the sidecar use only :authority
		{name: "one host twice", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{{"Host", velaflowsHost}}},
			want: map[string]string{"HTTP/1.1": wire.UnknownHost}, identity: anonymous("velaflows")},
		{name: "no :authority", Request: wire.Request{Host: "-", Target: publicPath, Header: [][2]string{{"Host", velocityHost}}},
			identity: anonymous("velocity"), upstreamHost: velocityHost},
		{name: "another host in X-Forwarded-Host", identity: anonymous("velaflows"),
			Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{{"X-Forwarded-Host", velocityHost}}}},
		{name: "no host", Request: to("-"), want: map[string]string{"HTTP/1.1": "400", "HTTP/2": "closed"}},
		{name: "an absolute URL to another host", Request: wire.Request{Host: velaflowsHost, Target: "http://" + velocityHost + publicPath},
			want: map[string]string{"HTTP/2": "closed"}, identity: anonymous("velocity"), upstreamPath: publicPath, upstreamHost: velocityHost},
		{name: "an absolute URL to another host, with a key", Request: wire.Request{Host: velaflowsHost, Target: "http://" + velocityHost + inboxPath,
			Header: live.request("", home).Header}, want: map[string]string{"": "401 UNAUTHORIZED unknown", "HTTP/2": "closed"}},
		{name: "an absolute URL to a host of no API", Request: wire.Request{Host: velaflowsHost, Target: "http://evil.test" + publicPath},
			want: map[string]string{"": wire.UnknownHost, "HTTP/2": "closed"}},
	}
	for _, host := range []string{
		"velaflows.test", "VELAFLOWS.TEST", "VelaFlows.Test:8000", "velaflows.test:80", "velaflows.test:", "velaflows.test:0", "velaflows.test:080",
		"velaflows.test:65536", "velaflows.test:99999999999999999999999",
	} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), identity: anonymous("velaflows")})
	}
	for _, host := range []string{
		"evil.test", "test", "a.velaflows.test", "velaflows.test.", "velaflows.test.:80", "velaflows.test,velocity.test", "velocity.test,velaflows.test",
		"velaflows.test:80,velocity.test", "velaflows.test:80:80", "velaflows.test::80", "velaflows.test:+80", "velaflows.test:0x50",
		"velaflows%2etest", "velaflows.test%20", "[velaflows.test]", "[::1]", "*", "*.velaflows.test",
	} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), want: map[string]string{"": wire.UnknownHost}})
	}
	for _, host := range []string{"velaflows.test@velocity.test", "velocity.test@velaflows.test"} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), want: map[string]string{"": wire.UnknownHost, "HTTP/2": "closed"}})
	}
	for _, host := range []string{"velaflows.test/", "velaflows.test#", "velaflows.test?", `velaflows.test\`, "velaflows.te\u017ft"} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), want: map[string]string{"": "400", "HTTP/2": "closed"}})
	}
	return cases
}
