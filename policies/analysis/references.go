// Package analysis examines the rules of a policy without an input. It finds what the rules read, and which denials and headers
// they define.
package analysis

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/policies/document"
)

// ReadingOf returns the parts of the input that the references read.
func ReadingOf(references []Reference) (r document.Reading) {
	refs := make([]ast.Ref, len(references))
	for i, reference := range references {
		refs[i] = reference.Ref
	}
	for p := range document.NumberOfParts {
		r[p] = overlaps(p.Ref(), refs)
	}
	return r
}

// Reference is an OPA reference in a rule. The field Ref contains only the part before the first variable.
type Reference struct {
	Ref ast.Ref
	// If the reference belongs to a test of the scopes (see scopeTest), Test refers to the rule with the sets of scopes. For any
	// other reference, Test is nil.
	Test     ast.Ref
	replaces bool          // the reference is the target of a `with`
	location *ast.Location // place of the rule; nil if the rule was not read from a file
}

// Place returns the location as file:line.
func (r Reference) Place() string {
	if r.location == nil {
		return "a rule"
	}
	return fmt.Sprintf("%s:%d", r.location.File, r.location.Row)
}

// ReferencesOf returns the references in the rule `decision` and in all rules that this rule depends on. If `indexed` is true,
// the index finds the row. The result then contains [document.InputRow] instead of the references in the rule `route`.
//
// ReferencesOf ignores `indexed` if one of the rules has a `with`, because a `with` may replace values that `route` reads.
func ReferencesOf(compiler *ast.Compiler, indexed bool) []Reference {
	var found []Reference
	hasReplacement := false // a rule has a `with`, which may replace values that the rule `route` reads
	seen := make(map[*ast.Rule]bool)
	var visit func(rule *ast.Rule)
	visit = func(rule *ast.Rule) {
		if rule == nil || seen[rule] {
			return
		}
		seen[rule] = true
		if indexed && rule.Ref().Equal(document.RouteRef) {
			found = append(found, Reference{Ref: document.InputRow.Ref(), location: rule.Location})
			return
		}
		tests := make(map[*ast.Every]ast.Ref)
		uses := usesOfVars(rule)
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case ast.Ref: // the word `input` alone is also an ast.Ref
				found = append(found, Reference{Ref: x.ConstantPrefix(), location: rule.Location})
			case *ast.With:
				if target, ok := x.Target.Value.(ast.Ref); ok {
					found = append(found, Reference{Ref: target.ConstantPrefix(), location: rule.Location, replaces: true})
				}
			case ast.Body:
				for _, expr := range x {
					if test := scopeTest(expr, x, uses); test != nil && indexed {
						tests[expr.Terms.(*ast.Every)] = test
					}
				}
			case *ast.Every:
				if test := tests[x]; test != nil {
					found = append(found, Reference{Ref: document.PrincipalScopes.Ref(), location: rule.Location, Test: test})
					return true
				}
			}
			return false
		}).Walk(rule)
		hasReplacement = hasReplacement || hasWith(rule)
		visit(rule.Else)
		for next := range compiler.Graph.Dependencies(rule) {
			visit(next.(*ast.Rule))
		}
	}
	for _, rule := range compiler.GetRules(document.DecisionRef) {
		visit(rule)
	}
	if indexed && hasReplacement {
		return ReferencesOf(compiler, false)
	}
	return found
}

// Reads reports whether the reference can read the part: one of the two references must be a prefix of the other.
func (r Reference) Reads(p document.Part) bool { return overlaps(r.Ref, []ast.Ref{p.Ref()}) }

// hasWith reports whether the rule has a `with`.
func hasWith(rule *ast.Rule) bool {
	found := false
	ast.WalkWiths(rule, func(*ast.With) bool {
		found = true
		return true
	})
	return found
}

// Nondeterministic reports whether the reference is a built-in function that can return different results for the same arguments.
func (r Reference) Nondeterministic() bool { return nondeterministic(r.Ref) }

// nondeterministic reports whether a built-in function can return different results for the same arguments. OPA does not mark the
// functions that verify a certificate as nondeterministic, although certificates expire.
func nondeterministic(function ast.Ref) bool {
	b := ast.BuiltinMap[function.String()]
	return b != nil && (b.Nondeterministic || strings.HasPrefix(b.Name, "crypto.x509.parse_and_verify"))
}

// overlaps reports whether r is a prefix of one of the references, or one of the references is a prefix of r.
func overlaps(r ast.Ref, references []ast.Ref) bool {
	return slices.ContainsFunc(references, func(other ast.Ref) bool { return r.HasPrefix(other) || other.HasPrefix(r) })
}
