package test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/store/registry"
)

// A mesh generates Envoy's configuration itself, so the settings of deploy/envoy do not apply. These tests run the listeners
// that two meshes generate (testdata), in front of a sidecar that selects the API by the host.

const (
	istio   = "Istio"
	gateway = "Envoy Gateway"

	velaflowsHost = "velaflows.test"
	velocityHost  = "velocity.test"
)

var meshFiles = map[string]string{istio: "testdata/istio.yaml", gateway: "testdata/envoy-gateway.yaml"}

// mesh is a stack whose Envoy has the configuration of a mesh. Its route for VelaFlows has the upstream "live". Its route
// for Velocity, which serves every unknown host too, has the upstream "sandbox".
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
	// everyHeader is the edit for an Envoy Gateway without headersToExtAuth.
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
	defaults, err := os.ReadFile("../service/config/defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, apis, _ := bytes.Cut(defaults, []byte("\napis:\n"))
	apis = edited(t, apis, "  velaflows:\n    hosts: []", "  velaflows:\n    hosts: ["+velaflowsHost+"]", 1)
	apis = edited(t, apis, "  velocity:\n    hosts: []", "  velocity:\n    hosts: ["+velocityHost+"]", 1)
	config := filepath.Join(t.TempDir(), "keywicket.yaml")
	appendTo(t, config, "apis:\n"+string(apis))

	m := &mesh{}
	m.Stack = separateStack(t, demo.Config{
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

// meshConfig returns a function that replaces the configuration of deploy/envoy with the mesh's. The addresses stay the
// same.
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
		// With this edit Envoy checks requests to hosts that no API has.
		{"domains: [" + velocityHost + "]", "domains: [" + velocityHost + `, "*"]`},
		{"route: *live", "route: {cluster: upstream_sandbox}"},
		// The time that Envoy keeps a refused connection open. The default of 1 s would only slow the tests.
		{"          normalize_path: true\n", "          normalize_path: true\n          delayed_close_timeout: 0.1s\n"},
	}, edits...) {
		text = edited(t, text, e.from, e.to, 1)
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
			_, to, err := net.SplitHostPort(address) // on 127.0.0.1, as in the file
			if err != nil {
				t.Fatal(err)
			}
			rendered = edited(t, rendered, "port_value: "+port+"}", "port_value: "+to+"}", 1)
		}
		return rendered
	}
}

// sender returns a sender to the mesh's only listener.
func (m *mesh) sender(wire string) *sender {
	return &sender{stack: m.Stack, wire: wire, api: "velaflows", foreign: true}
}

// principal is a credential and the identity headers that it results in.
type principal struct {
	token string
	told  map[string]string // identity headers that the upstream receives: header → value
}

// principal creates a credential with the prefix, of the workspace home or of its owner.
func (m *mesh) principal(t *testing.T, prefix string, scopes ...string) principal {
	t.Helper()
	n := registry.NewToken{Name: t.Name(), Scopes: scopes, Workspace: m.home.ID}
	if prefix == "velu_" {
		n.Workspace, n.User = "", m.user.ID
	}
	n.API, n.Format = formatOf(prefix)
	token, secret, err := m.registry.CreateToken(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{
		"x-keywicket-subject": token.ID, "x-keywicket-kind": string(token.Kind), "x-keywicket-api": token.API,
		"x-keywicket-scopes": strings.Join(scopes, " "), "x-keywicket-environment": string(token.Environment),
	}
	if n.User != "" {
		told["x-keywicket-user-id"] = n.User
	}
	return principal{secret.Reveal(), told}
}

// in returns the identity headers of a request that acts in the workspace.
func (p principal) in(w registry.Workspace) map[string]string {
	told := maps.Clone(p.told)
	told["x-keywicket-workspace-id"], told["x-keywicket-workspace-slug"] = w.ID, w.Slug
	if told["x-keywicket-api"] == "velaflows" {
		told["x-workspace-id"] = w.ID
	} else {
		told["x-workspace-slug"] = w.Slug
	}
	return told
}

// ask returns a request for the path with the principal's credential.
func (p principal) ask(target string, header ...[2]string) message {
	host := map[string]string{"velaflows": velaflowsHost, "velocity": velocityHost}[p.told["x-keywicket-api"]]
	return message{host: host, target: target, header: append([][2]string{{"Authorization", "Bearer " + p.token}}, header...)}
}

// anonymous returns the identity headers of a request to a public route.
func anonymous(api string) map[string]string { return map[string]string{"x-keywicket-api": api} }

// meshCase is a request with its expected result.
type meshCase struct {
	name string
	message
	// want maps a mesh and a wire, a mesh, or a wire to the outcome. "" is for all others. Default: the request is allowed.
	want map[string]string
	// told has every trusted header that the upstream receives, except the decision ID: header → value.
	told map[string]string
	// hidden has further headers that the upstream receives if Envoy does not send every header with the check.
	hidden map[string]string
	// path and at are the path and the host that the upstream receives, if they differ from those sent.
	path, at string
}

func (c meshCase) outcome(mesh, wire string) string {
	return cmp.Or(c.want[mesh+" "+wire], c.want[mesh], c.want[wire], c.want[""], "allow")
}

var (
	punctuation = regexp.MustCompile(`[^a-z0-9]`)
	decisionID  = regexp.MustCompile(`^[A-Z2-7]{26}$`)
)

// trusted returns the credential, and the headers that a server may read as the gate's for any reading of punctuation in
// names.
func trusted(header map[string][]string) map[string][]string {
	names := slices.Concat([]string{"authorization", "x-workspace-id", "x-workspace-slug"}, overridingHeaders)
	found := map[string][]string{}
	for name, values := range header {
		plain := punctuation.ReplaceAllString(name, "-")
		if strings.HasPrefix(plain, "x-keywicket-") || slices.Contains(names, plain) {
			found[name] = values
		}
	}
	return found
}

// differences lists how the upstream's view of an allowed request differs from the expected one.
func (c meshCase) differences(s observation, everyHeaderIsShown bool) (found []string) {
	want := map[string][]string{}
	for name, value := range c.told {
		want[name] = []string{value}
	}
	if !everyHeaderIsShown {
		for name, value := range c.hidden {
			want[name] = []string{value}
		}
	}
	got := trusted(s.echo.Headers)
	const id = "x-keywicket-decision-id"
	if len(got[id]) != 1 || !decisionID.MatchString(got[id][0]) {
		found = append(found, fmt.Sprintf("%s %q", id, got[id]))
	}
	delete(got, id)
	want[":path"], got[":path"] = []string{cmp.Or(c.path, c.target)}, []string{s.echo.Path}
	want[":host"], got[":host"] = []string{cmp.Or(c.at, c.host)}, []string{s.echo.Host}
	upstream := map[string]string{"velaflows": "live", "velocity": "sandbox"}[c.told["x-keywicket-api"]]
	want[":upstream"], got[":upstream"] = []string{upstream}, []string{s.echo.Upstream}
	for name := range maps.Keys(want) {
		if !slices.Equal(got[name], want[name]) {
			found = append(found, fmt.Sprintf("%s %q, not %q", name, got[name], want[name]))
		}
		delete(got, name)
	}
	for name, values := range got {
		found = append(found, fmt.Sprintf("%s %q", name, values))
	}
	return found
}

// identityHeaders are the headers that the sidecar sets or removes.
var identityHeaders = []string{
	"x-keywicket-subject", "x-keywicket-kind", "x-keywicket-api", "x-keywicket-workspace-id", "x-keywicket-workspace-slug",
	"x-keywicket-user-id", "x-keywicket-scopes", "x-keywicket-aal", "x-keywicket-environment", "x-keywicket-decision-id",
}

// overridingHeaders are the headers of row 20 of docs/security.md.
var overridingHeaders = []string{
	"x-original-url", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override", "x-envoy-original-path",
}

const (
	inboxPath   = "/api/v1/inbox/conversations"
	issuesPath  = "/api/issues"
	profilePath = "/api/user" // belongs to no workspace
	publicPath  = "/healthz"  // in both APIs
)

func forged(names ...string) (header [][2]string) {
	for _, name := range names {
		header = append(header, [2]string{name, "forged"})
	}
	return header
}

// cases returns the requests with headers that a client must not set, with workspaces, and to several hosts.
func (m *mesh) cases(t *testing.T) []meshCase {
	t.Helper()
	live, sandbox := m.principal(t, "sk_live_", "inbox:read"), m.principal(t, "sk_test_", "inbox:read")
	key, personal := m.principal(t, "vel_", "issues:read"), m.principal(t, "velu_", "issues:read", "user:read")
	id := func(w registry.Workspace) [2]string { return [2]string{"x-workspace-id", w.ID} }
	slug := func(w registry.Workspace) [2]string { return [2]string{"x-workspace-slug", w.Slug} }
	inbox := func(header ...[2]string) message {
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
		{name: "a workspace", message: inbox(), told: live.in(m.home)},
		{name: "identity headers", message: inbox(everything...), told: live.in(m.home), hidden: role},
		{name: "identity headers, of a user's key", message: personal.ask(profilePath, everything...), told: personal.told, hidden: role},
		{name: "identity headers on a public route", message: message{host: velaflowsHost, target: publicPath, header: everything},
			told: anonymous("velaflows"), hidden: role},
		{name: "identity headers without a credential", message: message{host: velaflowsHost, target: inboxPath, header: everything},
			want: denied(missing)},
		{name: "identity headers in the trailers", message: message{method: "GET", host: velaflowsHost, target: inboxPath, header: inbox().header,
			body: "{}", trailer: everything}, told: live.in(m.home)},
		{name: "overriding headers", message: inbox(forged(overridingHeaders...)...), told: live.in(m.home)},
		{name: "overriding headers on a public route", message: message{host: velocityHost, target: publicPath, header: forged(overridingHeaders...)},
			told: anonymous("velocity")},
		{name: "Connection names what the sidecar sets", message: key.ask(issuesPath, [2]string{"Connection", "x-keywicket-subject, x-workspace-slug"}),
			want: map[string]string{"HTTP/2": "closed"}, told: key.in(m.home)},
		{name: "a credential on a public route", message: live.ask(publicPath), told: with(anonymous("velaflows"), "authorization", "Bearer "+live.token)},
		{name: "two credentials", message: inbox([2]string{"Authorization", "Bearer " + live.token}), want: denied(malformed)},
		{name: "two credentials of two APIs", message: inbox([2]string{"Authorization", "Bearer " + key.token}), want: denied(malformed)},

		{name: "a sandbox key", message: sandbox.ask(inboxPath, id(m.home)), told: sandbox.in(m.home)},
		{name: "a live key that asks for the sandbox", message: inbox([2]string{"x-keywicket-environment", "sandbox"}), told: live.in(m.home)},
		{name: "a sandbox key that asks for live", message: sandbox.ask(inboxPath, id(m.home), [2]string{"x-keywicket-environment", "live"}),
			told: sandbox.in(m.home)},

		{name: "no workspace where one is required", message: live.ask(inboxPath), want: denied("403 WORKSPACE_ACCESS_DENIED workspace_required")},
		{name: "another workspace", message: live.ask(inboxPath, id(m.other)), want: denied(mismatch)},
		{name: "a workspace twice", message: inbox(id(m.home)), want: denied(mismatch)},
		{name: "two workspaces", message: inbox(id(m.other)), want: denied(mismatch)},
		{name: "a workspace beside an empty one", message: inbox([2]string{"x-workspace-id", ""}), want: denied(mismatch)},
		{name: "a workspace with a byte that is not ASCII", message: live.ask(inboxPath, [2]string{"x-workspace-id", m.home.ID[:23] + "\xff"}),
			want: denied(mismatch)},
		{name: "a workspace on a public route", message: message{host: velaflowsHost, target: publicPath, header: [][2]string{id(m.home)}},
			told: anonymous("velaflows")},
		// The other API's header has no special meaning.
		{name: "the other API's workspace header", message: inbox(slug(m.other)), told: with(live.in(m.home), "x-workspace-slug", m.other.Slug)},
		{name: "a workspace's key alone", message: key.ask(issuesPath), told: key.in(m.home)},
		{name: "a workspace's key in its workspace", message: key.ask(issuesPath, slug(m.home)), told: key.in(m.home)},
		{name: "a workspace's key in another", message: key.ask(issuesPath, slug(m.other)), want: denied(mismatch)},
		{name: "a workspace's key, its workspace twice", message: key.ask(issuesPath, slug(m.home), slug(m.home)), want: denied(mismatch)},
		{name: "a user's key in their workspace", message: personal.ask(issuesPath, slug(m.home)), told: personal.in(m.home)},
		{name: "a user's key in another", message: personal.ask(issuesPath, slug(m.other)), want: denied(mismatch)},
		{name: "a user's key alone", message: personal.ask(profilePath), told: personal.told},
		{name: "a workspace on Velocity's public route", message: message{host: velocityHost, target: publicPath, header: [][2]string{slug(m.other)}},
			told: anonymous("velocity")},
	}
	// Envoy Gateway refuses names with underscores.
	refusedByGateway := map[string]string{gateway: "400", gateway + " HTTP/2": "reset"}
	for _, name := range []string{
		"x_keywicket_subject", "x-keywicket_subject", "X_Keywicket_Scopes", "x_keywicket_role", "x_workspace_id",
		"x_original_url", "x_rewrite_url", "x-http_method_override", "x_http_method", "x_method_override", "x_envoy_original_path",
	} {
		cases = append(cases, meshCase{name: name, message: inbox(forged(name)...), want: refusedByGateway, told: live.in(m.home)})
	}
	cases = append(cases, meshCase{name: "x_workspace_slug", message: key.ask(issuesPath, [2]string{"x_workspace_slug", m.other.Slug}),
		want: refusedByGateway, told: key.in(m.home)})
	for _, name := range []string{
		"x.keywicket.subject", "x-keywicket.subject", "x!keywicket#aal", "x~keywicket~role", "x.workspace.id", "x|original|url", "x'http'method",
	} {
		cases = append(cases, meshCase{name: name, message: inbox(forged(name)...), told: live.in(m.home), hidden: map[string]string{name: "forged"}})
	}
	cases = append(cases, meshCase{name: "x.workspace.slug", message: key.ask(issuesPath, [2]string{"x.workspace.slug", m.other.Slug}),
		told: key.in(m.home), hidden: map[string]string{"x.workspace.slug": m.other.Slug}})
	return append(cases, hostCases(live, key, id(m.home))...)
}

// hostCases: a client gets the rules and the upstream of one API, or is refused.
func hostCases(live, key principal, home [2]string) []meshCase {
	to := func(host string) message { return message{host: host, target: publicPath} }
	unknown := map[string]string{"": "401 UNAUTHORIZED unknown"}
	atVelocity, atVelaflows := live.ask(inboxPath, home), key.ask(issuesPath)
	atVelocity.host, atVelaflows.host = velocityHost, velaflowsHost
	cases := []meshCase{
		{name: "a key of VelaFlows at Velocity", message: atVelocity, want: unknown},
		{name: "a key of Velocity at VelaFlows", message: atVelaflows, want: unknown},
		{name: "two hosts", message: message{host: velaflowsHost, target: publicPath, header: [][2]string{{"Host", velocityHost}}},
			want: map[string]string{"HTTP/1.1": noHost}, told: anonymous("velaflows")}, // over HTTP/2 only :authority counts
		{name: "one host twice", message: message{host: velaflowsHost, target: publicPath, header: [][2]string{{"Host", velaflowsHost}}},
			want: map[string]string{"HTTP/1.1": noHost}, told: anonymous("velaflows")},
		{name: "no :authority", message: message{host: "-", target: publicPath, header: [][2]string{{"Host", velocityHost}}},
			told: anonymous("velocity"), at: velocityHost},
		{name: "another host in X-Forwarded-Host", told: anonymous("velaflows"),
			message: message{host: velaflowsHost, target: publicPath, header: [][2]string{{"X-Forwarded-Host", velocityHost}}}},
		{name: "no host", message: to("-"), want: map[string]string{"HTTP/1.1": "400", "HTTP/2": "closed"}},
		{name: "an absolute URL to another host", message: message{host: velaflowsHost, target: "http://" + velocityHost + publicPath},
			want: map[string]string{"HTTP/2": "closed"}, told: anonymous("velocity"), path: publicPath, at: velocityHost},
		{name: "an absolute URL to another host, with a key", message: message{host: velaflowsHost, target: "http://" + velocityHost + inboxPath,
			header: live.ask("", home).header}, want: map[string]string{"": "401 UNAUTHORIZED unknown", "HTTP/2": "closed"}},
		{name: "an absolute URL to no host of ours", message: message{host: velaflowsHost, target: "http://evil.test" + publicPath},
			want: map[string]string{"": noHost, "HTTP/2": "closed"}},
	}
	for _, host := range []string{
		"velaflows.test", "VELAFLOWS.TEST", "VelaFlows.Test:8000", "velaflows.test:80", "velaflows.test:", "velaflows.test:0", "velaflows.test:080",
		"velaflows.test:65536", "velaflows.test:99999999999999999999999",
	} {
		cases = append(cases, meshCase{name: "host " + host, message: to(host), told: anonymous("velaflows")})
	}
	for _, host := range []string{
		"evil.test", "test", "a.velaflows.test", "velaflows.test.", "velaflows.test.:80", "velaflows.test,velocity.test", "velocity.test,velaflows.test",
		"velaflows.test:80,velocity.test", "velaflows.test:80:80", "velaflows.test::80", "velaflows.test:+80", "velaflows.test:0x50",
		"velaflows%2etest", "velaflows.test%20", "[velaflows.test]", "[::1]", "*", "*.velaflows.test",
	} {
		cases = append(cases, meshCase{name: "host " + host, message: to(host), want: map[string]string{"": noHost}})
	}
	for _, host := range []string{"velaflows.test@velocity.test", "velocity.test@velaflows.test"} {
		cases = append(cases, meshCase{name: "host " + host, message: to(host), want: map[string]string{"": noHost, "HTTP/2": "closed"}})
	}
	for _, host := range []string{"velaflows.test/", "velaflows.test#", "velaflows.test?", `velaflows.test\`, "velaflows.te\u017ft"} {
		cases = append(cases, meshCase{name: "host " + host, message: to(host), want: map[string]string{"": "400", "HTTP/2": "closed"}})
	}
	return cases
}

// check sends the request, and compares the upstream's view with the expected one.
func (c meshCase) check(t *testing.T, s *sender, mesh string, everyHeaderIsShown bool) {
	t.Helper()
	want := c.outcome(mesh, s.wire)
	if got := s.put(t, c.name, c.message, want); got.outcome == "allow" && want == "allow" {
		for _, difference := range c.differences(got, everyHeaderIsShown) {
			t.Errorf("%s: the upstream saw %s", c.name, difference)
		}
	}
}

var httpWires = []string{"HTTP/1.1", "HTTP/2"}

// Without the settings of deploy/envoy, the upstream receives exactly what the sidecar checked and set, for every client
// input.
func TestMeshes(t *testing.T) {
	for _, variant := range []struct {
		name, mesh         string
		edits              []edit
		everyHeaderIsShown bool // with the check
	}{
		{name: istio, mesh: istio, everyHeaderIsShown: true},
		{name: gateway, mesh: gateway, edits: []edit{everyHeader}, everyHeaderIsShown: true},
		{name: gateway + " with headersToExtAuth", mesh: gateway},
	} {
		t.Run(variant.name, func(t *testing.T) {
			m := newMesh(t, variant.mesh, variant.edits...)
			token := func(scope string) string { return m.principal(t, "sk_live_", scope).token }
			h := attackInputs{token("inbox:read"), token("contacts:read"), token("admin:all"), m.home.ID, m.other.ID}
			good := message{host: velaflowsHost, target: inboxPath,
				header: [][2]string{{"Authorization", "Bearer " + h.inbox}, {"x-workspace-id", h.home}}}
			cases := m.cases(t)
			for _, wire := range httpWires {
				t.Run(wire, func(t *testing.T) {
					s := m.sender(wire)
					defer s.close()
					for _, c := range cases {
						c.check(t, s, variant.mesh, variant.everyHeaderIsShown)
					}
					for _, threat := range h.threats() {
						want := threat.under(variant.mesh, wire)
						if want == "-" {
							continue
						}
						seen := threat.seen
						if threat.hidden != nil && !variant.everyHeaderIsShown {
							seen = maps.Clone(seen)
							maps.Copy(seen, threat.hidden)
						}
						threat.host = cmp.Or(threat.host, velaflowsHost)
						s.put(t, threat.String(), threat.message, want).saw(t, threat.String(), seen)
						s.put(t, "after "+threat.String(), good, "allow").saw(t, threat.String(), nil)
					}
				})
			}
			// Without a sidecar nothing is served, not even public routes.
			if err := m.Sidecar.Stop(); err != nil {
				t.Fatal(err)
			}
			for _, wire := range httpWires {
				s := m.sender(wire)
				s.put(t, "no sidecar, "+wire, good, "403")
				s.put(t, "no sidecar, a public route, "+wire, message{host: velaflowsHost, target: publicPath}, "403")
				s.close()
			}
		})
	}
}

// If Envoy does not send a workspace header with the check, the header gives no access to a workspace. Headers that the
// sidecar sets or removes by name are safe. Other spellings that an upstream may treat as equal reach the upstream.
func TestMeshThatHidesHeaders(t *testing.T) {
	m := newMesh(t, gateway, noWorkspaceHeader, underscores)
	live, key := m.principal(t, "sk_live_", "inbox:read"), m.principal(t, "vel_", "issues:read")
	personal := m.principal(t, "velu_", "issues:read", "user:read")
	home, other := [2]string{"x-workspace-id", m.home.ID}, [2]string{"x-workspace-slug", m.other.Slug}
	required := map[string]string{"": "403 WORKSPACE_ACCESS_DENIED workspace_required"}
	named := forged(slices.Concat(identityHeaders, overridingHeaders)...)
	cases := []meshCase{
		{name: "VelaFlows requires a workspace", message: live.ask(inboxPath, home), want: required},
		{name: "a workspace's key", message: key.ask(issuesPath, other), told: key.in(m.home)},
		{name: "a user's key", message: personal.ask(issuesPath, other), want: required},
		{name: "a user's key where no workspace is needed", message: personal.ask(profilePath, other), told: personal.told},
		{name: "a public route", message: message{host: velocityHost, target: publicPath, header: slices.Concat(named, [][2]string{other})}, told: anonymous("velocity")},
		{name: "a public route of VelaFlows",
			message: message{host: velaflowsHost, target: publicPath, header: slices.Concat(named, [][2]string{home})}, told: anonymous("velaflows")},
		{name: "identity and overriding headers", message: key.ask(issuesPath, named...), told: key.in(m.home)},
	}
	for _, name := range []string{"x-keywicket-role", "x_keywicket_subject", "x_workspace_slug", "x_original_url"} {
		cases = append(cases, meshCase{name: name, message: key.ask(issuesPath, forged(name)...), told: key.in(m.home),
			hidden: map[string]string{name: "forged"}})
	}
	for _, wire := range httpWires {
		s := m.sender(wire)
		for _, c := range cases {
			c.check(t, s, gateway, false)
		}
		s.close()
	}
}

// The tests above detect a header that the sidecar did not remove: this Envoy ignores the sidecar's header changes.
func TestMeshTestsNoticeForgedHeaders(t *testing.T) {
	m := newMesh(t, istio, edit{"              failure_mode_allow: false\n",
		"              failure_mode_allow: false\n              decoder_header_mutation_rules: {disallow_all: true}\n"})
	cases := m.cases(t)
	for _, wire := range httpWires {
		s := m.sender(wire)
		for _, c := range cases {
			if c.outcome(istio, wire) != "allow" {
				continue
			}
			noticed := c.differences(s.put(t, c.name, c.message, "allow"), true)
			if len(noticed) == 0 {
				t.Errorf("%s, %s: no difference was detected", wire, c.name)
			}
			for _, h := range c.header {
				name := strings.ToLower(h[0])
				if c.told[name] == h[1] || len(trusted(map[string][]string{name: nil})) == 0 {
					continue
				}
				if name == "x-envoy-original-path" || strings.HasPrefix(c.name, "Connection") {
					continue // Envoy removes them itself
				}
				if !slices.ContainsFunc(noticed, func(n string) bool { return strings.HasPrefix(n, name+" ") && strings.Contains(n, h[1]) }) {
					t.Errorf("%s, %s: %s arrived, and only these differences were detected: %q", wire, c.name, name, noticed)
				}
			}
		}
		s.close()
	}
}

// Row 38 of docs/security.md: if Envoy selects the upstream by a header of the sidecar, it has to select again after the
// check. Envoy Gateway does so with recomputeRoute; Istio never does.
func TestMeshRouteByEnvironment(t *testing.T) {
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
		chosen     map[string]string // the upstream, by the key and the environment that the client claims
	}{
		{"Istio", istio, []edit{{domain + attempts + routes, domain + attempts + routes + route}},
			map[string]string{"live": "live", "live, sandbox": "sandbox", "sandbox": "live", "sandbox, live": "live"}},
		{"Envoy Gateway", gateway, []edit{{domain + routes, domain + routes + route + enabled}},
			map[string]string{"live": "live", "live, sandbox": "sandbox", "sandbox": "live", "sandbox, live": "live"}},
		{"Envoy Gateway with recomputeRoute", gateway, []edit{{domain + routes, domain + routes + route + enabled},
			{"              failure_mode_allow: false\n", "              failure_mode_allow: false\n              clear_route_cache: true\n"}},
			map[string]string{"live": "live", "live, sandbox": "live", "sandbox": "sandbox", "sandbox, live": "sandbox"}},
	} {
		t.Run(variant.name, func(t *testing.T) {
			m := newMesh(t, variant.mesh, variant.edits...)
			keys := map[string]principal{"live": m.principal(t, "sk_live_", "inbox:read"), "sandbox": m.principal(t, "sk_test_", "inbox:read")}
			for _, wire := range httpWires {
				s := m.sender(wire)
				for asked, upstream := range variant.chosen {
					key, forged, _ := strings.Cut(asked, ", ")
					header := [][2]string{{"x-workspace-id", m.home.ID}}
					if forged != "" {
						header = append(header, [2]string{"x-keywicket-environment", forged})
					}
					s.put(t, asked, keys[key].ask(inboxPath, header...), "allow").saw(t, wire+", "+asked, map[string][]string{
						":upstream": {upstream}, "x-keywicket-environment": {key}})
				}
				s.close()
			}
		})
	}
}

// The sidecar denies a message that is too large to check, also where Envoy serves requests whose check failed.
func TestMessageTooLargeIsDeniedThroughAMesh(t *testing.T) {
	const normalize, fail = "          normalize_path: true\n", "              failure_mode_allow: false\n"
	m := newMesh(t, istio, edit{normalize, normalize + "          max_request_headers_kb: 8192\n"}, // the largest value that Envoy permits
		edit{fail, strings.Replace(fail, "false", "true", 1)})
	live := m.principal(t, "sk_live_", "inbox:read")
	filled := func(values, size int) message {
		msg := live.ask(inboxPath, [2]string{"x-workspace-id", m.home.ID})
		for i := range values {
			msg.header = append(msg.header, [2]string{fmt.Sprint("x-filler-", i), strings.Repeat("a", size)})
		}
		return msg
	}
	const denied = "431 REQUEST_TOO_LARGE too_large"
	count := 0
	for _, wire := range httpWires {
		s := m.sender(wire)
		for _, c := range []struct {
			name string
			message
			want string
		}{
			{"300 KiB", filled(5, 60<<10), denied},
			{"240 KiB", filled(4, 60<<10), "allow"},
			{"7 MiB", filled(1, 7<<20), denied},
		} {
			if c.name == "7 MiB" && wire == "HTTP/2" { // Envoy closes the connection
				c.want = "closed"
			}
			got := s.put(t, wire+", "+c.name, c.message, c.want)
			if c.want == denied {
				count++
				if !bytes.Contains(got.body, []byte(`"decision_id"`)) {
					t.Errorf("%s, %s: it is not the sidecar's answer: %s", wire, c.name, got.body)
				}
			}
		}
		s.close()
	}
	_, metrics := probeOf(t, m.Stack, "/metrics")
	counter := fmt.Sprint("\n", `keywicket_checks_total{api="",code="REQUEST_TOO_LARGE",reason="too_large"} `, count, "\n")
	if !strings.Contains(metrics, counter) {
		t.Errorf("the metrics do not have %s", counter)
	}
	await(t, "the denials are logged", func() bool {
		return strings.Count(m.log.String(), `"code":"REQUEST_TOO_LARGE","reason":"too_large"`) == count
	})
}
