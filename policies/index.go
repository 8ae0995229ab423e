package policies

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/route"
	"github.com/keywicket/keywicket/policies/source"
	"github.com/keywicket/keywicket/policies/table"
)

// index finds the row that a request addresses, as the rule `route` in keywicket/route.rego does.
type index struct {
	apis          map[string]apiRows
	none          *row // stands for "no row": find returns it if a request addresses no row of a table
	rules         *rowRules
	needs         sync.Map // string → *needs: the distinct needs of all rows
	rulesWithSets []int    // positions of the rules that define sets of scopes: see rowRules.rulesWithSets
}

// apiRows are the rows of one table, and the index that finds them.
type apiRows struct {
	index *route.Index
	rows  []*row
}

// hasShippedRoute reports whether the policy finds its rows as the shipped route.rego does.
func hasShippedRoute(s source.Source) (bool, error) {
	text, err := Builtin.ReadFile(document.RouteFile)
	if err != nil {
		return false, err
	}
	return analysis.HasShippedRoute(s, text)
}

// rows evaluates data.keywicket.rows. It returns the rows of each table, in the order of the table.
func (e *evaluator) rows(ctx context.Context, tables map[string]table.Table) (map[string]*ast.Array, error) {
	query, err := e.prepare(ast.MustParseRef("data.keywicket.rows"))
	if err != nil {
		return nil, err
	}
	all, err := query.eval(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	rowsOf := make(map[string]*ast.Array, len(tables))
	for name, t := range tables {
		list, err := all.Value.Find(ast.Ref{ast.StringTerm(name)})
		array, ok := list.(*ast.Array)
		if err != nil || !ok || array.Len() != len(t.Routes) {
			return nil, fmt.Errorf("data.keywicket.rows does not have the rows of %s", name)
		}
		rowsOf[name] = array
	}
	return rowsOf, nil
}

// prepareIndexed prepares the query of the decision. In this query, a function that uses the index replaces the rule `route`. Without
// the shipped route.rego, prepareIndexed returns nil and no error.
func prepareIndexed(ctx context.Context, s source.Source, tables map[string]table.Table, compiler *ast.Compiler) (*query, *index, error) {
	const routeStub = `package keywicket
route := ` + analysis.FindRoute + `(input)`
	if ok, err := hasShippedRoute(s); !ok || err != nil {
		return nil, nil, err
	}
	evaluator, err := newEvaluator(ctx, s, compiler)
	if err != nil {
		return nil, nil, err
	}
	rows, err := evaluator.rows(ctx, tables)
	if err != nil {
		return nil, nil, err
	}
	stub, err := ast.ParseModule(document.RouteFile, routeStub)
	if err != nil {
		return nil, nil, err
	}
	module := s.Rules[document.RouteFile].Copy()
	module.Rules = slices.DeleteFunc(module.Rules, func(r *ast.Rule) bool { return r.Head.Ref().String() == "route" })
	for _, rule := range stub.Rules {
		rule.Module = module
		module.Rules = append(module.Rules, rule)
	}
	s.Rules = maps.Clone(s.Rules)
	s.Rules[document.RouteFile] = module
	x := &index{apis: make(map[string]apiRows, len(tables))}
	find := &topdown.Builtin{
		Decl: &ast.Builtin{Name: analysis.FindRoute, Decl: types.NewFunction(types.Args(types.A), types.A)},
		Func: x.findRoute,
	}
	if compiler, err = s.Compiled(find); err != nil {
		return nil, nil, err
	}
	evaluator = evaluator.forRules(compiler, find)
	if x.rules, err = rowRulesOf(evaluator); err != nil {
		return nil, nil, err
	}
	x.none = x.rules.newRow(0, nil)
	number := 0
	for name, t := range tables {
		entry := apiRows{index: t.Index(), rows: make([]*row, 0, len(t.Routes))}
		rows[name].Foreach(func(term *ast.Term) {
			number++
			entry.rows = append(entry.rows, x.rules.newRow(number, term))
		})
		x.apis[name] = entry
	}
	x.rulesWithSets = x.rules.rulesWithSets(analysis.ReferencesOf(compiler, true))
	query, err := evaluator.prepare(document.DecisionRef)
	return query, x, err
}

// findRoute implements the function keywicket.find_route. The result is undefined if the request addresses no row.
func (x *index) findRoute(_ topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
	part := func(p document.Part) ast.Value {
		value, _ := args[0].Value.Find(p.Ref()[1:])
		return value
	}
	api, ok1 := part(document.InputAPI).(ast.String)
	method, ok2 := part(document.RequestMethod).(ast.String)
	path, ok3 := part(document.RequestPath).(ast.String)
	if !ok1 || !ok2 || !ok3 || isEmpty(part(document.RequestSegments)) {
		return nil
	}
	if found := x.find(string(api), string(method), string(path)); found != x.none {
		return iter(found.term)
	}
	return nil
}

// isEmpty reports whether count(v) in Rego is 0 or undefined.
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
	entry, ok := x.apis[api]
	if !ok {
		return x.none
	}
	i, ok := entry.index.Find(method, path)
	if !ok {
		return x.none
	}
	return entry.rows[i]
}

// rowOf returns the row that the rule `route` finds for an input, or x.none.
func (x *index) rowOf(in *authz.Input) *row {
	if in.Path == "" { // an ambiguous path, which matches no row
		return x.none
	}
	return x.find(in.API, in.Method, in.Path)
}
