package policies

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/document"
)

// needs contains the sets of scopes of a row. For example, the rule `workspace_needs` in keywicket/decision.rego defines such
// sets. Decisions on the row compare the scopes of the principal with these sets.
type needs struct {
	unknown bool              // the sets are not known, so decisions may depend on every scope
	sets    map[string]uint64 // scope → one bit for each set that contains the scope
	lengths uint64            // bit n is set if the length of a scope in the sets is n modulo 64: a quick test before the map is read
}

const maxSets = 64 // one bit of a uint64 for each set

// appendTo appends one bit for each set: whether the set contains at least one of the scopes. If the sets are not known,
// appendTo appends all scopes.
func (n *needs) appendTo(b []byte, scopes []string) []byte {
	if n == nil || n.unknown {
		return appendTexts(append(b, 0), scopes)
	}
	satisfied := uint64(0)
	for _, scope := range scopes {
		if n.lengths&lengthBit(scope) != 0 {
			satisfied |= n.sets[scope]
		}
	}
	return binary.AppendUvarint(append(b, 1), satisfied)
}

func lengthBit(scope string) uint64 { return 1 << (len(scope) % 64) }

// learnNeeds sets the needs of the row, unless they are known. It evaluates the rules that define the sets. If one of these rules
// is undefined, fails, or is not an array of sets, the needs stay unknown permanently. The needs also stay unknown if there are
// more than maxSets sets. The input must address the row.
func (x *index) learnNeeds(ctx context.Context, r *row, input ast.Value) {
	if len(x.rulesWithSets) == 0 || r.needs.Load() != nil {
		return
	}
	var all []ast.Set
	for _, position := range x.rulesWithSets {
		value, ok := x.rules.valueOf(ctx, r, position, input)
		sets, isList := setsOf(value)
		if all = append(all, sets...); !ok || !isList || len(all) > maxSets {
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

// sharedNeeds returns one value for all rows with equal needs. The rows of a large table have few different needs, so the
// shared values stay in the processor's cache.
func (x *index) sharedNeeds(n *needs) *needs {
	var key []byte
	for _, scope := range slices.Sorted(maps.Keys(n.sets)) {
		key = binary.AppendUvarint(appendText(key, scope), n.sets[scope])
	}
	shared, _ := x.needs.LoadOrStore(string(key), n)
	return shared.(*needs)
}

// setsOf returns the elements of an array of sets, or false for any other value.
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

// rulesWithSets returns the positions of the rules that define sets of scopes. Decisions compare the principal's scopes with these
// sets. rulesWithSets returns nil if decisions also depend on the scopes in another way, or if one of these rules depends on more
// than the row.
func (k *rowRules) rulesWithSets(references []analysis.Reference) []int {
	var list []int
	for _, r := range references {
		if r.Test == nil {
			if r.Reads(document.PrincipalScopes) {
				return nil
			}
			continue
		}
		position, ok := k.positions[ruleName(r.Test)]
		if !ok || k.standalone[position] == nil || len(r.Test) != len(document.RouteRef) || !r.Test.HasPrefix(document.PackageRef) {
			return nil
		}
		if !slices.Contains(list, position) {
			list = append(list, position)
		}
	}
	slices.Sort(list)
	return list
}
