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

// The rows of this file compare three sidecars that differ only in the number of routes, of warm (cached) tokens, or of stored
// tokens. The CPU time of a check should not depend on that number. The figures are ratios to the first sidecar.

// cacheForAll sets a cache.max_bytes that is enough for all tokens of a row.
const cacheForAll = "KEYWICKET_CACHE_MAX_BYTES=512MiB"

// flatRoutes measures tables of 20 to 3,000 routes, each with every form of row. For every table, the checks use 2,000 pairs of a
// token and a route.
func flatRoutes(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	var sides []*comparedServer
	for _, n := range []int{20, 300, 3000} {
		dir, endpoints := generatePolicies(t, n)
		s := w.keywicket(t, "KEYWICKET_POLICIES_DIR="+dir)
		s.name = humanize.Comma(int64(n)) + " routes"
		p := plan{Name: s.name}
		for _, e := range endpoints {
			p.Forms = append(p.Forms, w.formFor(t, e))
		}
		for i := range rotation {
			p.Entries = append(p.Entries, planEntry{variedTokens + int64((i*8|neededScopes)%sets), i * 7 % n})
		}
		w.warm(ctx, t, s, p, 200)
		sides = append(sides, &comparedServer{server: s, want: 200, plan: p.Name})
	}
	return compareSizes(ctx, t, w, sides, load{})
}

// compareSizes measures the sides in turn. The first side is the base.
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

// routeForms are the forms of a table's rows. A group of rows contains each form once. %d is the group's number.
var routeForms = []struct{ row, method, path string }{
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

// generatePolicies creates a folder with the built-in policies, but a generated table for Velocity. It also returns an endpoint for
// each of the table's routes.
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
		form, group := routeForms[i%len(routeForms)], i/len(routeForms)
		fmt.Fprintf(&b, "  - "+form.row+"\n", group)
		endpoints = append(endpoints, endpoint{form.method, fmt.Sprintf(form.path, group)})
	}
	if err := os.WriteFile(filepath.Join(apiDir, "data.yaml"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, endpoints
}

// formFor returns a check for the endpoint: a check that Envoy sent, with another method and path.
func (w *setup) formFor(t *testing.T, e endpoint) form {
	t.Helper()
	var check authv3.CheckRequest
	if err := proto.Unmarshal(w.forms[0].Text, &check); err != nil {
		t.Fatal(err)
	}
	http := check.GetAttributes().GetRequest().GetHttp()
	http.Method, http.Path = e.Method, strings.ReplaceAll(e.Path, "{id}", idPlaceholder)
	text, err := proto.Marshal(&check)
	if err != nil {
		t.Fatal(err)
	}
	f, err := newForm(text)
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
			sets := numbersBelow(n)
			if c.warm {
				sets = sets[:tokensUsed]
			}
			p := w.issues(c.name+", "+name, equalTokens, evenlySpaced(sets, rotation))
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

// evenlySpaced returns n elements of all at equal distances, or all of them if there are fewer.
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
		p := w.issues(s.name, equalTokens, numbersBelow(n))
		w.warm(ctx, t, s, p, 200)
		sides = append(sides, &comparedServer{server: s, want: 200, plan: p.Name})
	}
	return compareSizes(ctx, t, w, sides, load{})
}

// flatCallers measures the row "warm" with one to 64 callers, for the plot.
func flatCallers(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	sides := pairOf(w.keywicket(t), w.noop(t, "", ""))
	w.warm(ctx, t, sides[0].server, w.issues("warm", variedTokens, smallSets(rotation)), 200)
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%d callers", n), sides, fewerRounds(), load{Plan: "warm", Callers: n}))
	}
	return cases
}
