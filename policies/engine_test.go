package policies_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

func TestDecisionOfTheBuiltInPolicy(t *testing.T) {
	engine := policytest.Load(t, "")
	d, err := engine.Decide(t.Context(), policytest.Input())
	if err != nil || !d.Allow || d.Route != "GET /api/v1/inbox/conversations" {
		t.Fatalf("got %+v, %v", d, err)
	}
	in := policytest.Input()
	in.Principal.Scopes = []string{"inbox:write"}
	d, err = engine.Decide(t.Context(), in)
	if err != nil || d.Allow || d.Code != authz.CodeForbidden || d.Reason != authz.ReasonMissingScope ||
		len(d.RequiredScopes) != 1 || d.RequiredScopes[0] != "inbox:read" {
		t.Fatalf("got %+v, %v", d, err)
	}
}

func TestPolicyIsRefused(t *testing.T) {
	const table = "apis/velaflows/data.yaml"
	row := func(row string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			policytest.Edit(t, dir, table, "routes:\n", "routes:\n  - "+row+"\n")
		}
	}
	implies := func(text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			policytest.Edit(t, dir, table, "routes:\n", "implies: "+text+"\nroutes:\n")
		}
	}
	for name, c := range map[string]struct {
		edit func(t *testing.T, dir string)
		want string
	}{
		"unknown key":        {row("{method: GET, path: /x, scope: [tags:read]}"), `data.yaml:50: unknown key "scope"`},
		"unknown scope":      {row("{method: GET, path: /x, scopes: [tags:reed]}"), `data.yaml:50: the scope "tags:reed" is not defined under the key "scopes"`},
		"no scope":           {row("{method: GET, path: /x}"), `data.yaml:50: list the scopes that the route requires, or write public: true`},
		"public with scopes": {row("{method: GET, path: /x, public: true, scopes: [tags:read]}"), `data.yaml:50: a public route must not have scopes: remove them`},
		"level":              {row("{method: GET, path: /x, level: team, scopes: [tags:read]}"), `data.yaml:50: the level "team" is neither`},
		"level of the scope": {row("{method: GET, path: /x, level: user, scopes: [tags:read]}"), `the scope tags:read has the level workspace, but the route has the level user`},
		"method":             {row("{method: get, path: /x, scopes: [tags:read]}"), `data.yaml:50: the method "get" is invalid: write it in capitals, or write * for any method`},
		"glob":               {row("{method: GET, path: /x/*, scopes: [tags:read]}"), `data.yaml:50: the path "/x/*": the segment "*" contains a *: write {name} for one segment, {name...}`},
		"alternation":        {row(`{method: GET, path: "/x/{a,b}", scopes: [tags:read]}`), `"{a,b}" is not a parameter`},
		"any_of: unknown":    {row("{method: GET, path: /x, any_of: [tags:reed]}"), `data.yaml:50: the scope "tags:reed" is not defined under the key "scopes"`},
		"public with any_of": {row("{method: GET, path: /x, public: true, any_of: [tags:read]}"), `data.yaml:50: a public route must not have scopes: remove them`},
		"parameter of Rails": {row("{method: GET, path: /x/:id, scopes: [tags:read]}"), `data.yaml:50: the path "/x/:id": ":id" is not a parameter: write {id}`},
		"optional parameter": {row(`{method: GET, path: "/x/{id?}", scopes: [tags:read]}`), `"{id?}" cannot be optional: write two rows`},
		"no precedence": {row(`{method: GET, path: "/x/{a}.json", scopes: [tags:read]}` + "\n  - " + `{method: GET, path: "/x/data.{b}", scopes: [tags:read]}`),
			`data.yaml:51: GET /x/data.{b} and line 50, GET /x/{a}.json, match the same path, and neither has precedence: add`},
		"a path without quotes": {row(`{method: GET, path: /x/{id}, scopes: [tags:read]}`), `data.yaml:50: a path with braces needs quotes in a row like this: path: "/x/{id}"`},
		"grpc, empty":           {row(`{method: GET, path: /x, grpc: "", scopes: [tags:read]}`), `data.yaml:50: grpc is empty: leave it out`},
		"level, empty":          {row(`{method: GET, path: /x, level: "", scopes: [tags:read]}`), `data.yaml:50: level is empty: leave it out`},
		"grpc with a path":      {row("{grpc: a.B/C, path: /x, scopes: [tags:read]}"), `data.yaml:50: grpc replaces method and path: leave them out`},
		"grpc with a method":    {row("{grpc: a.B/C, method: POST, scopes: [tags:read]}"), `data.yaml:50: grpc replaces method and path: leave them out`},
		"grpc with a slash":     {row("{grpc: /a.B/C, scopes: [tags:read]}"), `grpc: "/a.B/C" is neither package.Service/Method nor`},
		"grpc with a glob":      {row(`{grpc: "a.B/Get*", scopes: [tags:read]}`), `grpc: "a.B/Get*" is neither`},
		"grpc without a method": {row("{grpc: a.B, scopes: [tags:read]}"), `grpc: "a.B" is neither`},
		"same as a grpc row":    {row("{grpc: a.B/C, scopes: [tags:read]}" + "\n  - {method: POST, path: /a.B/C, scopes: [tags:read]}"), `data.yaml:51: POST /a.B/C matches the same requests as line 50`},
		"implies: unknown":      {implies("{tags:reed: [tags:read]}"), `implies: the scope "tags:reed" is not defined under the key "scopes"`},
		"implies an unknown":    {implies("{tags:write: [tags:reed]}"), `implies: tags:write: the scope "tags:reed" is not defined under the key "scopes"`},
		"implies no scope":      {implies(`{tags:write: ["tag:*"]}`), `implies: tags:write: no scope starts with "tag:"`},
		"implies a circle":      {implies("{tags:write: [tags:read], tags:read: [contacts:read], contacts:read: [tags:write]}"), `imply one another`},
		"implies another level": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "apis/velocity/data.yaml", "routes:\n", "implies: {issues:write: [user:read]}\nroutes:\n")
		}, `implies: issues:write has the level workspace, but user:read has the level user`},
		"path not canonical":                     {row(`{method: GET, path: /x//y, scopes: [tags:read]}`), `the path "/x//y" matches no request: the path has an empty segment`},
		"relative path":                          {row(`{method: GET, path: x, scopes: [tags:read]}`), `the path "x" matches no request: the path does not start with a /`},
		"special character, escaped":             {row("{method: GET, path: /x/a%23, scopes: [tags:read]}"), `data.yaml:50: the path "/x/a%23": "a%23" has a #, which literal text cannot contain`},
		"same route, with an escape in the path": {row("{method: GET, path: /%68ealthz, public: true}"), `data.yaml:51: GET /healthz matches the same requests as line 50`},
		"special characters": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, table, "routes:", "parameters: {may_hold: [/]}\nroutes:")
		}, `data.yaml:49: parameters.may_hold: "/" is not one of`},
		"same shape":          {row(`{method: GET, path: "/api/v1/contacts/{id}", scopes: [tags:read]}`), `matches the same requests as line 50`},
		"same route":          {row(`{method: GET, path: /healthz, public: true}`), `data.yaml:51: GET /healthz matches the same requests as line 50`},
		"unknown in override": {func(t *testing.T, dir string) { policytest.Edit(t, dir, table, "[admin:all]", "[root]") }, `data.yaml:33: overrides: the scope "root" is not defined under the key "scopes"`},
		"unknown in role": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "apis/velocity/data.yaml", "guest: [", "guest: [issues:look, ")
		}, `apis/velocity/data.yaml:41: roles: guest: the scope "issues:look"`},
		"public: no":         {row("{method: GET, path: /x, scopes: [tags:read], public: no}"), `opa and keywicket read a value here as different types`},
		`public: "no"`:       {row(`{method: GET, path: /x, scopes: [tags:read], public: "no"}`), table + `:50: `},
		"public: off":        {row("{method: GET, path: /x, scopes: [tags:read], public: off}"), `opa and keywicket read a value here as different types`},
		"public: ~":          {row("{method: GET, path: /x, scopes: [tags:read], public: ~}"), `data.yaml:50: this key has no value`},
		"public, left empty": {row("{method: GET, path: /x, scopes: [tags:read], public: }"), `data.yaml:50: this key has no value`},
		"routes by an alias": {func(t *testing.T, dir string) {
			policytest.Write(t, dir, table, "x: &x\n  - {method: GET, path: /x, public: true}\nroutes: *x\n")
		}, `unknown key "x"`},
		"routes by a merge key": {func(t *testing.T, dir string) {
			policytest.Write(t, dir, table, "scopes: {workspace: {a: &d x}}\n<<: {routes: [{method: GET, path: /x, public: true}]}\n")
		}, `routes: write each row directly into the list`},
		"not YAML": {func(t *testing.T, dir string) { policytest.Edit(t, dir, table, "routes:", "routes") }, table + `:49: could not find`},
		"data elsewhere": {func(t *testing.T, dir string) {
			policytest.Write(t, dir, "apis/velaflows/data.json", "{}")
		}, `apis/velaflows/data.json: unexpected data file: put a table in apis/NAME/data.yaml, and other data in facts/NAME/data.yaml or .json`},
		"does not compile": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "keywicket/decision.rego", "permitted\n", "permited\n")
		}, `permited is unsafe`},
		"does not parse": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "keywicket/decision.rego", "decision := allowed if {", "decision := allowed if")
		}, `keywicket/decision.rego:`},
		"a failing test of the policy": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "keywicket/decision.rego", "\t\tscope in scope_set", "\t\tscope != scope_set")
		}, `test_workspace_token_needs_the_scope_itself`},
		"network": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "keywicket/decision.rego", "permitted if {", "permitted if {\n\thttp.send({})")
		}, `keywicket/decision.rego:54: http.send is not available in the sidecar`},
		"network, because json.match_schema can load a schema from a URL": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "keywicket/decision.rego", "permitted if {", "permitted if {\n\tjson.match_schema({}, {})")
		}, `keywicket/decision.rego:54: json.match_schema is not available in the sidecar`},
		"environment": {func(t *testing.T, dir string) {
			policytest.Edit(t, dir, "keywicket/decision.rego", "permitted if {", "permitted if {\n\topa.runtime()")
		}, `keywicket/decision.rego:54: opa.runtime is not available in the sidecar`},
		"no table": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "apis")); err != nil {
				t.Fatal(err)
			}
		}, `there is no table: create apis/NAME/data.yaml for your API`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := policytest.Copy(t)
			c.edit(t, dir)
			_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestDecisionEndsWithItsContext(t *testing.T) {
	dir := policytest.Copy(t)
	policytest.RemoveTests(t, dir)
	policytest.Write(t, dir, "keywicket/decision.rego", `package keywicket

upto := numbers.range(1, 30000 + count(input.context))

decision := {"allow": count([1 | upto[_]; upto[_]]) > 0, "code": null, "reason": null, "required_scopes": [], "route": null}
`)
	engine := policytest.Load(t, dir)
	for _, limit := range []time.Duration{0, 20 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		if d, err := engine.Decide(ctx, policytest.Input()); err == nil || ctx.Err() == nil {
			t.Errorf("after %v: %+v, %v", limit, d, err)
		}
		cancel()
	}
	if engine.MemoryHits() > 0 {
		t.Error("the decision of a cancelled evaluation is remembered")
	}
}
