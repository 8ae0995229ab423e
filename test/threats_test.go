package test

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
)

// threat is one input of a row of docs/security.md, with its expected result.
type threat struct {
	row int
	message
	envoy  string              // the outcome over HTTP/1.1 and HTTP/2
	h1, h2 string              // the outcome over one of them, if it differs; "-": it cannot be sent over it
	direct string              // the outcome of a direct check; empty: as through Envoy
	seen   map[string][]string // what the upstream receives with an allowed request: header, :path or :host → values

	// The outcomes through an Envoy as a mesh configures it (mesh_test.go), if they differ.
	istio, gateway string
	// What the upstream receives instead if Envoy does not send every header with the check.
	hidden map[string][]string
}

// attackInputs are the credentials and the workspaces of the threats.
type attackInputs struct {
	inbox    string // a token with only inbox:read
	contacts string // a token with only contacts:read
	all      string // a token with admin:all
	home     string // their workspace
	other    string
}

const (
	malformed = "401 UNAUTHORIZED malformed"
	missing   = "401 UNAUTHORIZED missing"
	noRoute   = "403 FORBIDDEN no_route"
	mismatch  = "403 WORKSPACE_ACCESS_DENIED workspace_mismatch"
	refused   = "400 BAD_REQUEST bad_request" // by Envoy itself
	notFound  = "404 NOT_FOUND not_found"     // by Envoy itself
	tooLarge  = "431 HEADERS_TOO_LARGE too_large"
	noHost    = "503 UNAVAILABLE unavailable" // to a host that no API has
)

func (h attackInputs) threats() []threat {
	const inbox = "/api/v1/inbox/conversations"
	bearer := func(token string) [2]string { return [2]string{"Authorization", "Bearer " + token} }
	home := [2]string{"x-workspace-id", h.home}
	good := func(target string) message {
		return message{target: target, header: [][2]string{bearer(h.inbox), home}}
	}
	path := func(target string) message { return message{target: target, header: [][2]string{bearer(h.all), home}} }
	with := func(header ...[2]string) message { return message{target: inbox, header: header} }
	beside := func(header ...[2]string) message { return with(append(header, bearer(h.inbox), home)...) }
	value := func(authorization string) message { return with([2]string{"Authorization", authorization}, home) }
	method := func(name, target string) message {
		m := path(target)
		m.method = name
		return m
	}
	half := len(h.inbox) / 2

	all := []threat{
		{row: 1, message: path("/api/v1/inbox/../admin/audit"), envoy: "allow", direct: noRoute,
			seen: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, message: path("/api/v1/inbox/%2e%2e/admin/audit"), envoy: "allow", direct: noRoute,
			seen: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, message: good("/api/v1/inbox/%2e%2e/admin/audit"), envoy: "403 FORBIDDEN missing_scope", direct: noRoute},
		{row: 1, message: path("/api/v1/inbox/..;/admin/audit"), envoy: "allow", direct: noRoute,
			seen: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, message: path("/api/v1/inbox/..;a=b/admin/audit"), envoy: "allow", direct: noRoute,
			seen: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, message: path("/api/v1/tags/../inbox/./conversations"), envoy: "allow", direct: noRoute,
			seen: map[string][]string{":path": {inbox}}},
		{row: 2, message: path("/api/v1//inbox/conversations"), envoy: "allow", direct: noRoute, istio: noRoute,
			seen: map[string][]string{":path": {inbox}}},
		{row: 2, message: path("//api/v1/inbox/conversations"), envoy: "allow", direct: noRoute, istio: noRoute,
			seen: map[string][]string{":path": {inbox}}},
		{row: 2, message: path("//admin/x"), envoy: noRoute},
		{row: 5, message: path("/api/v1/contacts/%72oot"), envoy: "allow",
			seen: map[string][]string{":path": {"/api/v1/contacts/root"}}},
		{row: 5, message: path("/api/v1/%69nbox/%63onversations"), envoy: "allow",
			seen: map[string][]string{":path": {inbox}}},
		{row: 5, message: good("/api/v1/%61dmin/audit"), envoy: "403 FORBIDDEN missing_scope"},
		{row: 7, message: path(`/api/v1\inbox\conversations`), envoy: "allow", direct: noRoute,
			seen: map[string][]string{":path": {inbox}}},
		{row: 7, message: path("*"), envoy: refused, h2: "closed", direct: noRoute},
		{row: 7, message: path("api/v1/contacts"), envoy: refused, h2: "closed", direct: noRoute},
		{row: 7, message: path("/api/v1/contacts/\u00e9"), h1: refused, h2: "allow", direct: noRoute,
			seen: map[string][]string{":path": {"/api/v1/contacts/%C3%A9"}}},
		{row: 8, message: path("http://evil.test/api/v1/admin"), envoy: noRoute, h2: "closed", istio: noHost, gateway: noHost},
		{row: 8, message: path("http://evil.test" + inbox), envoy: "allow", h2: "closed", direct: noRoute, istio: noHost, gateway: noHost,
			seen: map[string][]string{":path": {inbox}, ":host": {"evil.test"}}},
		{row: 9, message: good(inbox + "?x=/../admin"), envoy: "allow",
			seen: map[string][]string{":path": {inbox + "?x=/../admin"}}},
		{row: 9, message: good("/api/v1/admin?x=" + inbox), envoy: noRoute},
		{row: 9, message: message{target: inbox + "?access_token=" + h.inbox, header: [][2]string{home}}, envoy: missing},

		{row: 10, message: with(bearer(h.inbox), bearer("junk"), home), envoy: malformed},
		{row: 10, message: with(bearer("junk"), bearer(h.inbox), home), envoy: malformed},
		{row: 10, message: with(bearer(h.inbox), bearer(h.inbox), home), envoy: malformed},
		{row: 10, message: with([2]string{"AUTHORIZATION", "Bearer " + h.inbox}, [2]string{"authorization", "bearer junk"}, home), envoy: malformed},
		{row: 10, message: value("Bearer " + h.inbox + ",Bearer " + h.inbox), envoy: malformed},
		{row: 10, message: with([2]string{"Authorization", ""}, bearer(h.inbox), home), envoy: "allow", direct: malformed},
		{row: 11, message: value("bearer " + h.inbox), envoy: "allow"},
		{row: 11, message: value("BEARER " + h.inbox), envoy: "allow"},
		{row: 11, message: value("Bearer\t" + h.inbox), envoy: malformed},
		{row: 11, message: value("Bearer"), envoy: malformed},
		{row: 11, message: value(""), envoy: missing},
		{row: 12, message: value("  Bearer " + h.inbox), envoy: "allow", h2: missing, direct: missing},
		{row: 12, message: value("Bearer " + h.inbox + "\t"), envoy: "allow", h2: malformed, direct: malformed},
		{row: 13, message: value("Bearer " + h.inbox + "\x00"), h1: refused, h2: "closed", direct: malformed},
		{row: 13, message: value("Bearer " + h.inbox + "\x01"), h1: refused, h2: "closed", direct: malformed},
		{row: 13, message: value("Bearer " + h.inbox + "\x7f"), h1: refused, h2: "closed", direct: malformed},
		// A carriage return is not part of a credential: the upstream receives no carriage return in either case.
		{row: 13, message: value("Bearer " + h.inbox[:half] + "\r" + h.inbox[half:]), h1: "allow", h2: "closed", direct: malformed},
		{row: 13, message: value("Bearer " + h.inbox[:half] + "\r\n " + h.inbox[half:]), h1: malformed, h2: "closed", direct: malformed},
		{row: 14, message: value("Bearer " + h.inbox + "\xff"), envoy: malformed},
		{row: 14, message: value("Bearer " + h.inbox[:half] + "\xff" + h.inbox[half+1:]), envoy: malformed},
		{row: 15, message: value("Bearer sk_live_" + strings.Repeat("a", 505)), envoy: malformed},
		{row: 15, message: value("Bearer " + strings.Repeat("a", 8<<10-3) + ".b.c"), envoy: malformed},
		{row: 15, message: value("Bearer " + strings.Repeat("a", 20<<10)), envoy: tooLarge, h2: "reset", direct: malformed, istio: malformed, gateway: malformed},
		{row: 15, message: value("Bearer " + strings.Repeat("a", 1<<20)), envoy: "-", direct: "431 REQUEST_TOO_LARGE too_large"},

		{row: 16, message: with(bearer(h.inbox), home, home), envoy: mismatch},
		{row: 16, message: with(bearer(h.inbox), home, [2]string{"X-Workspace-Id", h.other}), envoy: mismatch},
		{row: 16, message: with(bearer(h.inbox), [2]string{"x-workspace-id", ""}, home), envoy: mismatch},
		{row: 16, message: with(bearer(h.inbox), [2]string{"x-workspace-id", ""}), envoy: mismatch},
		{row: 16, message: with(bearer(h.inbox), [2]string{"x-workspace-id", strings.ToUpper(h.home)}), envoy: mismatch},
		{row: 16, message: with(bearer(h.inbox), [2]string{"x-workspace-id", h.home + "," + h.home}), envoy: mismatch},
		{row: 16, message: with(bearer(h.inbox), [2]string{"x-workspace-id", h.home[:23]}), envoy: mismatch},
		{row: 17, message: with(bearer(h.inbox), [2]string{"x_workspace_id", h.home}), h1: refused, h2: "reset",
			direct: "403 WORKSPACE_ACCESS_DENIED workspace_required", istio: "403 WORKSPACE_ACCESS_DENIED workspace_required"},
		{row: 18, message: beside([2]string{"Connection", "authorization, x-workspace-id"}), envoy: missing, h2: "closed",
			direct: "-"},
		{row: 19, message: beside([2]string{"X-Keywicket-Subject", "evil"}, [2]string{"x-keywicket-subject", "worse"},
			[2]string{"x-keywicket-kind", ""}, [2]string{"x-keywicket-role", "owner"}, [2]string{"x-keywicket-else", "x"}), envoy: "allow",
			seen:   map[string][]string{"x-keywicket-scopes": {"inbox:read"}, "x-keywicket-kind": {"workspace_token"}, "x-keywicket-role": nil, "x-keywicket-else": nil},
			hidden: map[string][]string{"x-keywicket-role": {"owner"}, "x-keywicket-else": {"x"}}},
		{row: 20, message: beside([2]string{"x-envoy-original-path", "/healthz"}, [2]string{"x-original-url", "/healthz"},
			[2]string{"x-rewrite-url", "/healthz"}, [2]string{"x-http-method-override", "DELETE"}), envoy: "allow",
			seen: map[string][]string{"x-envoy-original-path": nil, "x-original-url": nil, "x-rewrite-url": nil, "x-http-method-override": nil}},
		{row: 20, message: beside([2]string{"x-http-method", "DELETE"}, [2]string{"X-Method-Override", "DELETE"}), envoy: "allow",
			seen: map[string][]string{"x-http-method": nil, "x-method-override": nil}},
		{row: 20, message: message{target: inbox, header: [][2]string{{"x-envoy-original-path", "/healthz"}, {"x-original-url", "/healthz"}}}, envoy: missing},
		{row: 21, message: method("get", inbox), envoy: refused, h2: noRoute, direct: noRoute},
		{row: 21, message: method("FOO", inbox), envoy: refused, h2: noRoute, direct: noRoute},
		{row: 21, message: method("TRACE", inbox), envoy: noRoute},
		{row: 21, message: message{method: "OPTIONS", target: inbox, header: [][2]string{{"Origin", "https://evil.test"}, {"Access-Control-Request-Method", "GET"}}}, envoy: missing},
		{row: 22, message: message{target: inbox, host: "A.TEST.:80", header: good(inbox).header}, envoy: "allow",
			istio: noHost, gateway: noHost, seen: map[string][]string{":host": {"A.TEST"}}},
		{row: 22, message: message{target: inbox, host: "a.test", header: append([][2]string{{"Host", "b.test"}}, good(inbox).header...)}, envoy: noRoute, h2: "allow", direct: "-",
			istio: noHost, gateway: noHost, seen: map[string][]string{":host": {"a.test"}}},
		{row: 22, message: message{target: inbox, host: "a.test,b.test", header: good(inbox).header}, envoy: noRoute, istio: noHost, gateway: noHost},
		{row: 23, message: message{method: "CONNECT", target: "api.test:443", host: "api.test:443", header: good("").header}, envoy: notFound, direct: noRoute},
		{row: 23, message: message{method: "CONNECT", protocol: "websocket", target: inbox, header: good("").header}, h1: "-", h2: "closed", direct: noRoute},
		{row: 23, message: beside([2]string{"Connection", "Upgrade"}, [2]string{"Upgrade", "websocket"}), h1: "403 ERROR error", h2: "closed", direct: "allow",
			istio: "200", gateway: "200"},
		{row: 24, message: message{method: "POST", target: inbox, header: [][2]string{home}, body: "{}", trailer: [][2]string{bearer(h.all)}}, envoy: missing, direct: missing},
		{row: 24, message: message{method: "PATCH", target: "/api/v1/tags/7", header: good("").header, trailer: [][2]string{bearer(h.all)}, body: "{}"}, envoy: "403 FORBIDDEN missing_scope"},
		{row: 29, message: path("/%2fevil.example"), envoy: refused, direct: noRoute, istio: noRoute, gateway: "307 /evil.example"},
		{row: 29, message: path("/%5c%5cevil.example/%2e%2e"), envoy: refused, direct: noRoute, istio: noRoute, gateway: "307 //"},
		{row: 29, message: path("/x%2f..%5c%2fevil.example"), envoy: refused, direct: noRoute, istio: noRoute, gateway: "307 /evil.example"},
		{row: 30, message: message{method: "POST", target: "/api/v1/tags", header: path("").header, body: strings.Repeat("x", 1<<17)}, envoy: "allow"},
		{row: 30, message: message{method: "POST", target: "/api/v1/tags", header: good("").header, body: strings.Repeat("x", 1<<17)}, envoy: "403 FORBIDDEN missing_scope"},
		{row: 31, message: with([2]string{"Content-Type", "application/grpc"}, home), envoy: "grpc 16", direct: missing},
		{row: 31, message: message{target: "/x.Y/Z", header: append([][2]string{{"Content-Type", "application/grpc"}}, good("").header...)}, envoy: "grpc 7", direct: noRoute},
		{row: 32, message: good("/api/v1/tags"), envoy: "403 FORBIDDEN missing_scope"},
		{row: 32, message: with(bearer(h.inbox), [2]string{"x-workspace-id", h.other}), envoy: mismatch},
		{row: 32, message: with(bearer(h.contacts), home), envoy: "403 FORBIDDEN missing_scope"},
		{row: 38, message: beside([2]string{"x-keywicket-environment", "sandbox"}, [2]string{"X-Keywicket-Environment", "sandbox"}), envoy: "allow",
			seen: map[string][]string{":upstream": {"live"}, "x-keywicket-environment": {"live"}}},
	}
	// Envoy passes them on unchanged, so the policies have to refuse them.
	for row, targets := range map[int][]string{
		4: {"/api/v1/inbox;jsessionid=1/conversations", "/api/v1/contacts/a;b"},
		5: {"/api/v1/contacts/a%252fb", "/api/v1/contacts/%zz", "/api/v1/contacts/%C0%AF", "/api/v1/contacts/a%23b", "/api/v1/contacts/a%3fb"},
		6: {"/API/V1/Inbox/Conversations", inbox + ".", inbox + "/"},
	} {
		for _, target := range targets {
			all = append(all, threat{row: row, message: path(target), envoy: noRoute})
		}
	}
	for target, gateway := range map[string]string{
		"/api/v1/inbox%2Fconversations": "/api/v1/inbox/conversations", "/api/v1/inbox%5Cconversations": "/api/v1/inbox/conversations",
		"/api/v1/inbox%2f..%2fadmin%2faudit": "/api/v1/admin/audit",
	} {
		all = append(all, threat{row: 3, message: path(target), envoy: refused, direct: noRoute, istio: noRoute, gateway: "307 " + gateway})
	}
	all = append(all,
		threat{row: 5, message: path("/api/v1/contacts/a%00b"), envoy: refused, direct: noRoute},
		threat{row: 7, message: path("/api/v1/contacts/a#f"), envoy: refused, direct: noRoute, istio: "allow",
			seen: map[string][]string{":path": {"/api/v1/contacts/a"}}},
	)
	for _, target := range []string{"/api/v1/contacts/..", "/api/v1/contacts/%2e%2e", "/api/v1/contacts/%zz"} {
		all = append(all, threat{row: 39, message: message{target: target, header: [][2]string{bearer(h.contacts), home}}, envoy: noRoute})
	}
	all = append(all, threat{row: 39, message: message{target: "/api/v1/contacts/a%2fb", header: [][2]string{bearer(h.contacts), home}},
		envoy: refused, direct: noRoute, istio: noRoute, gateway: "307 /api/v1/contacts/a/b"})
	// Many servers read these names as the workspace header, or as the headers of rows 19 and 20.
	for row, names := range map[int][]string{
		17: {"x_workspace_id", "X-Workspace_Id"},
		19: {"x_keywicket_subject", "x-keywicket_subject", "X_Keywicket_Scopes"},
		20: {"x_original_url", "X_Http_Method_Override", "x-http_method"},
	} {
		for _, name := range names {
			all = append(all, threat{row: row, message: beside([2]string{name, "forged"}), h1: refused, h2: "reset", direct: "allow", istio: "allow",
				seen: map[string][]string{strings.ToLower(name): nil}, hidden: map[string][]string{strings.ToLower(name): {"forged"}}})
		}
	}
	return all
}

// on returns the outcome over the wire; "-" if the threat cannot be sent over it.
func (h threat) on(wire string) string {
	switch wire {
	case "HTTP/1.1":
		return cmp.Or(h.h1, h.envoy)
	case "HTTP/2":
		return cmp.Or(h.h2, h.envoy)
	}
	return cmp.Or(h.direct, h.envoy)
}

// under returns the outcome over the wire through a mesh's Envoy, whose own responses have another body. A request that
// HTTP/2 itself forbids closes the connection in every configuration.
func (h threat) under(mesh, wire string) string {
	other := map[string]string{istio: h.istio, gateway: h.gateway}[mesh]
	if other != "" && h.on(wire) != "closed" {
		return other
	}
	return strings.NewReplacer(refused, "400", notFound, "404", tooLarge, "431").Replace(h.on(wire))
}

// servedOnlyByMesh reports whether a mesh's Envoy serves a request that deploy/envoy refuses, in another form than it
// was checked.
func (h threat) servedOnlyByMesh() bool {
	return slices.ContainsFunc([]string{istio, gateway}, func(mesh string) bool {
		return slices.ContainsFunc(httpWires, func(wire string) bool {
			served := []string{"allow", "200"}
			return !slices.Contains(served, h.on(wire)) && slices.Contains(served, h.under(mesh, wire)) && h.seen == nil
		})
	})
}

// Every threat over every wire. A denied request does not reach an upstream. The next request does, on the same connection,
// or on a new one if Envoy has closed it.
func TestThreats(t *testing.T) {
	home, other := tenant(t, world.stack), tenant(t, world.stack)
	token := func(scope string) string {
		_, secret := newToken(t, "sk_live_", registry.NewToken{Name: t.Name(), Scopes: []string{scope}, Workspace: home.ID})
		return secret
	}
	h := attackInputs{token("inbox:read"), token("contacts:read"), token("admin:all"), home.ID, other.ID}
	good := message{target: "/api/v1/inbox/conversations", header: [][2]string{{"Authorization", "Bearer " + h.inbox}, {"x-workspace-id", h.home}}}
	for wire := range wires {
		t.Run(wire, func(t *testing.T) {
			c := &sender{stack: world.stack, wire: wire, api: "velaflows"}
			defer c.close()
			for _, threat := range h.threats() {
				want := threat.on(wire)
				if want == "-" {
					continue
				}
				c.put(t, threat.String(), threat.message, want).saw(t, threat.String(), threat.seen)
				c.put(t, "after "+threat.String(), good, "allow").saw(t, threat.String(), nil)
			}
		})
	}
}

func (h threat) String() string {
	return fmt.Sprintf("row %d: %.60q %.100q", h.row, cmp.Or(h.method, "GET")+" "+h.target, fmt.Sprint(h.header))
}

// saw compares what reached the upstream with the expected headers, and requires that no credential did. A direct check has
// only headers.
func (s observation) saw(t *testing.T, what string, want map[string][]string) {
	t.Helper()
	if s.outcome != "allow" {
		return
	}
	got := map[string][]string{":path": {s.echo.Path}, ":host": {s.echo.Host}, ":upstream": {s.echo.Upstream}}
	for name, values := range s.echo.Headers {
		got[name] = values
	}
	if got["authorization"] != nil {
		t.Errorf("%s: the upstream saw a credential", what)
	}
	for name, values := range want {
		if strings.HasPrefix(name, ":") && s.echo.Upstream == "" {
			continue
		}
		if !slices.Equal(got[name], values) {
			t.Errorf("%s: the upstream saw %s %q, not %q", what, name, got[name], values)
		}
	}
}

// Row 28: an operator disables the check for one route of Envoy.
func TestRouteWithoutACheck(t *testing.T) {
	open := func(match string) func([]byte) []byte {
		return func(config []byte) []byte {
			const whole = "- match: {prefix: /}\n"
			unchecked := "- {match: {" + match + ": /public}, route: {cluster: upstream_live}, typed_per_filter_config: {" +
				`envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true}}}`
			return edited(t, config, whole, unchecked+"\n"+strings.Repeat(" ", 24)+whole, 2)
		}
	}
	for match, want := range map[string]map[string]string{
		"path_separated_prefix": {
			"/public": "allow", "/public/x": "allow", "/public-admin": missing, "/publican": missing,
			"/public/../api/v1/admin": missing, "/public/%2e%2e/api/v1/admin": missing, "/public%2f..%2fadmin": refused,
		},
		// Why prefix must not be used: the same two requests pass unchecked.
		"prefix": {"/public": "allow", "/public-admin": "allow", "/publican": "allow", "/public/../api/v1/admin": missing},
	} {
		s := separateStack(t, demo.Config{EnvoyConfig: open(match)})
		for _, wire := range []string{"HTTP/1.1", "HTTP/2"} {
			for target, want := range want {
				c := wires[wire](t, s, "velaflows")
				if got := c.put(t, message{target: target}).outcome; got != want {
					t.Errorf("%s, %s, %s: %s, not %s", match, wire, target, got, want)
				}
				_ = c.Close()
			}
		}
	}
}

// Rows 25 and 33: for every fault of a policy the client gets the sidecar's own 503, and other requests are not affected.
func TestPolicyThatFails(t *testing.T) {
	dir := policyFolder(t)
	file := filepath.Join(dir, "keywicket", "decision.rego")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rego := edited(t, text, "decision := allowed if {\n", `decision := {"allow": true} if {
	input.request.path == "/incomplete"
} else := to_number("x") if {
	input.request.path == "/error"
} else := count([x | some x in numbers.range(1, 3000); some y in numbers.range(1, 3000); x == y + 3000]) if {
	input.request.path == "/slow"
} else := allowed if {
`, 1)
	rego = edited(t, rego, `else := denied("FORBIDDEN", "no_route")`, `else := denied("FORBIDDEN", "no_route") if {
	input.request.path != "/undefined"
}`, 1)
	if err := os.WriteFile(file, append(rego, `
decision := denied("FORBIDDEN", "missing_scope") if input.request.path == "/conflict"
`...), 0o600); err != nil {
		t.Fatal(err)
	}
	s := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir, "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}})
	home := tenant(t, s)
	key := issue(t, s, "sk_live_", home.ID, "admin:all")
	header := [][2]string{{"Authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}
	for name, open := range wires {
		c := open(t, s, "velaflows")
		for _, target := range []string{"/undefined", "/incomplete", "/error", "/slow", "/conflict"} {
			before := s.Live.Count()
			got := c.put(t, message{target: target, header: header})
			if got.outcome != "503 UNAVAILABLE unavailable" || s.Live.Count() != before {
				t.Errorf("%s, %s: %s, and %d requests reached the upstream", name, target, got.outcome, s.Live.Count()-before)
			}
			if name != "direct" && target != "/slow" && !bytes.Contains(got.body, []byte(`"decision_id"`)) { // Envoy's own 503, which may be faster than /slow, has none
				t.Errorf("%s, %s: it is not the sidecar's answer: %s", name, target, got.body)
			}
			await(t, "another request is allowed", func() bool {
				return c.put(t, message{target: "/api/v1/tags", header: header}).outcome == "allow"
			})
		}
		_ = c.Close()
	}
}

// Row 35: checks that wait for the database do not delay other checks in Envoy, because the sidecar accepts as many
// concurrent checks as Envoy sends.
func TestSidecarTakesWhatEnvoySends(t *testing.T) {
	c := dialH2(t, world.stack.Sidecar.GRPC)
	defer func() { _ = c.Close() }()
	c.put(t, message{method: "POST", target: "/grpc.health.v1.Health/Check", header: [][2]string{{"content-type", "application/grpc"}}, body: "\x00\x00\x00\x00\x00"})
	if c.limit != 0 && c.limit < 1024 { // max_requests in deploy/envoy
		t.Errorf("the sidecar takes %d streams at a time", c.limit)
	}
}

// The results in docs/security.md are those that the tests above require.
func TestThreatsAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	type results struct {
		envoy, direct string
		hidden, weak  bool // fails where the check does not include every header, or under another Envoy than deploy/envoy's
	}
	tested := map[string]results{}
	result := regexp.MustCompile(`\b[2345]\d\d\b|\bgrpc-status \d+\b|\b(?:closed|reset)\b`)
	names := strings.NewReplacer("allow", "200", "grpc ", "grpc-status ")
	all := func(text string) string {
		found := result.FindAllString(names.Replace(text), -1)
		slices.Sort(found)
		return strings.Join(slices.Compact(found), " ")
	}
	for _, h := range (attackInputs{home: strings.Repeat("a", 24), inbox: "sk_live_"}).threats() {
		row := strconv.Itoa(h.row)
		r := tested[row]
		r.envoy += " " + h.envoy + " " + h.on("HTTP/1.1") + " " + h.on("HTTP/2")
		r.direct += " " + h.on("direct")
		r.hidden = r.hidden || h.hidden != nil
		// TestMeshRouteByEnvironment shows row 38.
		r.weak = r.weak || h.servedOnlyByMesh() || h.row == 38
		tested[row] = r
	}
	rows := 0
	for _, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 8 || !regexp.MustCompile(`^ \d+ $`).MatchString(cells[1]) {
			continue
		}
		rows++
		row, holds := strings.TrimSpace(cells[1]), cells[5]
		if !strings.Contains(holds, "any Envoy") && !strings.Contains(holds, "deploy/envoy") {
			t.Errorf("row %s has the condition %q", row, holds)
		}
		if !strings.Contains(cells[6], "TestThreats") {
			continue
		}
		r := tested[row]
		if got, want := all(cells[3]), all(r.envoy); got != want {
			t.Errorf("row %s, through Envoy: documented are %s, tested are %s", row, got, want)
		}
		if got, want := all(cells[4]), all(r.direct); got != want {
			t.Errorf("row %s, direct: documented are %s, tested are %s", row, got, want)
		}
		if !strings.Contains(holds, "any Envoy") || strings.Contains(holds, "deploy/envoy") != (r.weak || r.hidden) ||
			strings.Contains(holds, "every header") != r.hidden {
			t.Errorf("row %s has the condition %q; tested are %+v", row, holds, r)
		}
		delete(tested, row)
	}
	if rows < 35 {
		t.Errorf("the table has only %d rows", rows)
	}
	for row := range tested {
		t.Errorf("row %s is tested and not documented", row)
	}
}
