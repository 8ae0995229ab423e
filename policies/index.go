package policies

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/route"
)

// index finds the row that a request addresses, as the rule route of keywicket/route.rego does.
type index struct {
	apis  map[string]apiRows
	none  *row // the row of requests that address no row of a table
	rules *rowRules
	needs sync.Map // string → *needs: the distinct needs of all rows
	tests []int    // see rowRules.scopeTests
}

// apiRows are the rows of one table, and the index that finds them.
type apiRows struct {
	index *route.Index
	rows  []*row
}

const routeFile = "keywicket/route.rego"

// findRoute is the name of the function that replaces the rule route.
const findRoute = "keywicket.find_route"

// hasShippedRoute reports whether the policy finds its rows with the shipped route.rego, so that the index finds the same ones.
// No other rule may add to what that file defines or reads, and no `with` may replace it.
func (s sources) hasShippedRoute() (bool, error) {
	text, err := Builtin.ReadFile(routeFile)
	if err != nil {
		return false, err
	}
	shipped, err := ast.ParseModule(routeFile, string(text))
	if err != nil {
		return false, err
	}
	m := s.rules[routeFile]
	if m == nil || !m.Package.Equal(shipped.Package) || len(m.Imports) != len(shipped.Imports) || !slices.EqualFunc(m.Rules, shipped.Rules, sameRule) {
		return false, nil // an import can change the meaning of a name
	}
	used := []ast.Ref{ast.MustParseRef("data.apis")}
	for _, rule := range shipped.Rules {
		used = append(used, shipped.Package.Path.Append(ast.StringTerm(rule.Head.Ref()[0].String())))
	}
	// A rule of the package with the name of a built-in function is called instead of that function.
	used = append(used, shipped.Package.Path.Append(ast.StringTerm(strings.Split(findRoute, ".")[0])))
	functions := make(map[string]bool)
	ast.WalkRefs(shipped, func(r ast.Ref) bool {
		functions[r.String()] = true
		if name, ok := r[0].Value.(ast.Var); ok && ast.BuiltinMap[r.String()] != nil {
			used = append(used, shipped.Package.Path.Append(ast.StringTerm(string(name))))
		}
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

// sameRule compares two rules without their metadata, which changes no decision.
func sameRule(a, b *ast.Rule) bool {
	a, b = a.Copy(), b.Copy()
	a.Annotations, b.Annotations = nil, nil
	return a.Equal(b)
}

// replaces reports whether a `with` in the module replaces the data or one of the functions.
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

// rows evaluates data.keywicket.rows: for each table its rows, in the order of the table.
func (e *evaluator) rows(ctx context.Context, tables map[string]Table) (map[string]*ast.Array, error) {
	query, err := e.prepare(ast.MustParseRef("data.keywicket.rows"))
	if err != nil {
		return nil, err
	}
	all, err := query.eval(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	made := make(map[string]*ast.Array, len(tables))
	for name, table := range tables {
		list, err := all.Value.Find(ast.Ref{ast.StringTerm(name)})
		array, ok := list.(*ast.Array)
		if err != nil || !ok || array.Len() != len(table.Routes) {
			return nil, fmt.Errorf("data.keywicket.rows does not have the rows of %s", name)
		}
		made[name] = array
	}
	return made, nil
}

// indexed prepares the decision with a function instead of the rule route, which finds the row with the index. It returns nil
// without an error if hasShippedRoute is false.
func (s sources) indexed(ctx context.Context, tables map[string]Table, compiler *ast.Compiler) (*query, *index, error) {
	const routeStub = `package keywicket
route := ` + findRoute + `(input)`
	if ok, err := s.hasShippedRoute(); !ok || err != nil {
		return nil, nil, err
	}
	evaluator, err := s.evaluator(ctx, compiler)
	if err != nil {
		return nil, nil, err
	}
	rows, err := evaluator.rows(ctx, tables)
	if err != nil {
		return nil, nil, err
	}
	stub, err := ast.ParseModule(routeFile, routeStub)
	if err != nil {
		return nil, nil, err
	}
	module := s.rules[routeFile].Copy()
	module.Rules = slices.DeleteFunc(module.Rules, func(r *ast.Rule) bool { return r.Head.Ref().String() == "route" })
	for _, rule := range stub.Rules {
		rule.Module = module
		module.Rules = append(module.Rules, rule)
	}
	s.rules = maps.Clone(s.rules)
	s.rules[routeFile] = module
	x := &index{apis: make(map[string]apiRows, len(tables))}
	find := &topdown.Builtin{
		Decl: &ast.Builtin{Name: findRoute, Decl: types.NewFunction(types.Args(types.A), types.A)},
		Func: x.findRoute,
	}
	if compiler, err = s.compiled(find); err != nil {
		return nil, nil, err
	}
	evaluator = evaluator.with(compiler, find)
	if x.rules, err = rowRulesOf(evaluator); err != nil {
		return nil, nil, err
	}
	x.none = x.rules.newRow(0, nil)
	number := 0
	for name, table := range tables {
		of := apiRows{index: table.index, rows: make([]*row, 0, len(table.Routes))}
		rows[name].Foreach(func(t *ast.Term) {
			number++
			of.rows = append(of.rows, x.rules.newRow(number, t))
		})
		x.apis[name] = of
	}
	x.tests = x.rules.scopeTests(referencesOf(compiler, true))
	query, err := evaluator.prepare(decisionRef)
	return query, x, err
}

// findRoute implements the function keywicket.find_route. It is undefined if the request addresses no row.
func (x *index) findRoute(_ topdown.BuiltinContext, of []*ast.Term, iter func(*ast.Term) error) error {
	part := func(p part) ast.Value {
		value, _ := of[0].Value.Find(partRefs[p][1:])
		return value
	}
	api, ok1 := part(inputAPI).(ast.String)
	method, ok2 := part(requestMethod).(ast.String)
	path, ok3 := part(requestPath).(ast.String)
	if !ok1 || !ok2 || !ok3 || isEmpty(part(requestSegments)) {
		return nil
	}
	if found := x.find(string(api), string(method), string(path)); found != x.none {
		return iter(found.term)
	}
	return nil
}

// isEmpty reports whether count of the value is 0 or undefined.
func isEmpty(v ast.Value) bool {
	switch v := v.(type) {
	case *ast.Array:
		return v.Len() == 0
	case ast.Object:
		return v.Len() == 0
	case ast.Set:
		return v.Len() == 0
	case ast.String:
		return v == ""
	}
	return true
}

// find returns the row for a request, or x.none.
func (x *index) find(api, method, path string) *row {
	of, ok := x.apis[api]
	if !ok {
		return x.none
	}
	i, ok := of.index.Find(method, path)
	if !ok {
		return x.none
	}
	return of.rows[i]
}

// rowOf returns the row that the rule route finds for an input, or x.none.
func (x *index) rowOf(in *authz.Input) *row {
	if in.Path == "" { // an ambiguous path, which matches no row
		return x.none
	}
	return x.find(in.API, in.Method, in.Path)
}
