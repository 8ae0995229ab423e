package policies

import (
	"slices"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// known are rules that have one value for each row, such as public and allowed of keywicket/decision.rego. They read nothing of the
// input but what the rule route finds with it. Their values are kept with the row, so that a decision does not evaluate them again.
type known struct {
	places map[string]int // name of a rule in the package keywicket → its place in values
}

// values are those of the known rules. One that was not needed yet is nil.
type values []*ast.Term

// undefined stands for the value of a rule that has none.
var undefined = ast.NullTerm()

// row is one of a table, as keywicket/route.rego makes it.
type row struct {
	number int       // among the rows of all tables, from 1 on; 0: none
	term   *ast.Term // nil: the request addresses no row
	values atomic.Pointer[values]
}

var (
	packageRef = ast.MustParseRef("data.keywicket")
	routeRef   = ast.MustParseRef("data.keywicket.route")
)

// knownRules finds them in the compiled rules.
func knownRules(compiler *ast.Compiler) *known {
	k := &known{places: map[string]int{ruleName(routeRef): 0}}
	same := map[*ast.Rule]bool{}
	for _, rule := range compiler.GetRules(routeRef) {
		same[rule] = true
	}
	for _, module := range compiler.Modules {
		if !module.Package.Path.Equal(packageRef) {
			continue
		}
		for _, rule := range module.Rules {
			ref := rule.Ref()
			if _, ok := k.places[ruleName(ref)]; ok || len(ref) != len(packageRef)+1 || rule.Head.RuleKind() != ast.SingleValue || len(rule.Head.Args) > 0 {
				continue
			}
			if all := compiler.GetRules(ref); !slices.ContainsFunc(all, func(r *ast.Rule) bool { return !r.Ref().Equal(ref) || !isSame(compiler, r, same) }) {
				k.places[ruleName(ref)] = len(k.places)
			}
		}
	}
	return k
}

// isSame reports whether a rule has one value for each row. Those of which it is known already are in a map.
func isSame(compiler *ast.Compiler, rule *ast.Rule, same map[*ast.Rule]bool) bool {
	if is, ok := same[rule]; ok {
		return is
	}
	is := true
	ast.WalkWiths(rule, func(*ast.With) bool {
		is = false // it may replace what route reads
		return true
	})
	ast.WalkRefs(rule, func(r ast.Ref) bool {
		is = is && !r[0].Equal(ast.InputRootDocument) && !changes(r)
		return !is
	})
	for other := range compiler.Graph.Dependencies(rule) {
		is = is && isSame(compiler, other.(*ast.Rule), same)
	}
	same[rule] = is
	return is
}

func ruleName(ref ast.Ref) string {
	s, _ := ref[len(ref)-1].Value.(ast.String)
	return string(s)
}

// newRow has a term, or nil for a request without a row.
func (k *known) newRow(number int, term *ast.Term) *row {
	r := &row{number: number, term: term}
	first := make(values, len(k.places))
	if first[0] = term; term == nil {
		first[0] = undefined
	}
	r.values.Store(&first)
	return r
}

// learn keeps values that an evaluation has found.
func (r *row) learn(found values) {
	for found != nil {
		before := r.values.Load()
		after := slices.Clone(*before)
		for i, v := range found {
			if v != nil {
				after[i] = v
			}
		}
		if r.values.CompareAndSwap(before, &after) {
			return
		}
	}
}

// cache gives OPA the known values in one evaluation, as if it had found them in it.
type cache struct {
	topdown.VirtualCache // of other rules, and of all while something is replaced by `with`
	known                *known
	values               values // of the row
	found                values // in this evaluation, which may still fail
	replaced             int    // levels of `with`
}

func (k *known) cache(r *row) *cache {
	return &cache{VirtualCache: topdown.NewVirtualCache(), known: k, values: *r.values.Load()}
}

func (c *cache) Push() {
	c.replaced++
	c.VirtualCache.Push()
}

func (c *cache) Pop() {
	c.replaced--
	c.VirtualCache.Pop()
}

// place is the one of a known rule that has the reference.
func (c *cache) place(ref ast.Ref) (int, bool) {
	if c.replaced > 0 || len(ref) != len(packageRef)+1 || !ref.HasPrefix(packageRef) {
		return 0, false
	}
	i, ok := c.known.places[ruleName(ref)]
	return i, ok
}

func (c *cache) Get(ref ast.Ref) (value *ast.Term, isUndefined bool) {
	i, ok := c.place(ref)
	if !ok {
		return c.VirtualCache.Get(ref)
	}
	value = c.values[i]
	if value == nil && c.found != nil {
		value = c.found[i]
	}
	if value == undefined {
		return nil, true
	}
	return value, false
}

func (c *cache) Put(ref ast.Ref, value *ast.Term) {
	i, ok := c.place(ref)
	if !ok {
		c.VirtualCache.Put(ref, value)
		return
	}
	if value == nil {
		value = undefined
	}
	if c.found == nil {
		c.found = make(values, len(c.values))
	}
	c.found[i] = value
}
