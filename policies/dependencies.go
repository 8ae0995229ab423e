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
	r := reading{
		query:               reads("input.request.query"),
		source:              reads("input.source"),
		certificate:         reads("input.source.certificate"),
		attributes:          reads("input.principal.attributes"),
		userAttributes:      reads("input.principal.user_attributes"),
		workspaceAttributes: reads("input.workspace.attributes"),
	}
	named := inputRefs(compiler)
	for p, ref := range partRefs {
		r.parts[p] = overlaps(ref, named)
	}
	return r, nil
}

// inputRefs are all references to the input in all rules, each up to its first variable. They are more than what decisions depend
// on: `x := input.request` is one to all parts of the request.
func inputRefs(compiler *ast.Compiler) []ast.Ref {
	var all []ast.Ref
	for _, module := range compiler.Modules {
		ast.WalkRefs(module, func(r ast.Ref) bool {
			if r[0].Equal(ast.InputRootDocument) {
				all = append(all, r.ConstantPrefix())
			}
			return false
		})
	}
	return all
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
