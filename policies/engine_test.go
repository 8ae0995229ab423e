package policies_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/clientcert"
	"github.com/keywicket/keywicket/policies"
)

// load loads a policy and runs its tests. An empty dir is the built-in policy.
func load(t testing.TB, dir string) *policies.Engine {
	t.Helper()
	engine, err := policies.Load(t.Context(), policies.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// explainer loads a policy without running its tests, which takes less time.
func explainer(t testing.TB, dir string) *policies.Explainer {
	t.Helper()
	e, err := policies.LoadExplainer(t.Context(), policies.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// copyBuiltin copies the built-in policy to a temporary folder for editing.
func copyBuiltin(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	return dir
}

// edit replaces the first occurrence of old in a file.
func edit(t *testing.T, dir, file, old, replacement string) {
	t.Helper()
	name := filepath.Join(dir, filepath.FromSlash(file))
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", file, old)
	}
	err = os.WriteFile(name, []byte(strings.Replace(string(text), old, replacement, 1)), 0o600)
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, file, text string) {
	t.Helper()
	name := filepath.Join(dir, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func inboxInput() authz.Input {
	path := "/api/v1/inbox/conversations"
	return authz.Input{
		API: "velaflows", Method: "GET", Path: path, Host: "api.example",
		Principal: &authz.Principal{
			ID: "t1", Kind: authz.KindWorkspaceToken, API: "velaflows", Environment: authz.Live,
			Scopes: []string{"inbox:read"},
		},
		Workspace: authz.Workspace{Requested: true, Granted: true, ID: "64f1a2b3c4d5e6f7a8b9c0d1", Slug: "acme"},
	}
}

func TestDecisionOfTheBuiltInPolicy(t *testing.T) {
	engine := load(t, "")
	d, err := engine.Decide(t.Context(), inboxInput())
	if err != nil || !d.Allow || d.Route != "GET /api/v1/inbox/conversations" {
		t.Fatalf("got %+v, %v", d, err)
	}
	in := inboxInput()
	in.Principal.Scopes = []string{"inbox:write"}
	d, err = engine.Decide(t.Context(), in)
	if err != nil || d.Allow || d.Code != authz.CodeForbidden || d.Reason != authz.ReasonMissingScope ||
		len(d.RequiredScopes) != 1 || d.RequiredScopes[0] != "inbox:read" {
		t.Fatalf("got %+v, %v", d, err)
	}
}

func TestInputDocumentIsWhole(t *testing.T) {
	dir := copyBuiltin(t)
	write(t, dir, "keywicket/decision.rego", `package keywicket

decision := {"allow": true, "code": null, "reason": null, "required_scopes": [], "route": json.marshal(input)}
`)
	removeTests(t, dir)
	in := inboxInput()
	in.Principal.UserID, in.Principal.AAL = "ada", "aal2"
	in.Principal.Attributes, in.Principal.UserAttributes = `{"plan": ["pro"], "limit": 12345678901234567890.10}`, `{"beta": true}`
	in.Query = map[string][]string{"q": {"1", "2"}}
	in.Header = map[string][]string{"x-region": {"eu"}}
	in.Context = authz.Fields{{Name: "api", Value: "velaflows"}}
	in.Time = time.Unix(1750000000, 123456789)
	in.RawQuery = "q=1&q=2"
	in.Source = authz.Source{Address: "203.0.113.7", Principal: "spiffe://acme/billing", Certificate: &clientcert.Certificate{
		URIs: []string{"spiffe://acme/billing"}, DNSNames: []string{"billing.acme"}, Subject: "CN=billing",
	}}
	d, err := load(t, dir).Decide(t.Context(), in)
	want := `{"api":"velaflows","context":{"api":"velaflows"},"denial":null,` +
		`"principal":{"aal":"aal2","api":"velaflows","attributes":{"limit":12345678901234567890.10,"plan":["pro"]},"environment":"live","id":"t1",` +
		`"kind":"workspace_token","scopes":["inbox:read"],"user_attributes":{"beta":true},"user_id":"ada"},` +
		`"request":{"headers":{"x-region":["eu"]},"host":"api.example","method":"GET","path":"/api/v1/inbox/conversations",` +
		`"query":{"q":["1","2"]},"raw_query":"q=1\u0026q=2","segments":["api","v1","inbox","conversations"]},` +
		`"source":{"address":"203.0.113.7","certificate":{"dns_names":["billing.acme"],"subject":"CN=billing","uris":["spiffe://acme/billing"]},` +
		`"principal":"spiffe://acme/billing"},"time":1750000000123456789,` +
		`"workspace":{"attributes":{},"granted":true,"id":"64f1a2b3c4d5e6f7a8b9c0d1","requested":true,"role":null,"slug":"acme"}}`
	if err != nil || d.Route != want {
		t.Fatalf("%v, got\n%s\nwant\n%s", err, d.Route, want)
	}
}

func removeTests(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(name, "_test.rego") {
			return os.Remove(name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPolicyIsRefused(t *testing.T) {
	const table = "apis/velaflows/data.yaml"
	row := func(row string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			edit(t, dir, table, "routes:\n", "routes:\n  - "+row+"\n")
		}
	}
	implies := func(text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { edit(t, dir, table, "routes:\n", "implies: "+text+"\nroutes:\n") }
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"unknown key":        {row("{method: GET, path: /x, scope: [tags:read]}"), `data.yaml:34: unknown key "scope"`},
		"unknown scope":      {row("{method: GET, path: /x, scopes: [tags:reed]}"), `data.yaml:34: the scope "tags:reed" is not among scopes`},
		"no scope":           {row("{method: GET, path: /x}"), `data.yaml:34: name the scopes that the route needs, or make it public`},
		"public with scopes": {row("{method: GET, path: /x, public: true, scopes: [tags:read]}"), `data.yaml:34: a public route needs no scopes`},
		"level":              {row("{method: GET, path: /x, level: team, scopes: [tags:read]}"), `data.yaml:34: the level "team" is neither`},
		"level of the scope": {row("{method: GET, path: /x, level: user, scopes: [tags:read]}"), `the scope tags:read is of the level workspace, but the route is of the level user`},
		"method":             {row("{method: get, path: /x, scopes: [tags:read]}"), `data.yaml:34: the method "get" is not one in capitals`},
		"glob":               {row("{method: GET, path: /x/*, scopes: [tags:read]}"), `data.yaml:34: the path "/x/*": "*" has a *: write {name} for one segment, {name...}`},
		"alternation":        {row(`{method: GET, path: "/x/{a,b}", scopes: [tags:read]}`), `"{a,b}" is not a parameter`},
		"any_of: unknown":    {row("{method: GET, path: /x, any_of: [tags:reed]}"), `data.yaml:34: the scope "tags:reed" is not among scopes`},
		"public with any_of": {row("{method: GET, path: /x, public: true, any_of: [tags:read]}"), `data.yaml:34: a public route needs no scopes`},
		"parameter of Rails": {row("{method: GET, path: /x/:id, scopes: [tags:read]}"), `data.yaml:34: the path "/x/:id": ":id" is not a parameter: write {id}`},
		"optional parameter": {row(`{method: GET, path: "/x/{id?}", scopes: [tags:read]}`), `"{id?}" cannot be optional: write two rows`},
		"no precedence": {row(`{method: GET, path: "/x/{a}.json", scopes: [tags:read]}` + "\n  - " + `{method: GET, path: "/x/data.{b}", scopes: [tags:read]}`),
			`data.yaml:35: GET /x/data.{b} and line 34, GET /x/{a}.json, match the same path, and neither has precedence: add`},
		"a path without quotes": {row(`{method: GET, path: /x/{id}, scopes: [tags:read]}`), `data.yaml:34: a path with braces needs quotes in a row like this: path: "/x/{id}"`},
		"grpc, empty":           {row(`{method: GET, path: /x, grpc: "", scopes: [tags:read]}`), `data.yaml:34: grpc is empty: leave it out`},
		"level, empty":          {row(`{method: GET, path: /x, level: "", scopes: [tags:read]}`), `data.yaml:34: level is empty: leave it out`},
		"grpc with a path":      {row("{grpc: a.B/C, path: /x, scopes: [tags:read]}"), `data.yaml:34: grpc stands for method and path: leave these out`},
		"grpc with a method":    {row("{grpc: a.B/C, method: POST, scopes: [tags:read]}"), `data.yaml:34: grpc stands for method and path: leave these out`},
		"grpc with a slash":     {row("{grpc: /a.B/C, scopes: [tags:read]}"), `grpc: "/a.B/C" is neither package.Service/Method nor`},
		"grpc, half a method":   {row(`{grpc: "a.B/Get*", scopes: [tags:read]}`), `grpc: "a.B/Get*" is neither`},
		"grpc without one":      {row("{grpc: a.B, scopes: [tags:read]}"), `grpc: "a.B" is neither`},
		"same as a grpc row":    {row("{grpc: a.B/C, scopes: [tags:read]}" + "\n  - {method: POST, path: /a.B/C, scopes: [tags:read]}"), `data.yaml:35: POST /a.B/C matches the same requests as line 34`},
		"implies: unknown":      {implies("{tags:reed: [tags:read]}"), `implies: the scope "tags:reed" is not among scopes`},
		"implies an unknown":    {implies("{tags:write: [tags:reed]}"), `implies: tags:write: the scope "tags:reed" is not among scopes`},
		"implies none":          {implies(`{tags:write: ["tag:*"]}`), `implies: tags:write: no scope starts with "tag:"`},
		"implies a circle":      {implies("{tags:write: [tags:read], tags:read: [contacts:read], contacts:read: [tags:write]}"), `imply one another`},
		"implies, of a user": {func(t *testing.T, dir string) {
			edit(t, dir, "apis/velocity/data.yaml", "routes:\n", "implies: {issues:write: [user:read]}\nroutes:\n")
		}, `implies: issues:write is of the level workspace, and user:read of user`},
		"path not canonical":  {row(`{method: GET, path: /x//y, scopes: [tags:read]}`), `the path "/x//y" matches no request: the path has an empty segment`},
		"relative path":       {row(`{method: GET, path: x, scopes: [tags:read]}`), `the path "x" matches no request: the path does not start with a /`},
		"special, escaped":    {row("{method: GET, path: /x/a%23, scopes: [tags:read]}"), `data.yaml:34: the path "/x/a%23": "a%23" has a #, which literal text never has`},
		"same, escaped":       {row("{method: GET, path: /%68ealthz, public: true}"), `data.yaml:35: GET /healthz matches the same requests as line 34`},
		"special characters":  {func(t *testing.T, dir string) { edit(t, dir, table, "routes:", "parameters: {may_hold: [/]}\nroutes:") }, `data.yaml:33: parameters.may_hold: "/" is none of`},
		"same shape":          {row(`{method: GET, path: "/api/v1/contacts/{id}", scopes: [tags:read]}`), `matches the same requests as line 34`},
		"same route":          {row(`{method: GET, path: /healthz, public: true}`), `data.yaml:35: GET /healthz matches the same requests as line 34`},
		"unknown in override": {func(t *testing.T, dir string) { edit(t, dir, table, "[admin:all]", "[root]") }, `data.yaml:30: overrides: the scope "root" is not among scopes`},
		"unknown in role": {func(t *testing.T, dir string) {
			edit(t, dir, "apis/velocity/data.yaml", "guest: [", "guest: [issues:look, ")
		}, `apis/velocity/data.yaml:41: roles: guest: the scope "issues:look"`},
		"public: no":         {row("{method: GET, path: /x, scopes: [tags:read], public: no}"), `opa reads a value as another type`},
		`public: "no"`:       {row(`{method: GET, path: /x, scopes: [tags:read], public: "no"}`), table + `:34: `},
		"public: off":        {row("{method: GET, path: /x, scopes: [tags:read], public: off}"), `opa reads a value as another type`},
		"public: ~":          {row("{method: GET, path: /x, scopes: [tags:read], public: ~}"), `data.yaml:34: a key without a value`},
		"public, left empty": {row("{method: GET, path: /x, scopes: [tags:read], public: }"), `data.yaml:34: a key without a value`},
		"routes by an alias": {func(t *testing.T, dir string) {
			write(t, dir, table, "x: &x\n  - {method: GET, path: /x, public: true}\nroutes: *x\n")
		}, `unknown key "x"`},
		"routes by a merge key": {func(t *testing.T, dir string) {
			write(t, dir, table, "scopes: {workspace: {a: &d x}}\n<<: {routes: [{method: GET, path: /x, public: true}]}\n")
		}, `routes: write every row out`},
		"not YAML": {func(t *testing.T, dir string) { edit(t, dir, table, "routes:", "routes") }, table + `:33: could not find`},
		"data elsewhere": {func(t *testing.T, dir string) {
			write(t, dir, "apis/velaflows/more.json", "{}")
		}, `apis/velaflows/more.json: unexpected data file: put a table in apis/NAME/data.yaml, and other data in facts/NAME/data.yaml or .json`},
		"does not compile": {func(t *testing.T, dir string) {
			edit(t, dir, "keywicket/decision.rego", "permitted\n", "permited\n")
		}, `permited is unsafe`},
		"does not parse": {func(t *testing.T, dir string) {
			edit(t, dir, "keywicket/decision.rego", "decision := allowed if {", "decision := allowed if")
		}, `keywicket/decision.rego:`},
		"own test fails": {func(t *testing.T, dir string) {
			edit(t, dir, "keywicket/decision.rego", "\t\tscope in one_of", "\t\tscope != one_of")
		}, `test_workspace_token_needs_the_scope_itself`},
		"network": {func(t *testing.T, dir string) {
			edit(t, dir, "keywicket/decision.rego", "permitted if {", "permitted if {\n\thttp.send({})")
		}, `keywicket/decision.rego:54: http.send is not available in the sidecar`},
		"network, by a schema": {func(t *testing.T, dir string) {
			edit(t, dir, "keywicket/decision.rego", "permitted if {", "permitted if {\n\tjson.match_schema({}, {})")
		}, `keywicket/decision.rego:54: json.match_schema is not available in the sidecar`},
		"environment": {func(t *testing.T, dir string) {
			edit(t, dir, "keywicket/decision.rego", "permitted if {", "permitted if {\n\topa.runtime()")
		}, `keywicket/decision.rego:54: opa.runtime is not available in the sidecar`},
		"no policy": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "apis")); err != nil {
				t.Fatal(err)
			}
		}, `there is no apis/NAME/data.yaml`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyBuiltin(t)
			c.spoil(t, dir)
			_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

// A policy that loads can still give no decision, or an invalid one. Each is an error, so it never allows a request.
func TestDecisionThatIsNone(t *testing.T) {
	for name, rule := range map[string]string{
		"undefined":         `decision := true if input.api == "other"`,
		"not an object":     `decision := true`,
		"no allow":          `decision := {"code": null, "reason": null, "required_scopes": [], "route": null}`,
		"allow of a string": `decision := {"allow": "yes", "code": null, "reason": null, "required_scopes": [], "route": null}`,
		"scopes of numbers": `decision := {"allow": true, "code": null, "reason": null, "required_scopes": [1], "route": null}`,
		"no scopes":         `decision := {"allow": true, "code": null, "reason": null, "route": null}`,
		"built-in's error":  `decision := {"allow": 1 / count(input.context) > 0, "code": null, "reason": null, "required_scopes": [], "route": null}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyBuiltin(t)
			removeTests(t, dir)
			write(t, dir, "keywicket/decision.rego", "package keywicket\n\n"+rule+"\n")
			d, err := load(t, dir).Decide(t.Context(), inboxInput())
			if err == nil {
				t.Fatalf("got %+v and no error", d)
			}
		})
	}
}

func TestDecisionEndsWithItsContext(t *testing.T) {
	dir := copyBuiltin(t)
	removeTests(t, dir)
	write(t, dir, "keywicket/decision.rego", `package keywicket

upto := numbers.range(1, 30000 + count(input.context))

decision := {"allow": count([1 | upto[_]; upto[_]]) > 0, "code": null, "reason": null, "required_scopes": [], "route": null}
`)
	engine := load(t, dir)
	for _, limit := range []time.Duration{0, 20 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		if d, err := engine.Decide(ctx, inboxInput()); err == nil || ctx.Err() == nil {
			t.Errorf("after %v: %+v, %v", limit, d, err)
		}
		cancel()
	}
	if engine.Remembered() > 0 {
		t.Error("an evaluation that did not end is remembered")
	}
}
