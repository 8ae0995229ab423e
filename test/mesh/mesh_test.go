// Package mesh runs the sidecar behind the listeners that two meshes generate (testdata). A mesh generates Envoy's configuration
// itself, so the settings of deploy/envoy do not apply. The sidecar selects the API by the host.
package mesh

import (
	"bytes"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/threats"
	"github.com/keywicket/keywicket/test/wire"
)

const velaflowsHost = "velaflows.test"

const velocityHost = "velocity.test"

var meshFiles = map[string]string{threats.Istio: "testdata/istio.yaml", threats.EnvoyGateway: "testdata/envoy-gateway.yaml"}

// mesh is a stack whose Envoy has the configuration of a mesh. Its route for VelaFlows has the upstream "live". Its route
// for Velocity also serves every unknown host, and has the upstream "sandbox".
type mesh struct {
	*demo.Stack
	log         syncbuffer.Buffer
	registry    *registry.Registry
	home, other registry.Workspace
	user        registry.User // an owner of home
}

// edit replaces a text that occurs once in the configuration.
type edit struct{ from, to string }

var (
	// everyHeader is the edit for an Envoy Gateway without headersToExtAuth. Envoy then sends every header with the check.
	everyHeader = edit{`              allowed_headers:
                patterns:
                - {exact: authorization, ignore_case: true}
                - {exact: x-workspace-id, ignore_case: true}
                - {exact: x-workspace-slug, ignore_case: true}
`, ""}
	// noWorkspaceHeader is the edit for an Envoy Gateway whose headersToExtAuth lists only authorization.
	noWorkspaceHeader = edit{`                - {exact: x-workspace-id, ignore_case: true}
                - {exact: x-workspace-slug, ignore_case: true}
`, ""}
	// underscores is the edit for an Envoy Gateway with a ClientTrafficPolicy that allows underscores in header names.
	underscores = edit{"          common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}\n", ""}
)

func newMesh(t *testing.T, name string, edits ...edit) *mesh {
	t.Helper()
	defaults, err := os.ReadFile("../../service/config/defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, apis, _ := bytes.Cut(defaults, []byte("\napis:\n"))
	apis = harness.Replace(t, apis, "  velaflows:\n    hosts: []", "  velaflows:\n    hosts: ["+velaflowsHost+"]", 1)
	apis = harness.Replace(t, apis, "  velocity:\n    hosts: []", "  velocity:\n    hosts: ["+velocityHost+"]", 1)
	config := filepath.Join(t.TempDir(), "keywicket.yaml")
	harness.AppendFile(t, config, "apis:\n"+string(apis))

	m := &mesh{}
	m.Stack = harness.StartStack(t, demo.Config{
		Environ:     []string{"KEYWICKET_CONFIG=" + config, "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}, // CI is slow
		EnvoyConfig: meshConfig(t, name, edits),
		Log:         &m.log,
	})
	if m.registry, err = registry.Open(t.Context(), m.DatabaseURL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.registry.Close() })
	for slug, w := range map[string]*registry.Workspace{"home": &m.home, "other": &m.other} {
		if *w, err = m.registry.CreateWorkspace(t.Context(), registry.Workspace{Slug: slug, Name: slug}); err != nil {
			t.Fatal(err)
		}
	}
	if m.user, err = m.registry.CreateUser(t.Context(), registry.User{Email: "ada@example.com"}); err != nil {
		t.Fatal(err)
	}
	if _, err = m.registry.SetMember(t.Context(), m.home.ID, m.user.ID, "owner"); err != nil {
		t.Fatal(err)
	}
	return m
}

// meshConfig returns a function that replaces the configuration of deploy/envoy with the configuration of the mesh. The
// addresses stay the same.
func meshConfig(t *testing.T, name string, edits []edit) func([]byte) []byte {
	t.Helper()
	text, err := os.ReadFile(meshFiles[name])
	if err != nil {
		t.Fatal(err)
	}
	const cluster = "  - name: upstream_live\n"
	_, live, _ := bytes.Cut(text, []byte(cluster))
	second := strings.NewReplacer("upstream_live", "upstream_sandbox", "8080", "8081").Replace(cluster + string(live))
	text = append(text, second...)
	for _, e := range append([]edit{
		// With this edit, Envoy also checks requests to hosts that belong to no API.
		{"domains: [" + velocityHost + "]", "domains: [" + velocityHost + `, "*"]`},
		{"route: *live", "route: {cluster: upstream_sandbox}"},
		// For the time delayed_close_timeout, Envoy keeps a connection with a refused request open. The default of 1 s makes
		// the tests slower.
		{"          normalize_path: true\n", "          normalize_path: true\n          delayed_close_timeout: 0.1s\n"},
	}, edits...) {
		text = harness.Replace(t, text, e.from, e.to, 1)
	}
	return func(own []byte) []byte {
		a, err := bootstrap.Read(own)
		if err != nil {
			t.Fatal(err)
		}
		rendered := text
		for port, address := range map[string]string{
			"9901": a.Admin, "8000": a.Listeners["velaflows"], "9001": a.Clusters["keywicket"],
			"8080": a.Clusters["upstream_live"], "8081": a.Clusters["upstream_sandbox"],
		} {
			_, to, err := net.SplitHostPort(address) // every host is 127.0.0.1, as in the file
			if err != nil {
				t.Fatal(err)
			}
			rendered = harness.Replace(t, rendered, "port_value: "+port+"}", "port_value: "+to+"}", 1)
		}
		return rendered
	}
}

// newClient returns a client of the mesh's only listener.
func (m *mesh) newClient(protocol string) *wire.Client {
	return &wire.Client{Stack: m.Stack, Protocol: protocol, API: "velaflows", MeshEnvoy: true}
}

// principal is a credential, with the identity headers that the sidecar sets for it.
type principal struct {
	token    string
	identity map[string]string // identity headers that the upstream receives: header → value
}

// principal creates a credential. If the prefix is velu_, the credential belongs to the owner of the workspace `home`.
// Otherwise it belongs to this workspace.
func (m *mesh) principal(t *testing.T, prefix string, scopes ...string) principal {
	t.Helper()
	n := registry.NewToken{Name: t.Name(), Scopes: scopes, Workspace: m.home.ID}
	if prefix == "velu_" {
		n.Workspace, n.User = "", m.user.ID
	}
	n.API, n.Format = product.FormatOf(prefix)
	token, secret, err := m.registry.CreateToken(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	identity := map[string]string{
		"x-keywicket-subject": token.ID, "x-keywicket-kind": string(token.Kind), "x-keywicket-api": token.API,
		"x-keywicket-scopes": strings.Join(scopes, " "), "x-keywicket-environment": string(token.Environment),
	}
	if n.User != "" {
		identity["x-keywicket-user-id"] = n.User
	}
	return principal{secret.Reveal(), identity}
}

// inWorkspace returns the identity headers of a request that acts in the workspace.
func (p principal) inWorkspace(w registry.Workspace) map[string]string {
	identity := maps.Clone(p.identity)
	identity["x-keywicket-workspace-id"], identity["x-keywicket-workspace-slug"] = w.ID, w.Slug
	if identity["x-keywicket-api"] == "velaflows" {
		identity["x-workspace-id"] = w.ID
	} else {
		identity["x-workspace-slug"] = w.Slug
	}
	return identity
}

// request returns a request for the path with the principal's credential.
func (p principal) request(target string, header ...[2]string) wire.Request {
	host := map[string]string{"velaflows": velaflowsHost, "velocity": velocityHost}[p.identity["x-keywicket-api"]]
	return wire.Request{Host: host, Target: target, Header: append([][2]string{{"Authorization", "Bearer " + p.token}}, header...)}
}

// anonymous returns the identity headers of a request to a public route.
func anonymous(api string) map[string]string { return map[string]string{"x-keywicket-api": api} }
