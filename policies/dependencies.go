package policies

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"
)

// reading says which parts of the input decisions depend on. inputValue leaves out the others of these, for what they cost.
type reading struct {
	query, header, time                             bool
	source                                          bool
	certificate                                     bool // of the source
	attributes, userAttributes, workspaceAttributes bool
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
		header:              reads("input.request.headers"),
		time:                reads("input.time"),
		source:              reads("input.source"),
		certificate:         reads("input.source.certificate"),
		attributes:          reads("input.principal.attributes"),
		userAttributes:      reads("input.principal.user_attributes"),
		workspaceAttributes: reads("input.workspace.attributes"),
	}, nil
}

// compiled are the rules as they were written, without the tests.
func (s sources) compiled() (*ast.Compiler, error) {
	compiler := ast.NewCompiler().WithCapabilities(capabilities()).SetErrorLimit(0) // 0 is none
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
