package policies

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// reading says which parts of the input decisions depend on. inputValue leaves out the others, for what they cost.
type reading struct {
	query                                           bool // the parsed one
	source                                          bool
	certificate                                     bool // of the source
	attributes, userAttributes, workspaceAttributes bool
	parts                                           [numberOfParts]bool
}

// readingOf finds what the policy reads. A reference to a prefix of a part, or one that goes on with a variable, counts: it may
// be to all of it.
func readingOf(compiler *ast.Compiler) (reading, error) {
	// Each of these references is constant: OPA has cut it off in front of a variable.
	references, err := dependencies.Base(compiler, decisionRef)
	if err != nil {
		return reading{}, err
	}
	reads := func(part string) bool { return overlaps(ast.MustParseRef(part), references) }
	return reading{
		query:               reads("input.request.query"),
		source:              reads("input.source"),
		certificate:         reads("input.source.certificate"),
		attributes:          reads("input.principal.attributes"),
		userAttributes:      reads("input.principal.user_attributes"),
		workspaceAttributes: reads("input.workspace.attributes"),
		parts:               partsOf(compiler),
	}, nil
}

// partsOf finds the parts to which the rules that the decision needs have a reference. They are more than those that it depends
// on: `x := input.request` is a reference to all parts of the request. Rules in found have their value before a decision is
// evaluated, and what they read does not count.
func partsOf(compiler *ast.Compiler, found ...ast.Ref) (parts [numberOfParts]bool) {
	named := inputRefs(compiler, found)
	for p, ref := range partRefs {
		parts[p] = overlaps(ref, named)
	}
	return parts
}

// inputRefs end in front of their first variable.
func inputRefs(compiler *ast.Compiler, found []ast.Ref) []ast.Ref {
	rules := make(map[*ast.Rule]bool)
	for _, rule := range compiler.GetRules(decisionRef) {
		addNeeded(compiler, rule, found, rules)
	}
	var all []ast.Ref
	for rule := range rules {
		if len(found) > 0 && hasWith(rule) {
			return inputRefs(compiler, nil) // what is replaced may be what they read, and then they are evaluated
		}
		ast.WalkRefs(rule, func(r ast.Ref) bool {
			if r[0].Equal(ast.InputRootDocument) {
				all = append(all, r.ConstantPrefix())
			}
			return false
		})
	}
	return all
}

func hasWith(rule *ast.Rule) bool {
	has := false
	ast.WalkWiths(rule, func(*ast.With) bool {
		has = true
		return true
	})
	return has
}

func addNeeded(compiler *ast.Compiler, rule *ast.Rule, found []ast.Ref, rules map[*ast.Rule]bool) {
	if rules[rule] || slices.ContainsFunc(found, func(r ast.Ref) bool { return r.Equal(rule.Ref()) }) {
		return
	}
	rules[rule] = true
	if rule.Else != nil {
		addNeeded(compiler, rule.Else, found, rules)
	}
	for other := range compiler.Graph.Dependencies(rule) {
		addNeeded(compiler, other.(*ast.Rule), found, rules)
	}
}

// compiled are the rules without the tests.
func (s sources) compiled(functions ...*topdown.Builtin) (*ast.Compiler, error) {
	allowed := capabilities()
	for _, f := range functions {
		allowed.Builtins = append(allowed.Builtins, f.Decl)
	}
	compiler := ast.NewCompiler().WithCapabilities(allowed).WithUseTypeCheckAnnotations(true).SetErrorLimit(0) // 0 is none
	if compiler.Compile(s.rules); compiler.Failed() {
		return nil, withoutTests(compiler.Errors)
	}
	return compiler, nil
}

// withoutTests explains errors that appear only without the test files.
func withoutTests(errs ast.Errors) error {
	var all faults
	all.in("", errs)
	for i := range all {
		all[i].text += ", without the _test.rego files: they are not there when the sidecar decides"
	}
	return all.err()
}

var decisionRef = ast.MustParseRef("data.keywicket.decision")

// overlaps reports whether one of the references is a prefix of r, or r of it.
func overlaps(r ast.Ref, references []ast.Ref) bool {
	return slices.ContainsFunc(references, func(other ast.Ref) bool { return r.HasPrefix(other) || other.HasPrefix(r) })
}
