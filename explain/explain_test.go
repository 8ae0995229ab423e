package explain_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
)

// builtin returns an explainer of the built-in policies and APIs, without a database.
func builtin(t *testing.T) *explain.Explainer {
	t.Helper()
	cfg, err := config.Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return explainer(t, explain.Config{APIs: cfg.APIs}, policies.Config{})
}

func explainer(t *testing.T, cfg explain.Config, p policies.Config) *explain.Explainer {
	t.Helper()
	loaded, err := policies.LoadExplainer(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return explain.New(cfg, loaded, nil)
}

func TestExplanation(t *testing.T) {
	x := builtin(t)
	e, err := x.Explain(t.Context(), explain.Request{
		Method: "GET", Path: "/api/v1/tags", Scopes: []string{"tags:write"}, Workspace: "64f1a2b3c4d5e6f7a8b9c0d1",
	})
	if err != nil {
		t.Fatal(err)
	}
	const fix = "keywicket token create --prefix sk_live_ --workspace 64f1a2b3c4d5e6f7a8b9c0d1 --name=NAME --scope tags:write,tags:read"
	if e.Allow || *e.Code != "FORBIDDEN" || *e.Reason != "missing_scope" || *e.Route != "GET /api/v1/tags" ||
		e.Header != "x-workspace-id: 64f1a2b3c4d5e6f7a8b9c0d1" || !slices.Equal(e.RequiredScopes, []string{"tags:read"}) ||
		!slices.Equal(e.Held, []string{"tags:write"}) || !slices.Equal(e.Missing, []string{"tags:read"}) || e.Fix != fix {
		t.Errorf("got %+v", e)
	}
	want := "decision  deny: FORBIDDEN, missing_scope\nrule      " + e.Rule + "\nroute     GET /api/v1/tags (" + e.Row + ")\n" +
		"header    x-workspace-id: 64f1a2b3c4d5e6f7a8b9c0d1\nrequired  tags:read\nheld      tags:write\nmissing   tags:read\nfix       " + fix + "\n"
	if e.Text() != want {
		t.Errorf("got %s, want %s", e.Text(), want)
	}
	e, err = x.Explain(t.Context(), explain.Request{Method: "GET", Path: "/healthz", Scopes: []string{"issues:read"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	places := strings.NewReplacer(e.Rule, "RULE", e.Row, "ROW")
	if got, want := places.Replace(string(text)), `{"allow":true,"code":null,"reason":null,"required_scopes":[],"any_of":[],"route":"GET /healthz",`+
		`"row":"ROW","rule":"RULE","held":["issues:read"],"missing":[]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !strings.HasPrefix(e.Text(), "decision  allow\n") {
		t.Errorf("got %s", e.Text())
	}
	code, reason := "UNAUTHORIZED", "revoked"
	allLines := explain.Explanation{Code: &code, Reason: &reason, Logged: "allow", Path: "/a", Rule: "r", Fix: "f", Widen: "w"}.Text()
	if allLines != "decision  deny: UNAUTHORIZED, revoked\nlogged    allow\npath      /a (Envoy changes the path)\nrule      r\nroute     none\nfix       f\nwiden     w\n" {
		t.Errorf("got %s", allLines)
	}
}

// A request without a credential gets the decision that a client gets, and the fix is a token with the scopes of the route.
func TestExplainWithoutACredential(t *testing.T) {
	cfg, err := config.Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	x := explainer(t, explain.Config{APIs: cfg.APIs, ConfigFile: "my shop.yaml"}, policies.Config{})
	for line, want := range map[string]struct {
		request     explain.Request
		reason, fix string
	}{
		"GET /healthz":           {explain.Request{API: "velocity"}, "", ""},
		"GET /api/v1/tags":       {explain.Request{}, "missing", "send a token: keywicket token create --config 'my shop.yaml' --prefix sk_live_ --workspace W --name=NAME --scope tags:read; then send the header x-workspace-id: W"},
		"GET /api/issues":        {explain.Request{Workspace: "acme"}, "missing", "send a token: keywicket token create --config 'my shop.yaml' --prefix vel_ --workspace acme --name=NAME --scope issues:read"},
		"GET /api/user":          {explain.Request{}, "missing", "send a token: keywicket token create --config 'my shop.yaml' --prefix velu_ --user U --name=NAME --scope user:read"},
		"GET /api/v1/tags/a/b/c": {explain.Request{API: "velaflows"}, "missing", "send a token: .* --scope SCOPE; then .*; then add the row "},
	} {
		r := want.request
		r.Method, r.Path, _ = strings.Cut(line, " ")
		e, err := x.Explain(t.Context(), r)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		reason := ""
		if e.Reason != nil {
			reason = *e.Reason
		}
		if reason != want.reason || e.Allow != (reason == "") || len(e.Held) != 0 || !regexp.MustCompile("^"+want.fix).MatchString(e.Fix) {
			t.Errorf("%s: got %+v", line, e)
		}
	}
}

// All spellings of a path have the same explanation and the same proposed row. A parameter may contain characters such as # only if
// the table lists them. If the table does not list them, the fix contains the key to set in the table.
func TestExplainedPaths(t *testing.T) {
	x := builtin(t)
	for path, want := range map[string]struct{ route, fix string }{ // route is exact, fix is a pattern; empty: not checked
		"/api/v1/%63ontacts/a%3Ab":   {route: "GET /api/v1/contacts/{contact}"},
		"/api/v1/%6Eothing/a%20b":    {fix: `^add the row  - \{method: GET, path: "/api/v1/nothing/a%20b", scopes: \[SCOPE\]\}  to`},
		"/api/v1/contacts/c%23":      {fix: `^allow these characters in the parameters of velaflows, .*: parameters.may_hold: \["#"\]  in apis/velaflows/data.yaml`},
		"/api/v1/contacts/100%25;a":  {fix: `parameters.may_hold: \[";","%"\] and parameters.raw_semicolon: true  in apis/velaflows`},
		"/api/v1/nothing/c%3F":       {fix: `parameters.may_hold: \["\?"\]  in .*; then add a row with a \{parameter\} there$`},
		"/api/v1//contacts/./a":      {route: "GET /api/v1/contacts/{contact}"},
		"/api/v1/contacts/%2e%2e%3B": {fix: `^the path has a segment that some servers read as a dot segment \(in the segment "..%3B"\), so it matches no route: correct the path$`},
		"/api/v1/contacts/a%2Fb":     {fix: `^the path has an escaped slash \(%2F\) or an escaped backslash \(%5C\): correct the path$`},
		"/api/v1/contacts/":          {fix: `^the table has GET /api/v1/contacts \(.*\): use exactly this letter case and these slashes$`},
		"/api/issues":                {fix: `^velocity has this route \(.*\): use --api velocity$`},
		"/api/v1/nothing/:id/100,25": {fix: `path: "/api/v1/nothing/%3Aid/100,25"`},
	} {
		e, err := x.Explain(t.Context(), explain.Request{Method: "GET", Path: path, Scopes: []string{"contacts:read"}, Workspace: "acme"})
		switch {
		case err != nil:
			t.Errorf("%s: %v", path, err)
		case want.route != "" && (e.Route == nil || *e.Route != want.route):
			t.Errorf("%s: the route is %v, want %s", path, e.Route, want.route)
		case want.fix != "" && !regexp.MustCompile(want.fix).MatchString(e.Fix):
			t.Errorf("%s: the fix is %q, want %s", path, e.Fix, want.fix)
		}
	}
}

func TestExplainRefuses(t *testing.T) {
	x := builtin(t)
	for want, r := range map[string]explain.Request{
		`no API has the scope "inbox:reed"; velaflows has `:                                 {Scopes: []string{"inbox:reed"}},
		`"issues:read" is not a scope of velaflows`:                                         {Scopes: []string{"issues:read"}, API: "velaflows"},
		`no API "vela": give --api with one of these values: velaflows, velocity`:           {Scopes: []string{"issues:read"}, API: "vela"},
		`inbox:read is a scope of velaflows, issues:read of velocity: give --api, and scop`: {Scopes: []string{"inbox:read", "issues:read"}},
		`give only one of a token's id, a user, and scopes`:                                 {User: "ada", TokenID: "1"},
		`no API has this route: give --api with one of these values: velaflows, velocity`:   {Method: "GET", Path: "/nothing"},
		`velaflows and velocity have this route: give --api`:                                {Method: "GET", Path: "/healthz"},
		`no API "vela": give --api with one of these values: velaflows`:                     {Method: "GET", Path: "/healthz", API: "vela"},
		`without a registry, only simulated tokens`:                                         {User: "ada"},
	} {
		r.Method, r.Path = cmp.Or(r.Method, "GET"), cmp.Or(r.Path, "/")
		_, err := x.Explain(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("got %v, want %q", err, want)
		}
		incomplete := strings.HasPrefix(want, "give ") || strings.Contains(want, ": give --api") && !strings.HasPrefix(want, "no API \"")
		if errors.As(err, &explain.RequestError{}) != incomplete {
			t.Errorf("%v: its type is %T", err, err)
		}
	}
}

// With a database, the request has the rights of a real user or token.
func TestExplainWithADatabase(t *testing.T) {
	server, err := postgres.Start(t.Context(), postgres.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	url := server.URL("postgres")
	db, err := database.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	_, err = schema.Migrate(t.Context(), db)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := registry.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	cfg, err := config.Load("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policies.LoadExplainer(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	x := explain.New(explain.Config{APIs: cfg.APIs}, rules, r)

	format, _ := cfg.APIs["velocity"].Format("vel_")
	for _, err := range []error{
		errorOf(r.CreateWorkspace(t.Context(), registry.Workspace{Slug: "acme", Name: "Acme"})),
		errorOf(r.CreateUser(t.Context(), registry.User{ID: "ada", Email: "ada@example.com"})),
		errorOf(r.SetMember(t.Context(), "acme", "ada", "guest")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	token, _, err := r.CreateToken(t.Context(), registry.NewToken{Format: format, API: "velocity", Name: "n", Workspace: "acme", Scopes: []string{"issues:read"}})
	if err != nil {
		t.Fatal(err)
	}
	const key = "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0" // used as a workspace by mistake
	for name, c := range map[string]struct {
		request             explain.Request
		reason, header, fix string
	}{
		"a user":  {explain.Request{Method: "POST", User: "ada", Workspace: "acme"}, "missing_scope", "x-workspace-slug: acme", "keywicket member set --workspace acme --user ada --role member"},
		"a token": {explain.Request{Method: "GET", TokenID: token.ID}, "", "", ""},
		"a key":   {explain.Request{Method: "GET", TokenID: token.ID, Workspace: key}, "workspace_mismatch", "x-workspace-slug: sk_live_a1b2c3d4…", "send the header x-workspace-slug: acme"},
		"scopes":  {explain.Request{Method: "GET", Scopes: []string{"issues:read"}, Workspace: "acme"}, "", "x-workspace-slug: acme", ""},
	} {
		c.request.Path = "/api/issues"
		e, err := x.Explain(t.Context(), c.request)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		reason := ""
		if e.Reason != nil {
			reason = *e.Reason
		}
		if reason != c.reason || e.Header != c.header || e.Fix != c.fix || e.Allow != (c.reason == "") {
			t.Errorf("%s: got %+v", name, e)
		}
	}
	if _, err := x.Explain(t.Context(), explain.Request{Method: "GET", Path: "/", TokenID: "no"}); !errors.Is(err, database.ErrNotFound) {
		t.Errorf("an unknown token: %v", err)
	}
}

func errorOf[T any](_ T, err error) error { return err }

// Two APIs share a prefix and a scope.
func TestExplainWithSharedScopes(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "apis")); err != nil {
		t.Fatal(err)
	}
	apis := make(map[string]authz.API)
	for name, table := range map[string]string{
		"one": "scopes: {workspace: {things:read: Read, things:write: Write}, user: {me: Me}}\nroutes:\n" +
			"  - {method: POST, path: /things, scopes: [things:write]}\n  - {method: GET, path: /me, level: user, scopes: [me]}\n",
		"two": "scopes: {workspace: {things:read: Read}}\nroutes: [{method: GET, path: /things, scopes: [things:read]}]\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "apis", name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "apis", name, "data.yaml"), []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
		api, err := authz.API{
			Workspace:   authz.WorkspaceHeader{Header: "x-workspace", By: authz.BySlug},
			Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceKey, Prefix: "k_"}},
		}.Complete()
		if err != nil {
			t.Fatal(err)
		}
		apis[name] = api
	}
	request := explain.Request{Method: "GET", Path: "/things", Scopes: []string{"things:read"}, Workspace: "acme"}
	_, err := explainer(t, explain.Config{APIs: apis}, policies.Config{Dir: dir}).Explain(t.Context(), request)
	if !errors.As(err, &explain.RequestError{}) || err.Error() != "things:read is a scope of one and two: give --api" {
		t.Errorf("got %v", err)
	}
	x := explainer(t, explain.Config{APIs: apis, DefaultAPI: "two"}, policies.Config{Dir: dir})
	for _, c := range []struct{ api, method, path, route, fix string }{
		{"", "GET", "/things", "GET /things", ""},
		{"one", "GET", "/things", "", "two has this route (" + filepath.Join(dir, "apis/two/data.yaml") + ":2): use --api two"},
		{"one", "POST", "/things", "POST /things", "keywicket token create --prefix k_ --api one --workspace acme --name=NAME --scope things:read,things:write"},
		{"one", "GET", "/me", "GET /me", "the route is about a user, and one has no kind of token for users"},
	} {
		r := request
		r.API, r.Method, r.Path = c.api, c.method, c.path
		e, err := x.Explain(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		route := ""
		if e.Route != nil {
			route = *e.Route
		}
		if route != c.route || e.Fix != c.fix {
			t.Errorf("%+v: the route is %q, the fix is %q", c, route, e.Fix)
		}
	}

	one := apis["one"]
	one.Hosts = []string{"*.one.test"} // explain simulates a request to a host of the API
	request.API = "one"
	e, err := explainer(t, explain.Config{APIs: map[string]authz.API{"one": one}}, policies.Config{Dir: dir}).Explain(t.Context(), request)
	if err != nil || !strings.HasPrefix(e.Fix, "the path is listed for POST") {
		t.Errorf("got %+v, %v", e, err)
	}
}
