package policies

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/dependencies"
)

// reads reports whether decisions depend on a part of the input, such as "request", "query". A reference to a prefix of
// it, or one that goes on with a variable, counts: it may be to all of it.
func (s sources) reads(path ...string) (bool, error) {
	compiler := ast.NewCompiler().WithCapabilities(capabilities())
	if compiler.Compile(s.rules); compiler.Failed() {
		return false, compiler.Errors
	}
	// Each of these references is constant: OPA has cut it off in front of a variable.
	references, err := dependencies.Base(compiler, decisionRef)
	if err != nil {
		return false, err
	}
	for _, r := range references {
		if r[0].Equal(ast.InputRootDocument) && onePrefixesTheOther(r[1:], path) {
			return true, nil
		}
	}
	return false, nil
}

var decisionRef = ast.MustParseRef("data.keywicket.decision")

func onePrefixesTheOther(r ast.Ref, path []string) bool {
	for i := range min(len(r), len(path)) {
		if ast.Compare(r[i].Value, ast.String(path[i])) != 0 {
			return false
		}
	}
	return true
}
