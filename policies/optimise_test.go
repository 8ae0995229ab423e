package policies

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/internal/sample"
	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/source"
	"github.com/keywicket/keywicket/policies/table"
)

// engineOf returns an engine that evaluates the rules without an index, for comparison.
func engineOf(t testing.TB, s source.Source, err error) *Engine {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	compiler, err := s.Compiled()
	if err != nil {
		t.Fatal(err)
	}
	query, err := preparePlain(context.Background(), s, compiler)
	if err != nil {
		t.Fatal(err)
	}
	return engineWith(t, query, compiler)
}

func engineWith(t testing.TB, query *query, compiler *ast.Compiler) *Engine {
	t.Helper()
	return &Engine{
		policy:       policy{query: query, reading: analysis.ReadingOf(analysis.ReferencesOf(compiler, false))},
		beforeLookup: newSemaphore(), afterLookup: newSemaphore(), observe: func(time.Duration) {},
	}
}

// bothEngines returns two engines of the same rules: one without an index, and one with an index.
func bothEngines(t testing.TB, s source.Source) (plain, withIndex *Engine) {
	t.Helper()
	plain = engineOf(t, s, nil)
	tables := make(map[string]table.Table)
	for name, data := range s.Data["apis"].(map[string]any) {
		text, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		if tables[name], err = parse(text); err != nil {
			t.Fatal(err)
		}
	}
	compiler, err := s.Compiled()
	if err != nil {
		t.Fatal(err)
	}
	query, index, err := prepareIndexed(context.Background(), s, tables, compiler)
	if err != nil || index == nil {
		t.Fatal(index, err)
	}
	withIndex = engineWith(t, query, compiler)
	withIndex.index, withIndex.readingWithRow = index, analysis.ReadingOf(analysis.ReferencesOf(compiler, true))
	return plain, withIndex
}

// `opa test` evaluates the rules without the index, and the sidecar evaluates them with the index. Both must make the same
// decisions. The inputs cover every route of every API, other paths, and principals and workspaces of every kind.
func TestIndexAgreesWithRegoOnShippedTables(t *testing.T) {
	t.Parallel()
	race.Skip(t)
	s, err := readSource(Config{})
	if err != nil {
		t.Fatal(err)
	}
	plain, withIndex := bothEngines(t, s)
	compareDecisions(t, plain, withIndex)
}

// Policies from a version before the index still load, and make the same decisions as the shipped rules on the same tables. The earlier
// rules do not know {path...}, so the shipped tables differ.
func TestEarlierPolicyDecidesTheSame(t *testing.T) {
	race.Skip(t)
	earlier, err := Load(t.Context(), Config{Dir: "../test/testdata/earlier-policies"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := readSource(Config{Dir: "../test/testdata/earlier-policies"})
	if err != nil {
		t.Fatal(err)
	}
	if shipped, err := hasShippedRoute(s); shipped || err != nil {
		t.Fatalf("the index is used: %v", err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, Builtin); err != nil {
		t.Fatal(err)
	}
	for _, api := range []string{"velaflows", "velocity"} {
		text, err := os.ReadFile(filepath.Join("../test/testdata/earlier-policies/apis", api, "data.yaml"))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "apis", api, "data.yaml"), text, 0o600)
		}
		err = errors.Join(err, os.Remove(filepath.Join(dir, "apis", api, api+"_test.rego"))) // the test is for the shipped table
		if err != nil {
			t.Fatal(err)
		}
	}
	now, err := Load(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	compareDecisions(t, earlier, now)
}

func compareDecisions(t *testing.T, a, b *Engine) {
	t.Helper()
	files, err := Config{}.Folder()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := table.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	tried, compared, allowed := 0, 0, 0
	for _, api := range slices.Sorted(maps.Keys(tables)) {
		for _, route := range tables[api].Routes {
			for _, in := range inputs(api, tables[api], route) {
				if tried++; tried%sample.Interval() != 0 {
					continue
				}
				want, err1 := a.Decide(t.Context(), in)
				got, err2 := b.Decide(t.Context(), in)
				if err1 != nil || err2 != nil || !reflect.DeepEqual(want, got) {
					t.Fatalf("%+v:\nfirst  %+v, %v\nsecond %+v, %v", in, want, err1, got, err2)
				}
				compared++
				if got.Allow {
					allowed++
				}
			}
		}
	}
	if allowed == 0 || allowed == compared {
		t.Fatalf("%d of %d inputs were allowed: the comparison covers too little", allowed, compared)
	}
	t.Logf("%d inputs, %d allowed", compared, allowed)
}

var parameter = regexp.MustCompile(`\{[^{}]*\}`)

func inputs(api string, apiTable table.Table, route table.Route) []authz.Input {
	filled := parameter.ReplaceAllString(route.Path, "64f1a2b3")
	empty := parameter.ReplaceAllString(route.Path, "")
	paths := []string{filled, filled + "/", filled + "/more", empty, strings.ToUpper(filled), filled + ";x"}
	scopes := [][]string{route.Scopes, apiTable.Overrides[table.LevelWorkspace], apiTable.Overrides[table.LevelUser], nil}
	kinds := []authz.Kind{"", authz.KindWorkspaceToken, authz.KindWorkspaceKey, authz.KindPersonalKey, "oauth_token", "session"}
	workspaces := []authz.Workspace{{}, {Requested: true}, {Granted: true}}
	for role := range apiTable.Roles {
		workspaces = append(workspaces, authz.Workspace{Requested: true, Granted: true, Role: role})
	}
	input := func(method, path string, kind authz.Kind, credentialScopes []string, workspace authz.Workspace) authz.Input {
		in := authz.Input{API: api, Method: method, Denial: authz.ReasonUnknown, Workspace: workspace}
		segments, _ := target.Segments(path, target.Parameters{})
		in.Path = target.JoinSegments(segments)
		if kind != "" {
			in.Denial = ""
			in.Principal = &authz.Principal{Kind: kind, Scopes: credentialScopes}
		}
		return in
	}
	var all []authz.Input
	for _, kind := range kinds {
		for _, path := range paths {
			all = append(all, input("TRACE", path, kind, route.Scopes, workspaces[2]), input(route.Method, path, kind, route.Scopes, workspaces[2]))
		}
		for _, credentialScopes := range scopes {
			for _, workspace := range workspaces {
				all = append(all, input(route.Method, filled, kind, credentialScopes, workspace))
			}
		}
	}
	return all
}

// policyWithRoutes returns the shipped rules with a table of n routes, half of them with parameters.
func policyWithRoutes(n int) source.Source {
	routes := make([]any, n)
	for i := range routes {
		path := fmt.Sprintf("/api/v1/thing%d", i/2)
		if i%2 == 1 {
			path += "/{id}/parts"
		}
		routes[i] = map[string]any{"method": "GET", "path": path, "scopes": []any{"zoo:read"}}
	}
	s, err := readSource(Config{})
	if err != nil {
		panic(err)
	}
	s.Data = map[string]any{"apis": map[string]any{"zoo": map[string]any{
		"scopes": map[string]any{"workspace": map[string]any{"zoo:read": "Read"}}, "routes": routes,
	}}}
	return s
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{20, 200, 3000} {
		s := policyWithRoutes(n)
		for _, form := range []string{"indexed", "plain"} {
			b.Run(fmt.Sprintf("%s/routes=%d", form, n), func(b *testing.B) {
				var engine *Engine
				if form == "plain" {
					engine = engineOf(b, s, nil)
				} else {
					_, engine = bothEngines(b, s)
				}
				random := rand.New(rand.NewPCG(1, 2))
				traffic := make([]authz.Input, 1000)
				for i := range traffic {
					path := fmt.Sprintf("/api/v1/thing%d/7/parts", random.IntN(n/2))
					traffic[i] = authz.Input{
						API: "zoo", Method: "GET", Path: path,
						Principal: &authz.Principal{Kind: authz.KindWorkspaceToken, Scopes: []string{"zoo:read"}},
						Workspace: authz.Workspace{Requested: true, Granted: true},
					}
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					d, err := engine.Decide(b.Context(), traffic[i%len(traffic)])
					if err != nil || !d.Allow {
						b.Fatal(d, err)
					}
					i++
				}
			})
		}
	}
}

// loadOnlyDir is an environment variable with the folder of a policy. The test binary loads this policy and exits, so that a
// benchmark can measure only the load.
const loadOnlyDir = "KEYWICKET_TEST_LOAD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(loadOnlyDir); dir != "" {
		if _, err := Load(context.Background(), Config{Dir: dir}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// BenchmarkLoad loads the built-in policy and an API with n rows of every form, in a separate process.
func BenchmarkLoad(b *testing.B) {
	forms := []string{"thing%d", "thing%d/{id}", "thing%d/{id}.json", "thing%d/{id}:verb", "thing%d/{id}/files/{path...}", "thing%d/Users('{id}')"}
	for _, n := range []int{20, 200, 3000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "policies")
			if err := os.CopyFS(dir, Builtin); err != nil {
				b.Fatal(err)
			}
			table := "scopes: {workspace: {zoo:read: Read}}\nroutes:\n"
			for i := range n {
				table += fmt.Sprintf("  - {method: GET, path: \"/api/v1/"+forms[i%len(forms)]+"\", scopes: [zoo:read]}\n", i/len(forms))
			}
			if err := os.Mkdir(filepath.Join(dir, "apis", "zoo"), 0o755); err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "apis", "zoo", "data.yaml"), []byte(table), 0o600); err != nil {
				b.Fatal(err)
			}
			var peak int64
			for b.Loop() {
				load := exec.CommandContext(b.Context(), os.Args[0])
				load.Env = append(os.Environ(), loadOnlyDir+"="+dir)
				if out, err := load.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				peak = max(peak, load.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
			}
			b.ReportMetric(float64(peak)/1024, "peak-MiB")
		})
	}
}

// With the index, other rules can still use the definitions of keywicket/route.rego.
func TestIndexKeepsTheOtherRules(t *testing.T) {
	s, err := readSource(Config{})
	if err != nil {
		t.Fatal(err)
	}
	const rules = `package keywicket

headers["x-rows"] := sprintf("%d %d %s", [count(matches), count(data.keywicket.methods), method_of({})])
`
	if s.Rules["keywicket/extra.rego"], err = ast.ParseModule("keywicket/extra.rego", rules); err != nil {
		t.Fatal(err)
	}
	plain, indexed := bothEngines(t, s)
	in := authz.Input{API: "velaflows", Method: "GET", Path: "/healthz", Denial: authz.ReasonMissing}
	for _, e := range []*Engine{plain, indexed} {
		if d, err := e.Decide(t.Context(), in); err != nil || d.Headers["x-rows"] != "1 2 POST" {
			t.Errorf("%+v, %v", d, err)
		}
	}
}
