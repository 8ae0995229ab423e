package policies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/keywicket/keywicket/policies/route"
)

// rows are the rows of all tables as keywicket/route.rego makes them of the tables, with an index for each API.
type rows map[string]struct {
	index *route.Index
	terms []*ast.Term
}

const routeFile = "keywicket/route.rego"

// hasShippedRoute reports whether the policy finds its rows by the file that comes with the binary, so that the index finds the
// same ones. No other rule may add to what that file defines or reads, and no expression may replace it by `with`.
func (s sources) hasShippedRoute() (bool, error) {
	text, err := Builtin.ReadFile(routeFile)
	if err != nil {
		return false, err
	}
	shipped, err := ast.ParseModule(routeFile, string(text))
	if err != nil {
		return false, err
	}
	if m := s.rules[routeFile]; m == nil || !m.Package.Equal(shipped.Package) || !slices.EqualFunc(m.Rules, shipped.Rules, sameRule) {
		return false, nil
	}
	used := []ast.Ref{ast.MustParseRef("data.apis")}
	for _, rule := range shipped.Rules {
		used = append(used, shipped.Package.Path.Append(ast.StringTerm(rule.Head.Ref()[0].String())))
	}
	functions := make(map[string]bool)
	ast.WalkRefs(shipped, func(r ast.Ref) bool {
		functions[r.String()] = true
		return false
	})
	for file, module := range s.rules {
		if file == routeFile {
			continue
		}
		if slices.ContainsFunc(module.Rules, func(r *ast.Rule) bool { return overlaps(r.Ref().GroundPrefix(), used) }) || replaces(module, used, functions) {
			return false, nil
		}
	}
	return true, nil
}

// sameRule compares without metadata, which changes no decision.
func sameRule(a, b *ast.Rule) bool {
	a, b = a.Copy(), b.Copy()
	a.Annotations, b.Annotations = nil, nil
	return a.Equal(b)
}

// replaces reports whether an expression of the module puts something in the place of the data or the functions.
func replaces(m *ast.Module, data []ast.Ref, functions map[string]bool) bool {
	found := false
	ast.WalkWiths(m, func(w *ast.With) bool {
		ref, ok := w.Target.Value.(ast.Ref)
		switch {
		case !ok, functions[ref.String()] && !ref[0].Equal(ast.InputRootDocument), overlaps(ref.GroundPrefix(), data):
			found = true
		}
		return found
	})
	return found
}

// rows evaluates those of all tables.
func (s sources) rows(ctx context.Context, tables map[string]Table) (rows, error) {
	query, err := s.prepare(ctx, "data.keywicket.rows",
		rego.GenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }))
	if err != nil {
		return nil, err
	}
	results, err := query.Eval(ctx)
	if err != nil {
		return nil, err
	}
	if len(results) != 1 {
		return nil, errors.New("data.keywicket.rows is undefined")
	}
	all := results[0].Expressions[0].Value.(*ast.Term)
	made := make(rows, len(tables))
	for name, table := range tables {
		list, err := all.Value.Find(ast.Ref{ast.StringTerm(name)})
		array, ok := list.(*ast.Array)
		if err != nil || !ok || array.Len() != len(table.Routes) {
			return nil, fmt.Errorf("data.keywicket.rows does not have the rows of %s", name)
		}
		of := made[name]
		of.index = table.index
		array.Foreach(func(t *ast.Term) { of.terms = append(of.terms, t) })
		made[name] = of
	}
	return made, nil
}

const decisionQuery = "data.keywicket.decision"

// find is the function that stands for the rule route of keywicket/route.rego.
var find = &rego.Function{
	Name: "keywicket.find_route",
	Decl: types.NewFunction(types.Args(types.A, types.A, types.A), types.A),
}

// indexed prepares the decision with the index in the place of the rule that finds a row. It reports false where that is not
// possible.
func (s sources) indexed(ctx context.Context, tables map[string]Table) (query rego.PreparedEvalQuery, ok bool, err error) {
	if ok, err := s.hasShippedRoute(); !ok || err != nil {
		return query, false, err
	}
	r, err := s.rows(ctx, tables)
	if err != nil {
		return query, false, err
	}
	s, err = s.withRoute(`route := keywicket.find_route(input.api, input.request.method, input.request.path) if count(input.request.segments) > 0`)
	if err != nil {
		return query, false, err
	}
	query, err = s.prepare(ctx, decisionQuery,
		rego.Function3(find, func(_ rego.BuiltinContext, api, method, path *ast.Term) (*ast.Term, error) {
			return r.find(api.Value, method.Value, path.Value), nil
		}))
	return query, err == nil, err
}

// withRoute has another rule in the place of route.
func (s sources) withRoute(rule string) (sources, error) {
	stub, err := ast.ParseModule(routeFile, "package keywicket\n"+rule)
	if err != nil {
		return s, err
	}
	module := s.rules[routeFile].Copy()
	module.Rules = slices.DeleteFunc(module.Rules, func(r *ast.Rule) bool { return r.Head.Ref().String() == "route" })
	for _, rule := range stub.Rules {
		rule.Module = module
		module.Rules = append(module.Rules, rule)
	}
	s.rules = maps.Clone(s.rules)
	s.rules[routeFile] = module
	return s, nil
}

// memory makes the memory of decisions. The second result says why there is none. The row stands for what the index reads.
func (s sources) memory(indexed bool) (m *memory, changing, err error) {
	if indexed {
		if s, err = s.withRoute("route := " + parts[partRow]); err != nil {
			return nil, nil, err
		}
	}
	compiler, err := s.compiled()
	if err != nil {
		return nil, nil, err
	}
	m, changing = newMemory(referencesOf(compiler))
	return m, changing, nil
}

// find returns nil, which is undefined, where there is no row.
func (r rows) find(api, method, path ast.Value) *ast.Term {
	name, ok1 := api.(ast.String)
	verb, ok2 := method.(ast.String)
	text, ok3 := path.(ast.String)
	of, ok4 := r[string(name)]
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return nil
	}
	i, ok := of.index.Find(string(verb), string(text))
	if !ok {
		return nil
	}
	return of.terms[i]
}
