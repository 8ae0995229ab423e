package mesh

import (
	"maps"
	"slices"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/threats"
	"github.com/keywicket/keywicket/test/wire"
)

// cases returns the requests with headers that a client must not set, with workspaces, and to several hosts.
func (m *mesh) cases(t *testing.T) []meshCase {
	t.Helper()
	live, sandbox := m.principal(t, "sk_live_", "inbox:read"), m.principal(t, "sk_test_", "inbox:read")
	key, personal := m.principal(t, "vel_", "issues:read"), m.principal(t, "velu_", "issues:read", "user:read")
	id := func(w registry.Workspace) [2]string { return [2]string{"x-workspace-id", w.ID} }
	slug := func(w registry.Workspace) [2]string { return [2]string{"x-workspace-slug", w.Slug} }
	inbox := func(header ...[2]string) wire.Request {
		return live.ask(inboxPath, slices.Concat(header, [][2]string{id(m.home)})...)
	}
	denied := func(outcome string) map[string]string { return map[string]string{"": outcome} }
	with := func(told map[string]string, name, value string) map[string]string {
		told = maps.Clone(told)
		told[name] = value
		return told
	}

	everything := forged(slices.Concat(identityHeaders, []string{"x-keywicket-subject", "x-keywicket-role"})...)
	role := map[string]string{"x-keywicket-role": "forged"}
	cases := []meshCase{
		{name: "a workspace", Request: inbox(), told: live.in(m.home)},
		{name: "identity headers", Request: inbox(everything...), told: live.in(m.home), hidden: role},
		{name: "identity headers, of a user's key", Request: personal.ask(profilePath, everything...), told: personal.told, hidden: role},
		{name: "identity headers on a public route", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: everything},
			told: anonymous("velaflows"), hidden: role},
		{name: "identity headers without a credential", Request: wire.Request{Host: velaflowsHost, Target: inboxPath, Header: everything},
			want: denied(wire.Missing)},
		{name: "identity headers in the trailers", Request: wire.Request{Method: "GET", Host: velaflowsHost, Target: inboxPath, Header: inbox().Header,
			Body: "{}", Trailer: everything}, told: live.in(m.home)},
		{name: "overriding headers", Request: inbox(forged(overridingHeaders...)...), told: live.in(m.home)},
		{name: "overriding headers on a public route", Request: wire.Request{Host: velocityHost, Target: publicPath, Header: forged(overridingHeaders...)},
			told: anonymous("velocity")},
		{name: "Connection names what the sidecar sets", Request: key.ask(issuesPath, [2]string{"Connection", "x-keywicket-subject, x-workspace-slug"}),
			want: map[string]string{"HTTP/2": "closed"}, told: key.in(m.home)},
		{name: "a credential on a public route", Request: live.ask(publicPath), told: with(anonymous("velaflows"), "authorization", "Bearer "+live.token)},
		{name: "two credentials", Request: inbox([2]string{"Authorization", "Bearer " + live.token}), want: denied(wire.Malformed)},
		{name: "two credentials of two APIs", Request: inbox([2]string{"Authorization", "Bearer " + key.token}), want: denied(wire.Malformed)},

		{name: "a sandbox key", Request: sandbox.ask(inboxPath, id(m.home)), told: sandbox.in(m.home)},
		{name: "a live key that asks for the sandbox", Request: inbox([2]string{"x-keywicket-environment", "sandbox"}), told: live.in(m.home)},
		{name: "a sandbox key that asks for live", Request: sandbox.ask(inboxPath, id(m.home), [2]string{"x-keywicket-environment", "live"}),
			told: sandbox.in(m.home)},

		{name: "no workspace where one is required", Request: live.ask(inboxPath), want: denied("403 WORKSPACE_ACCESS_DENIED workspace_required")},
		{name: "another workspace", Request: live.ask(inboxPath, id(m.other)), want: denied(wire.Mismatch)},
		{name: "a workspace twice", Request: inbox(id(m.home)), want: denied(wire.Mismatch)},
		{name: "two workspaces", Request: inbox(id(m.other)), want: denied(wire.Mismatch)},
		{name: "a workspace beside an empty one", Request: inbox([2]string{"x-workspace-id", ""}), want: denied(wire.Mismatch)},
		{name: "a workspace with a byte that is not ASCII", Request: live.ask(inboxPath, [2]string{"x-workspace-id", m.home.ID[:23] + "\xff"}),
			want: denied(wire.Mismatch)},
		{name: "a workspace on a public route", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{id(m.home)}},
			told: anonymous("velaflows")},
		// The other API's header has no special meaning.
		{name: "the other API's workspace header", Request: inbox(slug(m.other)), told: with(live.in(m.home), "x-workspace-slug", m.other.Slug)},
		{name: "a workspace's key alone", Request: key.ask(issuesPath), told: key.in(m.home)},
		{name: "a workspace's key in its workspace", Request: key.ask(issuesPath, slug(m.home)), told: key.in(m.home)},
		{name: "a workspace's key in another", Request: key.ask(issuesPath, slug(m.other)), want: denied(wire.Mismatch)},
		{name: "a workspace's key, its workspace twice", Request: key.ask(issuesPath, slug(m.home), slug(m.home)), want: denied(wire.Mismatch)},
		{name: "a user's key in their workspace", Request: personal.ask(issuesPath, slug(m.home)), told: personal.in(m.home)},
		{name: "a user's key in another", Request: personal.ask(issuesPath, slug(m.other)), want: denied(wire.Mismatch)},
		{name: "a user's key alone", Request: personal.ask(profilePath), told: personal.told},
		{name: "a workspace on Velocity's public route", Request: wire.Request{Host: velocityHost, Target: publicPath, Header: [][2]string{slug(m.other)}},
			told: anonymous("velocity")},
	}
	// Envoy Gateway refuses names with underscores.
	refusedByGateway := map[string]string{threats.Gateway: "400", threats.Gateway + " HTTP/2": "reset"}
	for _, name := range []string{
		"x_keywicket_subject", "x-keywicket_subject", "X_Keywicket_Scopes", "x_keywicket_role", "x_workspace_id",
		"x_original_url", "x_rewrite_url", "x-http_method_override", "x_http_method", "x_method_override", "x_envoy_original_path",
	} {
		cases = append(cases, meshCase{name: name, Request: inbox(forged(name)...), want: refusedByGateway, told: live.in(m.home)})
	}
	cases = append(cases, meshCase{name: "x_workspace_slug", Request: key.ask(issuesPath, [2]string{"x_workspace_slug", m.other.Slug}),
		want: refusedByGateway, told: key.in(m.home)})
	for _, name := range []string{
		"x.keywicket.subject", "x-keywicket.subject", "x!keywicket#aal", "x~keywicket~role", "x.workspace.id", "x|original|url", "x'http'method",
	} {
		cases = append(cases, meshCase{name: name, Request: inbox(forged(name)...), told: live.in(m.home), hidden: map[string]string{name: "forged"}})
	}
	cases = append(cases, meshCase{name: "x.workspace.slug", Request: key.ask(issuesPath, [2]string{"x.workspace.slug", m.other.Slug}),
		told: key.in(m.home), hidden: map[string]string{"x.workspace.slug": m.other.Slug}})
	return append(cases, hostCases(live, key, id(m.home))...)
}

// hostCases: a client gets the rules and the upstream of one API, or is refused.
func hostCases(live, key principal, home [2]string) []meshCase {
	to := func(host string) wire.Request { return wire.Request{Host: host, Target: publicPath} }
	unknown := map[string]string{"": "401 UNAUTHORIZED unknown"}
	atVelocity, atVelaflows := live.ask(inboxPath, home), key.ask(issuesPath)
	atVelocity.Host, atVelaflows.Host = velocityHost, velaflowsHost
	cases := []meshCase{
		{name: "a key of VelaFlows at Velocity", Request: atVelocity, want: unknown},
		{name: "a key of Velocity at VelaFlows", Request: atVelaflows, want: unknown},
		{name: "two hosts", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{{"Host", velocityHost}}},
			want: map[string]string{"HTTP/1.1": wire.NoHost}, told: anonymous("velaflows")}, // over HTTP/2 only :authority counts
		{name: "one host twice", Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{{"Host", velaflowsHost}}},
			want: map[string]string{"HTTP/1.1": wire.NoHost}, told: anonymous("velaflows")},
		{name: "no :authority", Request: wire.Request{Host: "-", Target: publicPath, Header: [][2]string{{"Host", velocityHost}}},
			told: anonymous("velocity"), at: velocityHost},
		{name: "another host in X-Forwarded-Host", told: anonymous("velaflows"),
			Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: [][2]string{{"X-Forwarded-Host", velocityHost}}}},
		{name: "no host", Request: to("-"), want: map[string]string{"HTTP/1.1": "400", "HTTP/2": "closed"}},
		{name: "an absolute URL to another host", Request: wire.Request{Host: velaflowsHost, Target: "http://" + velocityHost + publicPath},
			want: map[string]string{"HTTP/2": "closed"}, told: anonymous("velocity"), path: publicPath, at: velocityHost},
		{name: "an absolute URL to another host, with a key", Request: wire.Request{Host: velaflowsHost, Target: "http://" + velocityHost + inboxPath,
			Header: live.ask("", home).Header}, want: map[string]string{"": "401 UNAUTHORIZED unknown", "HTTP/2": "closed"}},
		{name: "an absolute URL to no host of ours", Request: wire.Request{Host: velaflowsHost, Target: "http://evil.test" + publicPath},
			want: map[string]string{"": wire.NoHost, "HTTP/2": "closed"}},
	}
	for _, host := range []string{
		"velaflows.test", "VELAFLOWS.TEST", "VelaFlows.Test:8000", "velaflows.test:80", "velaflows.test:", "velaflows.test:0", "velaflows.test:080",
		"velaflows.test:65536", "velaflows.test:99999999999999999999999",
	} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), told: anonymous("velaflows")})
	}
	for _, host := range []string{
		"evil.test", "test", "a.velaflows.test", "velaflows.test.", "velaflows.test.:80", "velaflows.test,velocity.test", "velocity.test,velaflows.test",
		"velaflows.test:80,velocity.test", "velaflows.test:80:80", "velaflows.test::80", "velaflows.test:+80", "velaflows.test:0x50",
		"velaflows%2etest", "velaflows.test%20", "[velaflows.test]", "[::1]", "*", "*.velaflows.test",
	} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), want: map[string]string{"": wire.NoHost}})
	}
	for _, host := range []string{"velaflows.test@velocity.test", "velocity.test@velaflows.test"} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), want: map[string]string{"": wire.NoHost, "HTTP/2": "closed"}})
	}
	for _, host := range []string{"velaflows.test/", "velaflows.test#", "velaflows.test?", `velaflows.test\`, "velaflows.te\u017ft"} {
		cases = append(cases, meshCase{name: "host " + host, Request: to(host), want: map[string]string{"": "400", "HTTP/2": "closed"}})
	}
	return cases
}
