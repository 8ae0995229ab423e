package policies

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// scopeTest returns the rule whose sets an expression tests the scopes with, or nil for any other expression. The one form is
//
//	every one_of in NAME {
//		some scope in input.principal.scopes
//		scope in one_of
//	}
//
// as OPA compiles it. No part of it has a use elsewhere in the rule. Its result depends on the scopes only in this: which of the
// sets hold one of them. body is what the expression is in, and uses counts the rule's variables.
func scopeTest(expr *ast.Expr, body ast.Body, uses map[ast.Var]int) ast.Ref {
	every, ok := expr.Terms.(*ast.Every)
	if !ok || len(expr.With) > 0 || len(every.Body) != 2 {
		return nil
	}
	usedBy := func(t *ast.Term, n int) bool {
		v, ok := t.Value.(ast.Var)
		return ok && uses[v] == n
	}
	held, member := every.Body[0], every.Body[1]
	if !isCall(held, ast.Equality) || !isCall(member, ast.Member) {
		return nil
	}
	scope, scopes := held.Operand(0), partRefs[principalScopes]
	from, ok := held.Operand(1).Value.(ast.Ref)
	if !ok || len(from) != len(scopes)+1 || !from.HasPrefix(scopes) || !usedBy(from[len(scopes)], 1) ||
		!usedBy(scope, 2) || !member.Operand(0).Equal(scope) ||
		!usedBy(every.Value, 2) || !member.Operand(1).Equal(every.Value) {
		return nil
	}
	// OPA gives the domain a variable, and sometimes that one another.
	domain := every.Domain
	for range body {
		i := slices.IndexFunc(body, func(other *ast.Expr) bool { return isCall(other, ast.Equality) && other.Operand(0).Equal(domain) })
		if i < 0 || !usedBy(domain, 2) {
			return nil
		}
		domain = body[i].Operand(1)
		if name, ok := domain.Value.(ast.Ref); ok && name.IsGround() {
			return name
		}
	}
	return nil
}

// isCall reports whether an expression is a plain call of a built-in function of two operands.
func isCall(expr *ast.Expr, function *ast.Builtin) bool {
	return expr.IsCall() && expr.Operator().Equal(function.Ref()) && len(expr.Operands()) == 2 && !expr.Negated && len(expr.With) == 0
}

// usesOfVars counts how often a rule has each variable.
func usesOfVars(rule *ast.Rule) map[ast.Var]int {
	uses := make(map[ast.Var]int)
	ast.WalkVars(rule, func(v ast.Var) bool {
		uses[v]++
		return false
	})
	return uses
}

// needs are the sets of scopes that decisions on a row test a principal's scopes with.
type needs struct {
	unknown bool              // decisions may depend on each scope
	sets    map[string]uint64 // scope → a bit for each set that has it
	lengths uint64            // a bit for each length that a scope of the sets has, modulo 64
}

const mostSets = 64

// appendTo writes which of the sets have one of the scopes, or all scopes if the sets are not known.
func (n *needs) appendTo(b []byte, scopes []string) []byte {
	if n == nil || n.unknown {
		return appendTexts(append(b, 0), scopes)
	}
	held := uint64(0)
	for _, scope := range scopes {
		if n.lengths&lengthBit(scope) != 0 {
			held |= n.sets[scope]
		}
	}
	return binary.AppendUvarint(append(b, 1), held)
}

func lengthBit(scope string) uint64 { return 1 << (len(scope) % 64) }

// learnNeeds evaluates the rules that scopes are tested with, if the needs of the row are not known. If a rule is undefined, fails,
// or has another value than an array of sets, they are unknown from then on. The input is one that addresses the row.
func (x *index) learnNeeds(ctx context.Context, r *row, input ast.Value) {
	if len(x.tests) == 0 || r.needs.Load() != nil {
		return
	}
	var all []ast.Set
	for _, place := range x.tests {
		value, ok := x.rules.valueOf(ctx, r, place, input)
		sets, isList := setsOf(value)
		if all = append(all, sets...); !ok || !isList || len(all) > mostSets {
			r.needs.Store(&needs{unknown: true})
			return
		}
	}
	n := &needs{sets: make(map[string]uint64)}
	for i, set := range all {
		set.Foreach(func(scope *ast.Term) {
			if s, ok := scope.Value.(ast.String); ok {
				n.sets[string(s)] |= 1 << i
				n.lengths |= lengthBit(string(s))
			}
		})
	}
	r.needs.Store(x.sharedNeeds(n))
}

// sharedNeeds returns the same needs for all rows that need the same. A large table needs few different ones, which then are in the
// processor's cache.
func (x *index) sharedNeeds(n *needs) *needs {
	var key []byte
	for _, scope := range slices.Sorted(maps.Keys(n.sets)) {
		key = binary.AppendUvarint(appendText(key, scope), n.sets[scope])
	}
	shared, _ := x.needs.LoadOrStore(string(key), n)
	return shared.(*needs)
}

// setsOf returns the elements of an array of sets, and false for anything else.
func setsOf(value *ast.Term) (sets []ast.Set, ok bool) {
	array, ok := value.Value.(*ast.Array)
	if !ok {
		return nil, false
	}
	array.Foreach(func(t *ast.Term) {
		set, isSet := t.Value.(ast.Set)
		sets, ok = append(sets, set), ok && isSet
	})
	return sets, ok
}

// testedWith returns the places of the rules that references test scopes with, if decisions depend on scopes in no other way.
func (k *rowRules) testedWith(references []reference) []int {
	var tests []int
	for _, r := range references {
		if r.test == nil {
			if overlaps(r.ref, []ast.Ref{partRefs[principalScopes]}) {
				return nil
			}
			continue
		}
		place, ok := k.places[ruleName(r.test)]
		if !ok || k.alone[place] == nil || len(r.test) != len(routeRef) || !r.test.HasPrefix(packageRef) {
			return nil
		}
		if !slices.Contains(tests, place) {
			tests = append(tests, place)
		}
	}
	slices.Sort(tests)
	return tests
}
