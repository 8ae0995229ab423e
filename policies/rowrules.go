package policies

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/authz"
)

// rowRules are the rules of the package keywicket that have a single value. Some of them read nothing of the input except the
// row that route finds, such as public and allowed of keywicket/decision.rego. Their value is kept with the row, so that the next
// decision on the row does not evaluate the rule again.
type rowRules struct {
	places map[string]int // a rule's name → its place in values; that of route is 0
	alone  []*query       // by place: the rule by itself, if it has one value for each row; nil: it has not
}

// values are those of the rules, by place. One that was not found yet is nil.
type values []*ast.Term

// undefined stands for the value of a rule that has none.
var undefined = ast.NullTerm()

// row is one of a table, as keywicket/route.rego makes it.
type row struct {
	number int       // among the rows of all tables, from 1 on; 0: none
	term   *ast.Term // nil: of a request that addresses no row
	values atomic.Pointer[values]
	plain  atomic.Bool           // one of its rules fails by itself, so that values are not kept
	needs  atomic.Pointer[needs] // nil: not known yet

	// anonymous is the decision on requests without a credential, if it depends on the row alone. nil: not known yet.
	anonymous atomic.Pointer[authz.Decision]
}

var (
	packageRef = ast.MustParseRef("data.keywicket")
	routeRef   = ast.MustParseRef("data.keywicket.route")
)

// rowRulesOf finds them in the evaluator's rules.
func rowRulesOf(e *evaluator) (*rowRules, error) {
	compiler := e.compiler
	k := &rowRules{places: map[string]int{ruleName(routeRef): 0}, alone: []*query{nil}}
	same := make(map[*ast.Rule]bool)
	for _, rule := range compiler.GetRules(routeRef) {
		same[rule] = true
	}
	for _, rule := range compiler.GetRules(packageRef) {
		ref := rule.Ref()
		if _, done := k.places[ruleName(ref)]; done || len(ref) != len(routeRef) {
			continue
		}
		all := compiler.GetRules(ref)
		if slices.ContainsFunc(all, func(r *ast.Rule) bool {
			return !r.Ref().Equal(ref) || r.Head.RuleKind() != ast.SingleValue || len(r.Head.Args) > 0
		}) {
			continue
		}
		k.places[ruleName(ref)] = len(k.places)
		var alone *query
		if !slices.ContainsFunc(all, func(r *ast.Rule) bool { return !readsRowAlone(compiler, r, same) }) {
			q, err := e.prepare(ref)
			if err != nil {
				return nil, err
			}
			alone = q.exhaustive()
		}
		k.alone = append(k.alone, alone)
	}
	return k, nil
}

// readsRowAlone reports whether a rule has one value for each row. The map has the rules that were looked at before.
func readsRowAlone(compiler *ast.Compiler, rule *ast.Rule, same map[*ast.Rule]bool) bool {
	if is, ok := same[rule]; ok {
		return is
	}
	is := !hasWith(rule) // which may replace what route reads
	ast.WalkRefs(rule, func(r ast.Ref) bool {
		is = is && !r[0].Equal(ast.InputRootDocument) && !changes(r)
		return !is
	})
	if rule.Else != nil {
		is = is && readsRowAlone(compiler, rule.Else, same)
	}
	for other := range compiler.Graph.Dependencies(rule) {
		is = is && readsRowAlone(compiler, other.(*ast.Rule), same)
	}
	same[rule] = is
	return is
}

// learningLimit is how long the rules that depend on a row may take by themselves.
const learningLimit = time.Second

// learn keeps with the row the values of the rules that an evaluation has found. It evaluates each of these rules by itself: an
// evaluation may have left a rule before a solution that contradicts the first one, or fails, and another evaluation, which goes
// on, has to find that error. If a rule fails by itself, the row keeps nothing from then on.
//
// The input is one that addresses the row.
func (k *rowRules) learn(ctx context.Context, c *rowCache, input ast.Value) {
	var after values
	for i, query := range k.alone {
		if query == nil || c.found[i] == nil || c.values[i] != nil {
			continue
		}
		if after == nil {
			after = slices.Clone(c.values)
		}
		var ok bool
		if after[i], ok = k.valueOf(ctx, c.row, i, input); !ok {
			c.row.plain.Store(true)
			return
		}
	}
	if after != nil {
		c.row.values.Store(&after) // another evaluation may have stored others, and finds them again
	}
}

// valueOf evaluates the rule of a place by itself. It returns false if the rule fails.
func (k *rowRules) valueOf(ctx context.Context, r *row, place int, input ast.Value) (*ast.Term, bool) {
	// The end of a check says nothing about the rule.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), learningLimit)
	defer cancel()
	value, err := k.alone[place].find(ctx, input, k.cacheOf(r, k.first(r.term)))
	if value == nil {
		value = undefined
	}
	return value, err == nil
}

func ruleName(ref ast.Ref) string {
	s, _ := ref[len(ref)-1].Value.(ast.String)
	return string(s)
}

// newRow makes one of a term, or of nil for a request that addresses none.
func (k *rowRules) newRow(number int, term *ast.Term) *row {
	r := &row{number: number, term: term}
	first := k.first(term)
	r.values.Store(&first)
	return r
}

// first are the values of a row of which nothing else is known.
func (k *rowRules) first(term *ast.Term) values {
	v := make(values, len(k.places))
	if v[0] = term; term == nil {
		v[0] = undefined
	}
	return v
}

// rowCache gives the row's values to one evaluation.
type rowCache struct {
	rules     *rowRules
	row       *row
	values    values // of the row
	found     values // by this evaluation
	withDepth int    // levels of `with`
	other     topdown.VirtualCache
}

// cache returns nil for a row that keeps nothing.
func (k *rowRules) cache(r *row) *rowCache {
	if r.plain.Load() {
		return nil
	}
	return k.cacheOf(r, *r.values.Load())
}

func (k *rowRules) cacheOf(r *row, known values) *rowCache {
	return &rowCache{rules: k, row: r, values: known, found: make(values, len(k.places))}
}

// place returns false for all other rules and functions, and for all while something is replaced by `with`.
func (c *rowCache) place(ref ast.Ref) (int, bool) {
	if c.withDepth > 0 || len(ref) != len(routeRef) || !ref.HasPrefix(packageRef) {
		return 0, false
	}
	i, ok := c.rules.places[ruleName(ref)]
	return i, ok
}

// Get implements topdown.VirtualCache.
func (c *rowCache) Get(ref ast.Ref) (value *ast.Term, isUndefined bool) {
	i, ok := c.place(ref)
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
	i, ok := c.place(ref)
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

// Keys implements topdown.VirtualCache. It is for tracers, which this cache is not used with.
func (c *rowCache) Keys() []ast.Ref { return c.others().Keys() }

// others is for all other rules and functions.
func (c *rowCache) others() topdown.VirtualCache {
	if c.other == nil {
		c.other = topdown.NewVirtualCache()
	}
	return c.other
}
