package mesh

import (
	"net/http"
	"testing"

	"github.com/keywicket/keywicket/test/threats"
)

// A mesh can also have a CORS policy. Envoy Gateway evaluates it before the check, like deploy/envoy. Istio evaluates it after the
// check, so the sidecar refuses preflight requests, and scripts of other origins cannot read denials.
func TestMeshOrigins(t *testing.T) {
	t.Parallel()
	const origin = "https://app.example"
	const policy = `
                  envoy.filters.http.cors:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy
                    allow_origin_string_match: [{exact: "` + origin + `"}]
                    allow_headers: authorization, x-workspace-id
`
	const istioRoute = "                # pilot/pkg/networking/core/route/route.go, setTimeout, and route/retry/retry.go\n"
	const gatewayRoute = "                typed_per_filter_config: &enabled\n"
	const gatewayFilters = "          http_filters:\n"
	type result struct {
		status   int
		readable bool
		reached  int64
	}
	for _, variant := range []struct {
		mesh                       string
		edits                      []edit
		preflight, denied, allowed result
	}{
		{threats.Istio, []edit{{istioRoute, "                typed_per_filter_config:" + policy + istioRoute}},
			result{401, false, 0}, result{401, false, 0}, result{200, true, 1}},
		{threats.EnvoyGateway, []edit{{gatewayRoute, gatewayRoute[:len(gatewayRoute)-1] + policy},
			{gatewayFilters, gatewayFilters + `          - name: envoy.filters.http.cors
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
`}}, result{200, true, 0}, result{401, true, 0}, result{200, true, 1}},
	} {
		t.Run(variant.mesh, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, variant.mesh, variant.edits...)
			key := m.principal(t, "sk_live_", "inbox:read")
			for _, c := range []struct {
				method string
				header [][2]string
				want   result
			}{
				{"OPTIONS", [][2]string{{"Access-Control-Request-Method", "GET"}, {"Access-Control-Request-Headers", "authorization"}}, variant.preflight},
				{"GET", nil, variant.denied},
				{"GET", [][2]string{{"Authorization", "Bearer " + key.token}, {"X-Workspace-Id", m.home.ID}}, variant.allowed},
			} {
				r, err := http.NewRequestWithContext(t.Context(), c.method, m.VelaFlows+inboxPath, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Host = velaflowsHost
				r.Header.Set("Origin", origin)
				for _, h := range c.header {
					r.Header.Set(h[0], h[1])
				}
				before := m.Live.Count()
				a, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = a.Body.Close()
				got := result{a.StatusCode, a.Header.Get("Access-Control-Allow-Origin") == origin, m.Live.Count() - before}
				if got != c.want {
					t.Errorf("%s with %v: got %+v, want %+v", c.method, c.header, got, c.want)
				}
			}
		})
	}
}
