// Package threats lists the inputs of the rows of docs/security.md with their outcomes. Its tests send these inputs through an
// Envoy with the configuration of deploy/envoy. Package mesh sends them through other configurations of Envoy.
package threats

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/test/wire"
)

// The meshes of package mesh.
const (
	Istio        = "Istio"
	EnvoyGateway = "Envoy Gateway"
)

// Threat is one input of a row of docs/security.md, with its expected result.
type Threat struct {
	row int
	wire.Request
	envoy    string              // the outcome over HTTP/1.1 and HTTP/2
	h1, h2   string              // the outcomes over HTTP/1.1 (h1) and HTTP/2 (h2), if they differ from the field envoy; "-": the protocol cannot send the request
	direct   string              // the outcome of a direct check; empty: the same as through Envoy
	Received map[string][]string // what the upstream receives with an allowed request: header, :path or :host → values

	// The outcomes through Envoy with the configuration of a mesh (package mesh), if they differ from deploy/envoy.
	istio, gateway string
	// ReceivedWithoutAllHeaders is what the upstream receives instead of Received if Envoy does not send every header with the
	// check.
	ReceivedWithoutAllHeaders map[string][]string
}

// Inputs contains the credentials and the workspaces that the threats use.
type Inputs struct {
	Inbox    string // a token with only inbox:read
	Contacts string // a token with only contacts:read
	Admin    string // a token with admin:all
	Home     string // the workspace of these tokens
	Other    string // another workspace
}

// Threats returns the inputs of all rows of docs/security.md.
func (h Inputs) Threats() []Threat {
	const inbox = "/api/v1/inbox/conversations"
	bearer := func(token string) [2]string { return [2]string{"Authorization", "Bearer " + token} }
	home := [2]string{"x-workspace-id", h.Home}
	withInboxToken := func(target string) wire.Request {
		return wire.Request{Target: target, Header: [][2]string{bearer(h.Inbox), home}}
	}
	withAdminToken := func(target string) wire.Request {
		return wire.Request{Target: target, Header: [][2]string{bearer(h.Admin), home}}
	}
	withHeader := func(header ...[2]string) wire.Request { return wire.Request{Target: inbox, Header: header} }
	withExtraHeader := func(header ...[2]string) wire.Request { return withHeader(append(header, bearer(h.Inbox), home)...) }
	withAuthorization := func(authorization string) wire.Request {
		return withHeader([2]string{"Authorization", authorization}, home)
	}
	method := func(name, target string) wire.Request {
		m := withAdminToken(target)
		m.Method = name
		return m
	}
	half := len(h.Inbox) / 2

	all := []Threat{
		{row: 1, Request: withAdminToken("/api/v1/inbox/../admin/audit"), envoy: "allow", direct: wire.NoRoute,
			Received: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, Request: withAdminToken("/api/v1/inbox/%2e%2e/admin/audit"), envoy: "allow", direct: wire.NoRoute,
			Received: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, Request: withInboxToken("/api/v1/inbox/%2e%2e/admin/audit"), envoy: "403 FORBIDDEN missing_scope", direct: wire.NoRoute},
		{row: 1, Request: withAdminToken("/api/v1/inbox/..;/admin/audit"), envoy: "allow", direct: wire.NoRoute,
			Received: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, Request: withAdminToken("/api/v1/inbox/..;a=b/admin/audit"), envoy: "allow", direct: wire.NoRoute,
			Received: map[string][]string{":path": {"/api/v1/admin/audit"}}},
		{row: 1, Request: withAdminToken("/api/v1/tags/../inbox/./conversations"), envoy: "allow", direct: wire.NoRoute,
			Received: map[string][]string{":path": {inbox}}},
		{row: 2, Request: withAdminToken("/api/v1//inbox/conversations"), envoy: "allow", direct: wire.NoRoute, istio: wire.NoRoute,
			Received: map[string][]string{":path": {inbox}}},
		{row: 2, Request: withAdminToken("//api/v1/inbox/conversations"), envoy: "allow", direct: wire.NoRoute, istio: wire.NoRoute,
			Received: map[string][]string{":path": {inbox}}},
		{row: 2, Request: withAdminToken("//admin/x"), envoy: wire.NoRoute},
		{row: 5, Request: withAdminToken("/api/v1/contacts/%72oot"), envoy: "allow",
			Received: map[string][]string{":path": {"/api/v1/contacts/root"}}},
		{row: 5, Request: withAdminToken("/api/v1/%69nbox/%63onversations"), envoy: "allow",
			Received: map[string][]string{":path": {inbox}}},
		{row: 5, Request: withInboxToken("/api/v1/%61dmin/audit"), envoy: "403 FORBIDDEN missing_scope"},
		{row: 7, Request: withAdminToken(`/api/v1\inbox\conversations`), envoy: "allow", direct: wire.NoRoute,
			Received: map[string][]string{":path": {inbox}}},
		{row: 7, Request: withAdminToken("*"), envoy: wire.Refused, h2: "closed", direct: wire.NoRoute},
		{row: 7, Request: withAdminToken("api/v1/contacts"), envoy: wire.Refused, h2: "closed", direct: wire.NoRoute},
		{row: 7, Request: withAdminToken("/api/v1/contacts/\u00e9"), h1: wire.Refused, h2: "allow", direct: wire.NoRoute,
			Received: map[string][]string{":path": {"/api/v1/contacts/%C3%A9"}}},
		{row: 8, Request: withAdminToken("http://evil.test/api/v1/admin"), envoy: wire.NoRoute, h2: "closed", istio: wire.UnknownHost, gateway: wire.UnknownHost},
		{row: 8, Request: withAdminToken("http://evil.test" + inbox), envoy: "allow", h2: "closed", direct: wire.NoRoute, istio: wire.UnknownHost, gateway: wire.UnknownHost,
			Received: map[string][]string{":path": {inbox}, ":host": {"evil.test"}}},
		{row: 9, Request: withInboxToken(inbox + "?x=/../admin"), envoy: "allow",
			Received: map[string][]string{":path": {inbox + "?x=/../admin"}}},
		{row: 9, Request: withInboxToken("/api/v1/admin?x=" + inbox), envoy: wire.NoRoute},
		{row: 9, Request: wire.Request{Target: inbox + "?access_token=" + h.Inbox, Header: [][2]string{home}}, envoy: wire.Missing},

		{row: 10, Request: withHeader(bearer(h.Inbox), bearer("junk"), home), envoy: wire.Malformed},
		{row: 10, Request: withHeader(bearer("junk"), bearer(h.Inbox), home), envoy: wire.Malformed},
		{row: 10, Request: withHeader(bearer(h.Inbox), bearer(h.Inbox), home), envoy: wire.Malformed},
		{row: 10, Request: withHeader([2]string{"AUTHORIZATION", "Bearer " + h.Inbox}, [2]string{"authorization", "bearer junk"}, home), envoy: wire.Malformed},
		{row: 10, Request: withAuthorization("Bearer " + h.Inbox + ",Bearer " + h.Inbox), envoy: wire.Malformed},
		{row: 10, Request: withHeader([2]string{"Authorization", ""}, bearer(h.Inbox), home), envoy: "allow", direct: wire.Malformed},
		{row: 11, Request: withAuthorization("bearer " + h.Inbox), envoy: "allow"},
		{row: 11, Request: withAuthorization("BEARER " + h.Inbox), envoy: "allow"},
		{row: 11, Request: withAuthorization("Bearer\t" + h.Inbox), envoy: wire.Malformed},
		{row: 11, Request: withAuthorization("Bearer"), envoy: wire.Malformed},
		{row: 11, Request: withAuthorization(""), envoy: wire.Missing},
		{row: 12, Request: withAuthorization("  Bearer " + h.Inbox), envoy: "allow", h2: wire.Missing, direct: wire.Missing},
		{row: 12, Request: withAuthorization("Bearer " + h.Inbox + "\t"), envoy: "allow", h2: wire.Malformed, direct: wire.Malformed},
		{row: 13, Request: withAuthorization("Bearer " + h.Inbox + "\x00"), h1: wire.Refused, h2: "closed", direct: wire.Malformed},
		{row: 13, Request: withAuthorization("Bearer " + h.Inbox + "\x01"), h1: wire.Refused, h2: "closed", direct: wire.Malformed},
		{row: 13, Request: withAuthorization("Bearer " + h.Inbox + "\x7f"), h1: wire.Refused, h2: "closed", direct: wire.Malformed},
		// A carriage return is not part of a credential: the upstream receives no carriage return in either case.
		{row: 13, Request: withAuthorization("Bearer " + h.Inbox[:half] + "\r" + h.Inbox[half:]), h1: "allow", h2: "closed", direct: wire.Malformed},
		{row: 13, Request: withAuthorization("Bearer " + h.Inbox[:half] + "\r\n " + h.Inbox[half:]), h1: wire.Malformed, h2: "closed", direct: wire.Malformed},
		{row: 14, Request: withAuthorization("Bearer " + h.Inbox + "\xff"), envoy: wire.Malformed},
		{row: 14, Request: withAuthorization("Bearer " + h.Inbox[:half] + "\xff" + h.Inbox[half+1:]), envoy: wire.Malformed},
		{row: 15, Request: withAuthorization("Bearer sk_live_" + strings.Repeat("a", 505)), envoy: wire.Malformed},
		{row: 15, Request: withAuthorization("Bearer " + strings.Repeat("a", 8<<10-3) + ".b.c"), envoy: wire.Malformed},
		{row: 15, Request: withAuthorization("Bearer " + strings.Repeat("a", 20<<10)), envoy: wire.Malformed},
		{row: 15, Request: withAuthorization("Bearer " + strings.Repeat("a", 70<<10)), envoy: wire.TooLarge, h2: "reset", direct: wire.Malformed},
		{row: 15, Request: withAuthorization("Bearer " + strings.Repeat("a", 1<<20)), envoy: "-", direct: "431 REQUEST_TOO_LARGE too_large"},

		{row: 16, Request: withHeader(bearer(h.Inbox), home, home), envoy: wire.Mismatch},
		{row: 16, Request: withHeader(bearer(h.Inbox), home, [2]string{"X-Workspace-Id", h.Other}), envoy: wire.Mismatch},
		{row: 16, Request: withHeader(bearer(h.Inbox), [2]string{"x-workspace-id", ""}, home), envoy: wire.Mismatch},
		{row: 16, Request: withHeader(bearer(h.Inbox), [2]string{"x-workspace-id", ""}), envoy: wire.Mismatch},
		{row: 16, Request: withHeader(bearer(h.Inbox), [2]string{"x-workspace-id", strings.ToUpper(h.Home)}), envoy: wire.Mismatch},
		{row: 16, Request: withHeader(bearer(h.Inbox), [2]string{"x-workspace-id", h.Home + "," + h.Home}), envoy: wire.Mismatch},
		{row: 16, Request: withHeader(bearer(h.Inbox), [2]string{"x-workspace-id", h.Home[:23]}), envoy: wire.Mismatch},
		{row: 17, Request: withHeader(bearer(h.Inbox), [2]string{"x_workspace_id", h.Home}), h1: wire.Refused, h2: "reset",
			direct: "403 WORKSPACE_ACCESS_DENIED workspace_required", istio: "403 WORKSPACE_ACCESS_DENIED workspace_required"},
		{row: 18, Request: withExtraHeader([2]string{"Connection", "authorization, x-workspace-id"}), envoy: wire.Missing, h2: "closed",
			direct: "-"},
		{row: 19, Request: withExtraHeader([2]string{"X-Keywicket-Subject", "evil"}, [2]string{"x-keywicket-subject", "worse"},
			[2]string{"x-keywicket-kind", ""}, [2]string{"x-keywicket-role", "owner"}, [2]string{"x-keywicket-else", "x"}), envoy: "allow",
			Received:                  map[string][]string{"x-keywicket-scopes": {"inbox:read"}, "x-keywicket-kind": {"workspace_token"}, "x-keywicket-role": nil, "x-keywicket-else": nil},
			ReceivedWithoutAllHeaders: map[string][]string{"x-keywicket-role": {"owner"}, "x-keywicket-else": {"x"}}},
		{row: 20, Request: withExtraHeader([2]string{"x-envoy-original-path", "/healthz"}, [2]string{"x-original-url", "/healthz"},
			[2]string{"x-rewrite-url", "/healthz"}, [2]string{"x-http-method-override", "DELETE"}), envoy: "allow",
			Received: map[string][]string{"x-envoy-original-path": nil, "x-original-url": nil, "x-rewrite-url": nil, "x-http-method-override": nil}},
		{row: 20, Request: withExtraHeader([2]string{"x-http-method", "DELETE"}, [2]string{"X-Method-Override", "DELETE"}), envoy: "allow",
			Received: map[string][]string{"x-http-method": nil, "x-method-override": nil}},
		{row: 20, Request: wire.Request{Target: inbox, Header: [][2]string{{"x-envoy-original-path", "/healthz"}, {"x-original-url", "/healthz"}}}, envoy: wire.Missing},
		{row: 21, Request: method("get", inbox), envoy: wire.Refused, h2: wire.NoRoute, direct: wire.NoRoute},
		{row: 21, Request: method("FOO", inbox), envoy: wire.Refused, h2: wire.NoRoute, direct: wire.NoRoute},
		{row: 21, Request: method("TRACE", inbox), envoy: wire.NoRoute},
		{row: 21, Request: wire.Request{Method: "OPTIONS", Target: inbox, Header: [][2]string{{"Origin", "https://evil.test"}, {"Access-Control-Request-Method", "GET"}}}, envoy: wire.Missing},
		{row: 21, Request: wire.Request{Method: "OPTIONS", Target: inbox, Header: [][2]string{{"Origin", "https://app.example"}}}, envoy: wire.Missing}, // this origin is listed, but the request is not a preflight request
		{row: 21, Request: wire.Request{Method: "OPTIONS", Target: inbox, Header: [][2]string{{"Access-Control-Request-Method", "GET"}}}, envoy: wire.Missing},
		{row: 21, Request: wire.Request{Method: "OPTIONS", Target: inbox, Header: append([][2]string{{"Origin", "https://app.example"}}, withAdminToken("").Header...)}, envoy: wire.NoRoute},
		{row: 22, Request: wire.Request{Target: inbox, Host: "A.TEST.:80", Header: withInboxToken(inbox).Header}, envoy: "allow",
			istio: wire.UnknownHost, gateway: wire.UnknownHost, Received: map[string][]string{":host": {"A.TEST"}}},
		{row: 22, Request: wire.Request{Target: inbox, Host: "a.test", Header: append([][2]string{{"Host", "b.test"}}, withInboxToken(inbox).Header...)}, envoy: wire.NoRoute, h2: "allow", direct: "-",
			istio: wire.UnknownHost, gateway: wire.UnknownHost, Received: map[string][]string{":host": {"a.test"}}},
		{row: 22, Request: wire.Request{Target: inbox, Host: "a.test,b.test", Header: withInboxToken(inbox).Header}, envoy: wire.NoRoute, istio: wire.UnknownHost, gateway: wire.UnknownHost},
		{row: 23, Request: wire.Request{Method: "CONNECT", Target: "api.test:443", Host: "api.test:443", Header: withInboxToken("").Header}, envoy: wire.NotFound, direct: wire.NoRoute},
		{row: 23, Request: wire.Request{Method: "CONNECT", Protocol: "websocket", Target: inbox, Header: withInboxToken("").Header}, h1: "-", h2: "closed", direct: wire.NoRoute},
		{row: 23, Request: withExtraHeader([2]string{"Connection", "Upgrade"}, [2]string{"Upgrade", "websocket"}), h1: "403 ERROR error", h2: "closed", direct: "allow",
			istio: "200", gateway: "200"},
		{row: 24, Request: wire.Request{Method: "POST", Target: inbox, Header: [][2]string{home}, Body: "{}", Trailer: [][2]string{bearer(h.Admin)}}, envoy: wire.Missing, direct: wire.Missing},
		{row: 24, Request: wire.Request{Method: "PATCH", Target: "/api/v1/tags/7", Header: withInboxToken("").Header, Trailer: [][2]string{bearer(h.Admin)}, Body: "{}"}, envoy: "403 FORBIDDEN missing_scope"},
		{row: 29, Request: withAdminToken("/%2fevil.example"), envoy: wire.Refused, direct: wire.NoRoute, istio: wire.NoRoute, gateway: "307 /evil.example"},
		{row: 29, Request: withAdminToken("/%5c%5cevil.example/%2e%2e"), envoy: wire.Refused, direct: wire.NoRoute, istio: wire.NoRoute, gateway: "307 //"},
		{row: 29, Request: withAdminToken("/x%2f..%5c%2fevil.example"), envoy: wire.Refused, direct: wire.NoRoute, istio: wire.NoRoute, gateway: "307 /evil.example"},
		{row: 30, Request: wire.Request{Method: "POST", Target: "/api/v1/tags", Header: withAdminToken("").Header, Body: strings.Repeat("x", 1<<17)}, envoy: "allow"},
		{row: 30, Request: wire.Request{Method: "POST", Target: "/api/v1/tags", Header: withInboxToken("").Header, Body: strings.Repeat("x", 1<<17)}, envoy: "403 FORBIDDEN missing_scope"},
		{row: 31, Request: withHeader([2]string{"Content-Type", "application/grpc"}, home), envoy: "grpc 16", direct: wire.Missing},
		{row: 31, Request: wire.Request{Target: "/x.Y/Z", Header: append([][2]string{{"Content-Type", "application/grpc"}}, withInboxToken("").Header...)}, envoy: "grpc 7", direct: wire.NoRoute},
		{row: 32, Request: withInboxToken("/api/v1/tags"), envoy: "403 FORBIDDEN missing_scope"},
		{row: 32, Request: withHeader(bearer(h.Inbox), [2]string{"x-workspace-id", h.Other}), envoy: wire.Mismatch},
		{row: 32, Request: withHeader(bearer(h.Contacts), home), envoy: "403 FORBIDDEN missing_scope"},
		{row: 38, Request: withExtraHeader([2]string{"x-keywicket-environment", "sandbox"}, [2]string{"X-Keywicket-Environment", "sandbox"}), envoy: "allow",
			Received: map[string][]string{":upstream": {"live"}, "x-keywicket-environment": {"live"}}},
	}
	// Envoy passes these targets on unchanged, so the sidecar must deny the requests.
	for row, targets := range map[int][]string{
		4: {"/api/v1/inbox;jsessionid=1/conversations", "/api/v1/contacts/a;b"},
		5: {"/api/v1/contacts/a%252fb", "/api/v1/contacts/%zz", "/api/v1/contacts/%C0%AF", "/api/v1/contacts/a%23b", "/api/v1/contacts/a%3fb"},
		6: {"/API/V1/Inbox/Conversations", inbox + ".", inbox + "/"},
	} {
		for _, target := range targets {
			all = append(all, Threat{row: row, Request: withAdminToken(target), envoy: wire.NoRoute})
		}
	}
	for target, gateway := range map[string]string{
		"/api/v1/inbox%2Fconversations": "/api/v1/inbox/conversations", "/api/v1/inbox%5Cconversations": "/api/v1/inbox/conversations",
		"/api/v1/inbox%2f..%2fadmin%2faudit": "/api/v1/admin/audit",
	} {
		all = append(all, Threat{row: 3, Request: withAdminToken(target), envoy: wire.Refused, direct: wire.NoRoute, istio: wire.NoRoute, gateway: "307 " + gateway})
	}
	all = append(all,
		Threat{row: 5, Request: withAdminToken("/api/v1/contacts/a%00b"), envoy: wire.Refused, direct: wire.NoRoute},
		Threat{row: 7, Request: withAdminToken("/api/v1/contacts/a#f"), envoy: wire.Refused, direct: wire.NoRoute, istio: "allow",
			Received: map[string][]string{":path": {"/api/v1/contacts/a"}}},
	)
	for _, target := range []string{"/api/v1/contacts/..", "/api/v1/contacts/%2e%2e", "/api/v1/contacts/%zz"} {
		all = append(all, Threat{row: 39, Request: wire.Request{Target: target, Header: [][2]string{bearer(h.Contacts), home}}, envoy: wire.NoRoute})
	}
	all = append(all, Threat{row: 39, Request: wire.Request{Target: "/api/v1/contacts/a%2fb", Header: [][2]string{bearer(h.Contacts), home}},
		envoy: wire.Refused, direct: wire.NoRoute, istio: wire.NoRoute, gateway: "307 /api/v1/contacts/a/b"})
	// Many servers read these names as the workspace header, or as the headers of rows 19 and 20.
	for row, names := range map[int][]string{
		17: {"x_workspace_id", "X-Workspace_Id"},
		19: {"x_keywicket_subject", "x-keywicket_subject", "X_Keywicket_Scopes"},
		20: {"x_original_url", "X_Http_Method_Override", "x-http_method"},
	} {
		for _, name := range names {
			all = append(all, Threat{row: row, Request: withExtraHeader([2]string{name, "forged"}), h1: wire.Refused, h2: "reset", direct: "allow", istio: "allow",
				Received: map[string][]string{strings.ToLower(name): nil}, ReceivedWithoutAllHeaders: map[string][]string{strings.ToLower(name): {"forged"}}})
		}
	}
	return all
}

// Outcome returns the outcome over the protocol, or "-" if the protocol cannot send the threat.
func (h Threat) Outcome(protocol string) string {
	switch protocol {
	case "HTTP/1.1":
		return cmp.Or(h.h1, h.envoy)
	case "HTTP/2":
		return cmp.Or(h.h2, h.envoy)
	}
	return cmp.Or(h.direct, h.envoy)
}

// OutcomeInMesh returns the outcome over the protocol through the Envoy of a mesh. There, Envoy's own responses have another
// body. If HTTP/2 itself forbids a request, every Envoy closes the connection.
func (h Threat) OutcomeInMesh(mesh, protocol string) string {
	other := map[string]string{Istio: h.istio, EnvoyGateway: h.gateway}[mesh]
	if other != "" && h.Outcome(protocol) != "closed" {
		return other
	}
	return strings.NewReplacer(wire.Refused, "400", wire.NotFound, "404", wire.TooLarge, "431").Replace(h.Outcome(protocol))
}

// onlyMeshServes reports whether the Envoy of a mesh serves a request that deploy/envoy refuses. It returns false for a threat
// with Received, because the upstream then receives the form that the sidecar checked.
func (h Threat) onlyMeshServes() bool {
	return slices.ContainsFunc([]string{Istio, EnvoyGateway}, func(mesh string) bool {
		return slices.ContainsFunc(wire.HTTPProtocols, func(protocol string) bool {
			served := []string{"allow", "200"}
			return !slices.Contains(served, h.Outcome(protocol)) && slices.Contains(served, h.OutcomeInMesh(mesh, protocol)) && h.Received == nil
		})
	})
}

func (h Threat) String() string {
	return fmt.Sprintf("row %d: %.60q %.100q", h.row, cmp.Or(h.Method, "GET")+" "+h.Target, fmt.Sprint(h.Header))
}
