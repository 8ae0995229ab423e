package analysis

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/policies/document"
)

// DependsOnRowOnly reports whether the value of a rule depends on nothing but the row. The map `known` contains the results of
// earlier calls, and DependsOnRowOnly adds its own results.
func DependsOnRowOnly(compiler *ast.Compiler, rule *ast.Rule, known map[*ast.Rule]bool) bool {
	if rowOnly, ok := known[rule]; ok {
		return rowOnly
	}
	rowOnly := !hasWith(rule) // a `with` may replace values that the rule `route` reads
	ast.WalkRefs(rule, func(r ast.Ref) bool {
		rowOnly = rowOnly && !r[0].Equal(ast.InputRootDocument) && !nondeterministic(r)
		return !rowOnly
	})
	if rule.Else != nil {
		rowOnly = rowOnly && DependsOnRowOnly(compiler, rule.Else, known)
	}
	for other := range compiler.Graph.Dependencies(rule) {
		rowOnly = rowOnly && DependsOnRowOnly(compiler, other.(*ast.Rule), known)
	}
	known[rule] = rowOnly
	return rowOnly
}

// scopeTest recognises an expression that tests the scopes of the principal against sets. It returns the reference of the rule
// with these sets, and nil for any other expression. It accepts only this form, in which NAME is the rule with the sets:
//
//	every scope_set in NAME {
//		some scope in input.principal.scopes
//		scope in scope_set
//	}
//
// The expression must be what OPA compiles from this form, and the rest of the rule must use none of the expression's
// variables. The result of the test then depends only on which sets contain at least one of the scopes. `body` is the body that
// contains the expression. `uses` maps each variable of the rule to the number of its uses.
func scopeTest(expr *ast.Expr, body ast.Body, uses map[ast.Var]int) ast.Ref {
	every, ok := expr.Terms.(*ast.Every)
	if !ok || len(expr.With) > 0 || len(every.Body) != 2 {
		return nil
	}
	isVarWithUses := func(t *ast.Term, n int) bool {
		v, ok := t.Value.(ast.Var)
		return ok && uses[v] == n
	}
	assignment, membership := every.Body[0], every.Body[1]
	if !isCall(assignment, ast.Equality) || !isCall(membership, ast.Member) {
		return nil
	}
	scope, scopes := assignment.Operand(0), document.PrincipalScopes.Ref()
	element, ok := assignment.Operand(1).Value.(ast.Ref)
	if !ok || len(element) != len(scopes)+1 || !element.HasPrefix(scopes) || !isVarWithUses(element[len(scopes)], 1) ||
		!isVarWithUses(scope, 2) || !membership.Operand(0).Equal(scope) ||
		!isVarWithUses(every.Value, 2) || !membership.Operand(1).Equal(every.Value) {
		return nil
	}
	// OPA assigns the domain of `every` to a variable, and sometimes assigns this variable to another variable.
	domain := every.Domain
	for range body {
		i := slices.IndexFunc(body, func(other *ast.Expr) bool { return isCall(other, ast.Equality) && other.Operand(0).Equal(domain) })
		if i < 0 || !isVarWithUses(domain, 2) {
			return nil
		}
		domain = body[i].Operand(1)
		if name, ok := domain.Value.(ast.Ref); ok && name.IsGround() {
			return name
		}
	}
	return nil
}

// isCall reports whether an expression is a call of a built-in function with two operands, without `not` and `with`.
func isCall(expr *ast.Expr, function *ast.Builtin) bool {
	return expr.IsCall() && expr.Operator().Equal(function.Ref()) && len(expr.Operands()) == 2 && !expr.Negated && len(expr.With) == 0
}

// usesOfVars returns how often a rule uses each variable.
func usesOfVars(rule *ast.Rule) map[ast.Var]int {
	uses := make(map[ast.Var]int)
	ast.WalkVars(rule, func(v ast.Var) bool {
		uses[v]++
		return false
	})
	return uses
}
