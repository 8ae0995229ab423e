package analysis

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/source"
)

// FindRoute is the name of the function that replaces the rule `route`.
const FindRoute = "keywicket.find_route"

// HasShippedRoute reports whether the policy finds its rows with the shipped route.rego. The index finds the same rows only in
// this case. The result is false if another rule extends a definition that route.rego contains or reads, or if a `with`
// replaces such a definition. `text` is the text of the shipped file.
func HasShippedRoute(s source.Source, text []byte) (bool, error) {
	shipped, err := ast.ParseModule(document.RouteFile, string(text))
	if err != nil {
		return false, err
	}
	m := s.Rules[document.RouteFile]
	if m == nil || !m.Package.Equal(shipped.Package) || len(m.Imports) != len(shipped.Imports) || !slices.EqualFunc(m.Rules, shipped.Rules, sameRule) {
		return false, nil // an import can change the meaning of a name
	}
	used := []ast.Ref{ast.MustParseRef("data.apis")}
	for _, rule := range shipped.Rules {
		used = append(used, shipped.Package.Path.Append(ast.StringTerm(rule.Head.Ref()[0].String())))
	}
	// If a rule of the package has the name of a built-in function, a call evaluates the rule instead of the function.
	used = append(used, shipped.Package.Path.Append(ast.StringTerm(strings.Split(FindRoute, ".")[0])))
	functions := make(map[string]bool)
	ast.WalkRefs(shipped, func(r ast.Ref) bool {
		functions[r.String()] = true
		if name, ok := r[0].Value.(ast.Var); ok && ast.BuiltinMap[r.String()] != nil {
			used = append(used, shipped.Package.Path.Append(ast.StringTerm(string(name))))
		}
		return false
	})
	for file, module := range s.Rules {
		if file == document.RouteFile {
			continue
		}
		if slices.ContainsFunc(module.Rules, func(r *ast.Rule) bool { return overlaps(r.Ref().GroundPrefix(), used) }) || replaces(module, used, functions) {
			return false, nil
		}
	}
	return true, nil
}

// sameRule reports whether two rules are equal. It ignores their metadata, which changes no decision.
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
