package mesh

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/threats"
	"github.com/keywicket/keywicket/test/wire"
)

// Row 38 of docs/security.md: if Envoy selects the upstream by a header that the sidecar sets, Envoy has to select again
// after the check. Envoy Gateway selects again if recomputeRoute is set. Istio never selects again.
func TestMeshRouteByEnvironment(t *testing.T) {
	t.Parallel()
	const route = `              - match: {prefix: /, headers: [{name: x-keywicket-environment, string_match: {exact: sandbox}}]}
                route: {cluster: upstream_sandbox}
`
	const enabled = `                typed_per_filter_config:
                  envoy.filters.http.ext_authz/securitypolicy/default/keywicket:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                    check_settings: {}
`
	domain := "              domains: [" + velaflowsHost + "]\n"
	attempts := "              include_request_attempt_count: true\n"
	routes := "              routes:\n"
	for _, variant := range []struct {
		name, mesh string
		edits      []edit
		upstreams  map[string]string // "KEY" or "KEY, ENVIRONMENT THAT THE CLIENT CLAIMS" → the upstream that Envoy selects
	}{
		{"Istio", threats.Istio, []edit{{domain + attempts + routes, domain + attempts + routes + route}},
			map[string]string{"live": "live", "live, sandbox": "sandbox", "sandbox": "live", "sandbox, live": "live"}},
		{"Envoy Gateway", threats.EnvoyGateway, []edit{{domain + routes, domain + routes + route + enabled}},
			map[string]string{"live": "live", "live, sandbox": "sandbox", "sandbox": "live", "sandbox, live": "live"}},
		{"Envoy Gateway with recomputeRoute", threats.EnvoyGateway, []edit{{domain + routes, domain + routes + route + enabled},
			{"              failure_mode_allow: false\n", "              failure_mode_allow: false\n              clear_route_cache: true\n"}},
			map[string]string{"live": "live", "live, sandbox": "live", "sandbox": "sandbox", "sandbox, live": "sandbox"}},
	} {
		t.Run(variant.name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, variant.mesh, variant.edits...)
			keys := map[string]principal{"live": m.principal(t, "sk_live_", "inbox:read"), "sandbox": m.principal(t, "sk_test_", "inbox:read")}
			for _, protocol := range wire.HTTPProtocols {
				s := m.newClient(protocol)
				for asked, upstream := range variant.upstreams {
					key, forged, _ := strings.Cut(asked, ", ")
					header := [][2]string{{"x-workspace-id", m.home.ID}}
					if forged != "" {
						header = append(header, [2]string{"x-keywicket-environment", forged})
					}
					s.Expect(t, asked, keys[key].request(inboxPath, header...), "allow").CheckUpstream(t, protocol+", "+asked, map[string][]string{
						":upstream": {upstream}, "x-keywicket-environment": {key}})
				}
				s.Close()
			}
		})
	}
}
