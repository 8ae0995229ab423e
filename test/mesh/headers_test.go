package mesh

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/threats"
	"github.com/keywicket/keywicket/test/wire"
)

// The Envoys of the meshes do not have the settings of deploy/envoy. For every client input, the upstream still receives
// exactly what the sidecar checked and set.
func TestMeshes(t *testing.T) {
	t.Parallel()
	for _, variant := range []struct {
		name, mesh       string
		edits            []edit
		sendsEveryHeader bool // Envoy sends every header with the check
	}{
		{name: threats.Istio, mesh: threats.Istio, sendsEveryHeader: true},
		{name: threats.EnvoyGateway, mesh: threats.EnvoyGateway, edits: []edit{everyHeader}, sendsEveryHeader: true},
		{name: threats.EnvoyGateway + " with headersToExtAuth", mesh: threats.EnvoyGateway},
	} {
		t.Run(variant.name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, variant.mesh, variant.edits...)
			token := func(scope string) string { return m.principal(t, "sk_live_", scope).token }
			h := threats.Inputs{
				Inbox: token("inbox:read"), Contacts: token("contacts:read"), Admin: token("admin:all"), Home: m.home.ID, Other: m.other.ID,
			}
			good := wire.Request{Host: velaflowsHost, Target: inboxPath,
				Header: [][2]string{{"Authorization", "Bearer " + h.Inbox}, {"x-workspace-id", h.Home}}}
			cases := m.cases(t)
			for _, protocol := range wire.HTTPProtocols {
				t.Run(protocol, func(t *testing.T) {
					s := m.newClient(protocol)
					defer s.Close()
					for _, c := range cases {
						c.check(t, s, variant.mesh, variant.sendsEveryHeader)
					}
					for _, threat := range h.Threats() {
						want := threat.OutcomeInMesh(variant.mesh, protocol)
						if want == "-" {
							continue
						}
						seen := threat.Received
						if threat.ReceivedWithoutAllHeaders != nil && !variant.sendsEveryHeader {
							seen = maps.Clone(seen)
							maps.Copy(seen, threat.ReceivedWithoutAllHeaders)
						}
						threat.Host = cmp.Or(threat.Host, velaflowsHost)
						s.Expect(t, threat.String(), threat.Request, want).CheckUpstream(t, threat.String(), seen)
						s.Expect(t, "after "+threat.String(), good, "allow").CheckUpstream(t, threat.String(), nil)
					}
				})
			}
			// Without a sidecar, Envoy refuses every request, even requests to public routes.
			if err := m.Sidecar.Stop(); err != nil {
				t.Fatal(err)
			}
			for _, protocol := range wire.HTTPProtocols {
				s := m.newClient(protocol)
				s.Expect(t, "no sidecar, "+protocol, good, "403")
				s.Expect(t, "no sidecar, a public route, "+protocol, wire.Request{Host: velaflowsHost, Target: publicPath}, "403")
				s.Close()
			}
		})
	}
}

// If Envoy does not send a workspace header with the check, the header gives no access to a workspace. The sidecar sets and
// removes headers by their exact names, so a client cannot forge headers with these names. But headers with other spellings of
// these names reach the upstream. The upstream may treat these spellings as equal.
func TestMeshThatHidesHeaders(t *testing.T) {
	t.Parallel()
	m := newMesh(t, threats.EnvoyGateway, noWorkspaceHeader, underscores)
	live, key := m.principal(t, "sk_live_", "inbox:read"), m.principal(t, "vel_", "issues:read")
	personal := m.principal(t, "velu_", "issues:read", "user:read")
	home, other := [2]string{"x-workspace-id", m.home.ID}, [2]string{"x-workspace-slug", m.other.Slug}
	required := map[string]string{"": "403 WORKSPACE_ACCESS_DENIED workspace_required"}
	named := forged(slices.Concat(identityHeaders, overridingHeaders)...)
	cases := []meshCase{
		{name: "VelaFlows requires a workspace", Request: live.request(inboxPath, home), want: required},
		{name: "a workspace's key", Request: key.request(issuesPath, other), identity: key.inWorkspace(m.home)},
		{name: "a user's key", Request: personal.request(issuesPath, other), want: required},
		{name: "a user's key where no workspace is needed", Request: personal.request(profilePath, other), identity: personal.identity},
		{name: "a public route", Request: wire.Request{Host: velocityHost, Target: publicPath, Header: slices.Concat(named, [][2]string{other})}, identity: anonymous("velocity")},
		{name: "a public route of VelaFlows",
			Request: wire.Request{Host: velaflowsHost, Target: publicPath, Header: slices.Concat(named, [][2]string{home})}, identity: anonymous("velaflows")},
		{name: "identity and overriding headers", Request: key.request(issuesPath, named...), identity: key.inWorkspace(m.home)},
	}
	for _, name := range []string{"x-keywicket-role", "x_keywicket_subject", "x_workspace_slug", "x_original_url"} {
		cases = append(cases, meshCase{name: name, Request: key.request(issuesPath, forged(name)...), identity: key.inWorkspace(m.home),
			hidden: map[string]string{name: "forged"}})
	}
	for _, protocol := range wire.HTTPProtocols {
		s := m.newClient(protocol)
		for _, c := range cases {
			c.check(t, s, threats.EnvoyGateway, false)
		}
		s.Close()
	}
}

// The tests above would detect a header that the sidecar did not remove. To show this, this test uses an Envoy that ignores
// the sidecar's header changes.
func TestMeshTestsDetectForgedHeaders(t *testing.T) {
	t.Parallel()
	m := newMesh(t, threats.Istio, edit{"              failure_mode_allow: false\n",
		"              failure_mode_allow: false\n              decoder_header_mutation_rules: {disallow_all: true}\n"})
	cases := m.cases(t)
	for _, protocol := range wire.HTTPProtocols {
		s := m.newClient(protocol)
		for _, c := range cases {
			if c.outcome(threats.Istio, protocol) != "allow" {
				continue
			}
			noticed := c.differences(s.Expect(t, c.name, c.Request, "allow"), true)
			if len(noticed) == 0 {
				t.Errorf("%s, %s: no difference was detected", protocol, c.name)
			}
			for _, h := range c.Header {
				name := strings.ToLower(h[0])
				if c.identity[name] == h[1] || len(sensitiveHeaders(map[string][]string{name: nil})) == 0 {
					continue
				}
				if name == "x-envoy-original-path" || strings.HasPrefix(c.name, "Connection") {
					continue // Envoy itself removes these headers
				}
				if !slices.ContainsFunc(noticed, func(n string) bool { return strings.HasPrefix(n, name+" ") && strings.Contains(n, h[1]) }) {
					t.Errorf("%s, %s: %s arrived, and only these differences were detected: %q", protocol, c.name, name, noticed)
				}
			}
		}
		s.Close()
	}
}
