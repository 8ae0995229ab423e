package source

import (
	"context"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/fault"
)

// Compiled compiles the rules without the tests. The rules can call the given functions like built-in functions.
func (s Source) Compiled(functions ...*topdown.Builtin) (*ast.Compiler, error) {
	allowed := capabilities()
	for _, f := range functions {
		allowed.Builtins = append(allowed.Builtins, f.Decl)
	}
	compiler := ast.NewCompiler().WithCapabilities(allowed).WithUseTypeCheckAnnotations(true).SetErrorLimit(0) // 0: no limit
	if compiler.Compile(s.Rules); compiler.Failed() {
		return nil, explainMissingTests(compiler.Errors)
	}
	return compiler, nil
}

// explainMissingTests adds the cause and the remedy to errors that appear only without the test files.
func explainMissingTests(errs ast.Errors) error {
	var all fault.Errors
	all.AddFile("", errs)
	for i := range all {
		all[i].Text += ": the sidecar decides without the _test.rego files, so move the definition to another file"
	}
	return all.Err()
}

// checkRuleForms returns an error for each rule of data.keywicket.deny or .headers that has the wrong form. Without this check,
// the compiler would report the error in the shipped rules, which read these rules.
func (s Source) checkRuleForms() error {
	var all fault.Errors
	for _, module := range s.Rules {
		for _, rule := range module.Rules {
			var wrong string
			switch ref := rule.Ref(); {
			case ref.Equal(document.DenyRef) && (rule.Head.Key == nil || !mayBeObject(rule.Head.Key)):
				wrong = `deny must contain objects. Write: deny contains {"code": "…", "reason": "…"} if { … }`
			case ref.Equal(document.HeadersRef) && rule.Head.Value == nil:
				wrong = `headers must be an object. Write: headers["x-name"] := "…" if { … }`
			default:
				continue
			}
			all = append(all, fault.Fault{File: rule.Location.File, Line: rule.Location.Row, Text: wrong})
		}
	}
	return all.Err()
}

// mayBeObject reports whether a term is an object, or may evaluate to one.
func mayBeObject(t *ast.Term) bool {
	switch t.Value.(type) {
	case ast.Object, ast.Var, ast.Ref, ast.Call:
		return true
	}
	return false
}

// HasEarlierRoute reports whether keywicket/route.rego is from a version that does not support any_of and the other newer keys.
func (s Source) HasEarlierRoute() bool {
	m := s.Rules[document.RouteFile]
	return m == nil || !strings.Contains(m.String(), `"any_of"`)
}

// Optimise evaluates in advance everything that does not depend on the input. Each row of a table becomes a rule, which OPA
// finds through an index. Both entrypoints are needed: with the rule `decision` as the only entrypoint, OPA would copy the rows
// into that rule.
func (s Source) Optimise(ctx context.Context) (Source, error) {
	b := &bundle.Bundle{Data: s.Data}
	for file, module := range s.Rules {
		b.Modules = append(b.Modules, bundle.ModuleFile{
			URL: file, Path: file, RelativePath: file, Raw: []byte(module.String()), Parsed: module,
		})
	}
	slices.SortFunc(b.Modules, func(a, b bundle.ModuleFile) int { return strings.Compare(a.Path, b.Path) })
	compiler := compile.New().WithBundle(b).WithTarget(compile.TargetRego).WithCapabilities(capabilities()).
		WithOptimizationLevel(1).WithEntrypoints("keywicket/route", "keywicket/decision")
	if err := compiler.Build(ctx); err != nil {
		return Source{}, err
	}
	optimised := Source{Rules: make(map[string]*ast.Module), Data: compiler.Bundle().Data}
	for _, m := range compiler.Bundle().Modules {
		optimised.Rules[m.Path] = m.Parsed
	}
	return optimised, nil
}
