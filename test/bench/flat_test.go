package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dustin/go-humanize"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/keywicket/keywicket/policies"
)

// Each benchmark in this file compares three sidecars that differ in only one number: of routes, of warm (cached) tokens, or of
// stored tokens. The CPU time of a check should not depend on that number. The figures are ratios to the first sidecar.

// cacheForAll sets a cache.max_bytes that is enough for all tokens of a benchmark.
const cacheForAll = "KEYWICKET_CACHE_MAX_BYTES=512MiB"

// flatRoutes measures tables of 20 to 3,000 routes. Each table contains every kind of route in routeTemplates. For every table,
// the checks use 2,000 pairs of a token and a route.
func flatRoutes(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	var sides []*comparedServer
	for _, n := range []int{20, 300, 3000} {
		dir, endpoints := generatePolicies(t, n)
		s := w.keywicket(t, "KEYWICKET_POLICIES_DIR="+dir)
		s.name = humanize.Comma(int64(n)) + " routes"
		p := plan{Name: s.name}
		for _, e := range endpoints {
			p.Templates = append(p.Templates, w.requestTemplateFor(t, e))
		}
		for i := range rotation {
			p.Entries = append(p.Entries, planEntry{variedTokens + int64((i*8|neededScopes)%sets), i * 7 % n})
		}
		w.warm(ctx, t, s, p, 200)
		sides = append(sides, &comparedServer{server: s, want: 200, plan: p.Name})
	}
	return compareSizes(ctx, t, w, sides, load{})
}

// compareSizes measures the servers in turns. The figures are ratios to the first server.
func compareSizes(ctx context.Context, t *testing.T, w *setup, sides []*comparedServer, l load) (cases []caseFigures) {
	t.Helper()
	for _, n := range callers {
		l.Callers = n
		c := w.inTurns(ctx, t, fmt.Sprintf("%d callers", n), sides, *rounds, l)
		c.Base = sides[0].name
		cases = append(cases, c)
	}
	return cases
}

// neededScopes has a bit for each scope that the routes of generated tables need in addition to issues:read.
const neededScopes = 0b111 // issues:write, projects:read, projects:write

// routeTemplates are the templates of a table's routes. A group of routes contains each template once. %d is the group's
// number.
var routeTemplates = []struct{ row, method, path string }{
	{`{method: GET, path: /api/r%d, scopes: [issues:read]}`, "GET", "/api/r%d"},
	{`{method: GET, path: "/api/r%d/{id}", scopes: [issues:read]}`, "GET", "/api/r%d/{id}"},
	{`{method: GET, path: "/api/r%d/{id}.json", scopes: [issues:read, projects:read]}`, "GET", "/api/r%d/{id}.json"},
	{`{method: POST, path: "/api/r%d/{id}:archive", scopes: [issues:write]}`, "POST", "/api/r%d/{id}:archive"},
	{`{method: GET, path: "/api/r%d/{id}/compare/{base}...{head}", scopes: [issues:read]}`, "GET", "/api/r%d/{id}/compare/main...{id}"},
	{`{method: GET, path: "/api/r%d/{id}/files/{path...}", any_of: [documents:read, issues:read]}`, "GET", "/api/r%d/{id}/files/src/{id}/main.go"},
	{`{method: "*", path: "/api/r%d/{id}/anything", scopes: [projects:write]}`, "PUT", "/api/r%d/{id}/anything"},
	{`{method: PATCH, path: "/api/r%d/caf%%C3%%A9/{id}", scopes: [issues:write], any_of: [projects:read]}`, "PATCH", "/api/r%d/caf%%C3%%A9/{id}"},
	{`{grpc: bench.r%d.Things/List, scopes: [issues:read]}`, "POST", "/bench.r%d.Things/List"},
	{`{grpc: bench.r%d.Things/*, scopes: [issues:write]}`, "POST", "/bench.r%d.Things/Create"},
}

// generatePolicies creates a folder with the built-in policies, and replaces the routes of Velocity with generated routes. It
// also returns an endpoint for each of the table's routes.
func generatePolicies(t *testing.T, routes int) (dir string, endpoints []endpoint) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "policies")
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	// The tests of the policies expect the built-in tables.
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.rego") {
			err = os.Remove(path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	apiDir := filepath.Join(dir, "apis", "velocity")
	text, err := os.ReadFile(filepath.Join(apiDir, "data.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	scopes, _, ok := strings.Cut(string(text), "\nroutes:\n")
	if !ok {
		t.Fatal("the built-in table has no routes")
	}
	var b strings.Builder
	b.WriteString(scopes + "\nhead_with_get: true\nroutes:\n")
	for i := range routes {
		template, group := routeTemplates[i%len(routeTemplates)], i/len(routeTemplates)
		fmt.Fprintf(&b, "  - "+template.row+"\n", group)
		endpoints = append(endpoints, endpoint{template.method, fmt.Sprintf(template.path, group)})
	}
	if err := os.WriteFile(filepath.Join(apiDir, "data.yaml"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, endpoints
}

// requestTemplateFor returns the template of a check for the endpoint. It replaces the method and the path in a check that
// Envoy sent.
func (w *setup) requestTemplateFor(t *testing.T, e endpoint) requestTemplate {
	t.Helper()
	var check authv3.CheckRequest
	if err := proto.Unmarshal(w.templates[0].Text, &check); err != nil {
		t.Fatal(err)
	}
	http := check.GetAttributes().GetRequest().GetHttp()
	http.Method, http.Path = e.Method, strings.ReplaceAll(e.Path, "{id}", idPlaceholder)
	text, err := proto.Marshal(&check)
	if err != nil {
		t.Fatal(err)
	}
	f, err := newTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// flatStored measures databases with 1,000 to 1,000,000 tokens. It uses 1,000 warm tokens of each database, and then up to
// 2,000 tokens without a cache, so that each check runs a query.
func flatStored(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	const tokensUsed = 1000
	for _, c := range []struct {
		name, setting string
		warm          bool
	}{{"warm", cacheForAll, true}, {"no cache", "KEYWICKET_CACHE_MAX_BYTES=0", false}} {
		var sides []*comparedServer
		for _, n := range []int{1000, 100_000, 1_000_000} {
			name := humanize.Comma(int64(n)) + " stored"
			s := w.keywicket(t, c.setting, "KEYWICKET_DATABASE_URL="+w.database(t, c.name+" "+name, n))
			s.name = name
			tokenNumbers := numbersBelow(n)
			if c.warm {
				tokenNumbers = tokenNumbers[:tokensUsed]
			}
			p := w.issuesPlan(c.name+", "+name, equalTokens, evenlySpaced(tokenNumbers, rotation))
			if w.client.storePlan(t, p); c.warm {
				w.warm(ctx, t, s, p, 200)
			}
			sides = append(sides, &comparedServer{server: s, want: 200, plan: p.Name})
		}
		for _, k := range compareSizes(ctx, t, w, sides, load{Details: !c.warm}) {
			k.Name = c.name + ", " + k.Name
			cases = append(cases, k)
		}
	}
	return cases
}

// evenlySpaced returns n elements of the list, at equal distances. If the list has at most n elements, it returns the whole
// list.
func evenlySpaced(all []int, n int) (some []int) {
	if len(all) <= n {
		return all
	}
	for i := range n {
		some = append(some, all[i*len(all)/n])
	}
	return some
}

// flatWarm measures 1,000 to 100,000 warm tokens, used in turn.
func flatWarm(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	const stored = 100_000
	databaseURL := w.database(t, "warm", stored)
	var sides []*comparedServer
	for _, n := range []int{1000, 10_000, 100_000} {
		s := w.keywicket(t, cacheForAll, "KEYWICKET_DATABASE_URL="+databaseURL)
		s.name = humanize.Comma(int64(n)) + " warm"
		p := w.issuesPlan(s.name, equalTokens, numbersBelow(n))
		w.warm(ctx, t, s, p, 200)
		sides = append(sides, &comparedServer{server: s, want: 200, plan: p.Name})
	}
	return compareSizes(ctx, t, w, sides, load{})
}

// flatCallers measures the benchmark "warm" with one to 64 callers, for the plot.
func flatCallers(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	sides := pairOf(w.keywicket(t), w.noop(t, "", ""))
	w.warm(ctx, t, sides[0].server, w.issuesPlan("warm", variedTokens, smallSets(rotation)), 200)
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%d callers", n), sides, fewerRounds(), load{Plan: "warm", Callers: n}))
	}
	return cases
}
