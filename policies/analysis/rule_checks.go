package analysis

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/fault"
	"github.com/keywicket/keywicket/policies/source"
)

// These checks find policies that allow more than they appear to allow. One cause is a mix of versions: rules of an earlier
// version with tables or rules of this version. Another cause is a test file that defines what the rules read. One more check
// is in policies/samples.go, where the engine decides sample requests.

// CheckDefinitions returns an error for each test file that defines a document that the rules read. It also returns an error for
// denials or headers that are defined but that no rule reads.
func CheckDefinitions(s source.Source, compiler *ast.Compiler) error {
	var all fault.Errors
	read := make(map[string]Reference) // references to data in the rules, by their text
	for _, module := range compiler.Modules {
		ast.WalkRefs(module, func(r ast.Ref) bool {
			if ground := r.GroundPrefix(); len(ground) > 1 && r[0].Equal(ast.DefaultRootDocument) {
				read[ground.String()] = Reference{Ref: ground, location: cmp.Or(r[0].Location, module.Package.Location)}
			}
			return false
		})
	}
	for _, file := range slices.Sorted(maps.Keys(s.Tests)) {
		for _, rule := range s.Tests[file].Rules {
			ref := rule.Ref().GroundPrefix()
			for _, r := range read {
				if r.Ref.HasPrefix(ref) {
					all = append(all, fault.Fault{File: rule.Location.File, Line: rule.Location.Row, Text: fmt.Sprintf(
						"%s is read at %s, but the sidecar decides without the _test.rego files: move the definition to another file", ref, r.Place())})
				}
			}
		}
	}
	for _, extension := range []ast.Ref{document.DenyRef, document.HeadersRef} {
		rules := compiler.GetRulesWithPrefix(extension)
		if len(rules) > 0 && read[extension.String()].Ref == nil {
			all = append(all, fault.Fault{File: rules[0].Location.File, Line: rules[0].Location.Row, Text: fmt.Sprintf(
				"%s is defined, but no rule reads it: use keywicket/decision.rego of this version", extension)})
		}
	}
	return all.Err()
}

// UnsafeNots checks the files that do not import future.keywords.not. In such a file, OPA evaluates some parts of a negated
// expression before the `not`, such as the index of a reference. UnsafeNots returns a warning for each `not` with such a part that
// may be undefined. If the part is undefined, the whole expression is undefined instead of true, so a denial with this expression
// does not apply.
func UnsafeNots(s source.Source) []string {
	var all fault.Errors
	for _, module := range s.Rules {
		if slices.ContainsFunc(module.Imports, func(i *ast.Import) bool { return i.Path.String() == "future.keywords.not" }) {
			continue
		}
		ast.WalkExprs(module, func(e *ast.Expr) bool {
			if ref := evaluatedBeforeNot(e); ref != nil {
				all = append(all, fault.Fault{File: e.Location.File, Line: e.Location.Row, Text: fmt.Sprintf(
					"if %s is undefined, this `not` is undefined instead of true: import future.keywords.not in the file", ref)})
			}
			return false
		})
	}
	if len(all) == 0 {
		return nil
	}
	return strings.Split(all.Err().Error(), "\n")
}

// mayBeUndefined lists the parts of the input whose keys may be missing.
var mayBeUndefined = []ast.Ref{
	ast.MustParseRef("input.principal.attributes"), ast.MustParseRef("input.principal.user_attributes"),
	ast.MustParseRef("input.workspace.attributes"), ast.MustParseRef("input.source"), ast.MustParseRef("input.context"),
	ast.MustParseRef("input.request.headers"), ast.MustParseRef("input.request.query"),
}

// evaluatedBeforeNot examines a negated expression. It returns a reference that may be undefined and that OPA evaluates before
// the negation, or nil.
func evaluatedBeforeNot(e *ast.Expr) ast.Ref {
	if !e.Negated {
		return nil
	}
	var found ast.Ref
	search := func(t *ast.Term) {
		ast.WalkRefs(t, func(r ast.Ref) bool {
			if found == nil && slices.ContainsFunc(mayBeUndefined, func(part ast.Ref) bool { return len(r) > len(part) && r.HasPrefix(part) }) {
				found = r
			}
			return false
		})
	}
	if !e.IsCall() {
		if t, ok := e.Terms.(*ast.Term); ok {
			if ref, ok := t.Value.(ast.Ref); ok {
				for _, part := range ref[1:] {
					search(part)
				}
			}
		}
		return found
	}
	compares := e.Operator().Equal(ast.Equal.Ref()) || e.Operator().Equal(ast.Equality.Ref())
	for _, operand := range e.Operands() {
		ref, isRef := operand.Value.(ast.Ref)
		switch {
		case !isRef || !compares:
			search(operand)
		default: // OPA evaluates a compared reference together with the comparison
			for _, part := range ref[1:] {
				search(part)
			}
		}
	}
	return found
}
