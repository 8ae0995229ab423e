package policies

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/document"
)

// rowRules are the rules of the package keywicket that have a single value. Some of these rules depend only on the row that the
// rule `route` finds: for example, `public` and `allowed` in keywicket/decision.rego. The row caches their values, so that the
// next decision on the row does not evaluate these rules again.
type rowRules struct {
	positions  map[string]int // name of a rule → its position in values; the rule route has position 0
	standalone []*query       // for each position, a query of the rule alone; nil if the rule depends on more than the row
}

// values contains the values of the rules by position. A value is nil if it is not known yet.
type values []*ast.Term

// undefined represents the value of an undefined rule.
var undefined = ast.NullTerm()

// row is a row of a table, as keywicket/route.rego builds it.
type row struct {
	number   int       // unique among all tables, from 1; 0 if the request addresses no row
	term     *ast.Term // nil if the request addresses no row
	values   atomic.Pointer[values]
	uncached atomic.Bool           // set when one of the rules fails in a separate evaluation; the row then caches no values
	needs    atomic.Pointer[needs] // nil if not known yet

	// anonymous is the decision on requests without a credential, if it depends on the row alone. It is nil until it is known.
	anonymous atomic.Pointer[authz.Decision]
}

// rowRulesOf finds the row rules among the rules of the evaluator.
func rowRulesOf(e *evaluator) (*rowRules, error) {
	compiler := e.compiler
	k := &rowRules{positions: map[string]int{ruleName(document.RouteRef): 0}, standalone: []*query{nil}}
	known := make(map[*ast.Rule]bool)
	for _, rule := range compiler.GetRules(document.RouteRef) {
		known[rule] = true
	}
	for _, rule := range compiler.GetRules(document.PackageRef) {
		ref := rule.Ref()
		if _, done := k.positions[ruleName(ref)]; done || len(ref) != len(document.RouteRef) {
			continue
		}
		all := compiler.GetRules(ref)
		if slices.ContainsFunc(all, func(r *ast.Rule) bool {
			return !r.Ref().Equal(ref) || r.Head.RuleKind() != ast.SingleValue || len(r.Head.Args) > 0
		}) {
			continue
		}
		k.positions[ruleName(ref)] = len(k.positions)
		var standalone *query
		if !slices.ContainsFunc(all, func(r *ast.Rule) bool { return !analysis.DependsOnRowOnly(compiler, r, known) }) {
			q, err := e.prepare(ref)
			if err != nil {
				return nil, err
			}
			standalone = q.exhaustive()
		}
		k.standalone = append(k.standalone, standalone)
	}
	return k, nil
}

// learningLimit is the longest time that a rule may take when it is evaluated alone.
const learningLimit = time.Second

// learn caches the values of row rules that an evaluation has found. Before that, it evaluates each of these rules alone, and
// evaluates all solutions of the rule. The evaluation of the decision may have stopped after the first solution of a rule, although
// another solution has another value or fails. Later evaluations must still report that error. If a rule fails when it is evaluated
// alone, the row never caches values again.
//
// The input must address the row.
func (k *rowRules) learn(ctx context.Context, c *rowCache, input ast.Value) {
	var after values
	for i, query := range k.standalone {
		if query == nil || c.found[i] == nil || c.values[i] != nil {
			continue
		}
		if after == nil {
			after = slices.Clone(c.values)
		}
		var ok bool
		if after[i], ok = k.valueOf(ctx, c.row, i, input); !ok {
			c.row.uncached.Store(true)
			return
		}
	}
	if after != nil {
		c.row.values.Store(&after) // Store may overwrite values of a concurrent evaluation; a later evaluation finds these values again
	}
}

// valueOf evaluates the rule at a position alone. It returns undefined for an undefined rule, and false if the rule fails.
func (k *rowRules) valueOf(ctx context.Context, r *row, position int, input ast.Value) (*ast.Term, bool) {
	// The result must not depend on the deadline of the check.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), learningLimit)
	defer cancel()
	value, err := k.standalone[position].find(ctx, input, k.cacheOf(r, k.initialValues(r.term)))
	if value == nil {
		value = undefined
	}
	return value, err == nil
}

func ruleName(ref ast.Ref) string {
	s, _ := ref[len(ref)-1].Value.(ast.String)
	return string(s)
}

// newRow returns the row of a term. A nil term means that the request addresses no row.
func (k *rowRules) newRow(number int, term *ast.Term) *row {
	r := &row{number: number, term: term}
	initial := k.initialValues(term)
	r.values.Store(&initial)
	return r
}

// initialValues returns the values of a new row: only the value of the rule `route`, which is the term, is known.
func (k *rowRules) initialValues(term *ast.Term) values {
	v := make(values, len(k.positions))
	if v[0] = term; term == nil {
		v[0] = undefined
	}
	return v
}

// rowCache is OPA's cache of rule values for one evaluation. It contains the values of a row.
type rowCache struct {
	rules     *rowRules
	row       *row
	values    values // known before the evaluation
	found     values // found by this evaluation
	withDepth int    // number of `with` expressions that surround the current rule
	other     topdown.VirtualCache
}

// cache returns the cache for an evaluation, or nil for a row that caches no values.
func (k *rowRules) cache(r *row) *rowCache {
	if r.uncached.Load() {
		return nil
	}
	return k.cacheOf(r, *r.values.Load())
}

func (k *rowRules) cacheOf(r *row, known values) *rowCache {
	return &rowCache{rules: k, row: r, values: known, found: make(values, len(k.positions))}
}

// position returns the position of a row rule. For all other rules and functions, and for every rule inside a `with`, position
// returns false.
func (c *rowCache) position(ref ast.Ref) (int, bool) {
	if c.withDepth > 0 || len(ref) != len(document.RouteRef) || !ref.HasPrefix(document.PackageRef) {
		return 0, false
	}
	i, ok := c.rules.positions[ruleName(ref)]
	return i, ok
}

// Get implements topdown.VirtualCache.
func (c *rowCache) Get(ref ast.Ref) (value *ast.Term, isUndefined bool) {
	i, ok := c.position(ref)
	if !ok {
		return c.others().Get(ref)
	}
	if value = c.values[i]; value == nil {
		value = c.found[i]
	}
	if value == undefined {
		return nil, true
	}
	return value, false
}

// Put implements topdown.VirtualCache.
func (c *rowCache) Put(ref ast.Ref, value *ast.Term) {
	i, ok := c.position(ref)
	switch {
	case !ok:
		c.others().Put(ref, value)
	case value == nil:
		c.found[i] = undefined
	default:
		c.found[i] = value
	}
}

// Push implements topdown.VirtualCache.
func (c *rowCache) Push() {
	c.others().Push()
	c.withDepth++
}

// Pop implements topdown.VirtualCache.
func (c *rowCache) Pop() {
	c.others().Pop()
	c.withDepth--
}

// Keys implements topdown.VirtualCache. Only tracers call Keys, and evaluations with a tracer do not use this cache.
func (c *rowCache) Keys() []ast.Ref { return c.others().Keys() }

// others returns the cache for all other rules and functions.
func (c *rowCache) others() topdown.VirtualCache {
	if c.other == nil {
		c.other = topdown.NewVirtualCache()
	}
	return c.other
}
