package policies

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

// engineOf prepares sources as they are, so that both forms can be asked.
func engineOf(t testing.TB, s sources, err error) *Engine {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	query, err := s.prepare(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return &Engine{query: query, arrived: newTurns(), lookedUp: newTurns()}
}

func bothEngines(t testing.TB, s sources) (plain, optimised *Engine) {
	t.Helper()
	plain = engineOf(t, s, nil)
	faster, err := s.optimise(context.Background())
	return plain, engineOf(t, faster, err)
}

// Every route of every API, and paths beside it, under principals and workspaces of every sort: what `opa test` and
// `explain` see must be what is served.
func TestOptimisedAgreesWithPlain(t *testing.T) {
	s, err := read(Builtin)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := Tables(Builtin)
	if err != nil {
		t.Fatal(err)
	}
	plain, optimised := bothEngines(t, s)
	asked, allowed := 0, 0
	for _, api := range slices.Sorted(maps.Keys(tables)) {
		for _, route := range tables[api].Routes {
			for _, in := range inputs(api, tables[api], route) {
				want, err1 := plain.Decide(t.Context(), in)
				got, err2 := optimised.Decide(t.Context(), in)
				if err1 != nil || err2 != nil || !reflect.DeepEqual(want, got) {
					t.Fatalf("%+v:\nplain     %+v, %v\noptimised %+v, %v", in, want, err1, got, err2)
				}
				asked++
				if got.Allow {
					allowed++
				}
			}
		}
	}
	if allowed == 0 || allowed == asked {
		t.Fatalf("%d of %d inputs were allowed: the comparison says nothing", allowed, asked)
	}
	t.Logf("%d inputs, %d allowed", asked, allowed)
}

var parameter = regexp.MustCompile(`\{[^/]*\}`)

func inputs(api string, table Table, route Route) []authz.Input {
	filled := parameter.ReplaceAllString(route.Path, "64f1a2b3")
	empty := parameter.ReplaceAllString(route.Path, "")
	paths := []string{filled, filled + "/", filled + "/more", empty, strings.ToUpper(filled), filled + ";x"}
	scopes := [][]string{route.Scopes, table.Overrides[LevelWorkspace], table.Overrides[LevelUser], nil}
	kinds := []authz.Kind{"", authz.KindWorkspaceToken, authz.KindWorkspaceKey, authz.KindPersonalKey, "oauth_token", "session"}
	workspaces := []authz.Workspace{{}, {Requested: true}, {Granted: true}}
	for role := range table.Roles {
		workspaces = append(workspaces, authz.Workspace{Requested: true, Granted: true, Role: role})
	}
	input := func(method, path string, kind authz.Kind, held []string, workspace authz.Workspace) authz.Input {
		in := authz.Input{API: api, Method: method, Denial: authz.ReasonUnknown, Workspace: workspace}
		in.Segments, _ = authz.Segments(path, authz.Parameters{})
		in.Path = authz.JoinSegments(in.Segments)
		if kind != "" {
			in.Denial = ""
			in.Principal = &authz.Principal{Kind: kind, Scopes: held}
		}
		return in
	}
	var all []authz.Input
	for _, kind := range kinds {
		for _, path := range paths {
			all = append(all, input("TRACE", path, kind, route.Scopes, workspaces[2]), input(route.Method, path, kind, route.Scopes, workspaces[2]))
		}
		for _, held := range scopes {
			for _, workspace := range workspaces {
				all = append(all, input(route.Method, filled, kind, held, workspace))
			}
		}
	}
	return all
}

// zoo is a table of n routes, half of them with parameters.
func zoo(n int) sources {
	routes := make([]any, n)
	for i := range routes {
		path := fmt.Sprintf("/api/v1/thing%d", i/2)
		if i%2 == 1 {
			path += "/{id}/parts"
		}
		routes[i] = map[string]any{"method": "GET", "path": path, "scopes": []any{"zoo:read"}}
	}
	s, err := read(Builtin)
	if err != nil {
		panic(err)
	}
	s.data = map[string]any{"apis": map[string]any{"zoo": map[string]any{"routes": routes}}}
	return s
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{20, 200, 2000} {
		s := zoo(n)
		for _, form := range []string{"optimised", "plain"} {
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
						API: "zoo", Method: "GET", Path: path, Segments: strings.Split(path[1:], "/"),
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

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{20, 200, 2000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			for b.Loop() {
				bothEngines(b, zoo(n))
			}
		})
	}
}
