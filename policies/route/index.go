package route

import (
	"maps"
	"slices"
	"strings"
)

// AnyMethod is the method of a row for every method. Of rows for one path, it goes last.
const AnyMethod = "*"

// Index finds rows. It is safe for concurrent use once it is filled.
type Index struct {
	// HeadWithGet says that a row for GET is for HEAD too. One for HEAD goes first.
	HeadWithGet bool
	root        node
}

// node is what the patterns that begin alike go on with.
type node struct {
	methods   methods // of the patterns that end here
	literals  map[string]*node
	partials  partials
	parameter *node
	rest      methods // of the patterns that go on with a rest
}

// methods are rows by their method.
type methods map[string]int

// Add adds the row of a method and a pattern. If there is a row for the same already, Add returns that and false.
func (x *Index) Add(method string, p Pattern, row int) (before int, ok bool) {
	n := &x.root
	at := &n.methods
	for _, s := range p.segments {
		if s.kind == rest {
			at = &n.rest
			break
		}
		n = n.next(s)
		at = &n.methods
	}
	if before, ok := (*at)[method]; ok {
		return before, false
	}
	if *at == nil {
		*at = make(methods)
	}
	(*at)[method] = row
	return 0, true
}

func (n *node) next(s segment) *node {
	switch s.kind {
	case literal:
		if n.literals == nil {
			n.literals = make(map[string]*node)
		}
		if n.literals[s.texts[0]] == nil {
			n.literals[s.texts[0]] = &node{}
		}
		return n.literals[s.texts[0]]
	case partial:
		return n.partials.next(s)
	}
	if n.parameter == nil {
		n.parameter = &node{}
	}
	return n.parameter
}

// Find returns the row that a request addresses. The path is decoded segments, each behind a slash.
//
// Of the rows that match both the path and the method, the first one by their paths is it, as goesBefore has it, from the
// left. Rows of one path go by their methods: the method itself, then GET for HEAD, then AnyMethod.
func (x *Index) Find(method, path string) (row int, ok bool) {
	remaining, ok := strings.CutPrefix(path, "/")
	if !ok {
		return 0, false
	}
	return x.find(&x.root, method, remaining)
}

func (x *Index) find(n *node, method, remaining string) (int, bool) {
	text, after, more := strings.Cut(remaining, "/")
	follow := func(n *node) (int, bool) {
		if more {
			return x.find(n, method, after)
		}
		return x.of(n.methods, method)
	}
	if next := n.literals[text]; next != nil {
		if row, ok := follow(next); ok {
			return row, true
		}
	}
	if text == "" { // which no parameter is
		return 0, false
	}
	var matching [4]partialNode
	for _, p := range n.partials.matching(text, matching[:0]) {
		if row, ok := follow(p.node); ok {
			return row, true
		}
	}
	if n.parameter != nil {
		if row, ok := follow(n.parameter); ok {
			return row, true
		}
	}
	return x.of(n.rest, method)
}

func (x *Index) of(m methods, method string) (int, bool) {
	if m == nil {
		return 0, false
	}
	row, ok := m[method]
	if !ok && method == "HEAD" && x.HeadWithGet {
		row, ok = m["GET"]
	}
	if !ok {
		row, ok = m[AnyMethod]
	}
	return row, ok
}

// partials are the partial segments that follow on a node. There may be thousands, as in /things/{id}:verb, so they are found
// by the text at their two ends. How long these are differs little.
type partials struct {
	byEnds map[ends][]partialNode
	sizes  [][2]int // of the ends
}

// ends of a partial segment: the text in front of its first parameter and behind its last one.
type ends [2]string

type partialNode struct {
	segment segment
	node    *node
}

func (p *partials) next(s segment) *node {
	at := ends{s.texts[0], s.texts[len(s.texts)-1]}
	for _, known := range p.byEnds[at] {
		if known.segment.String() == s.String() {
			return known.node
		}
	}
	if p.byEnds == nil {
		p.byEnds = make(map[ends][]partialNode)
	}
	n := &node{}
	p.byEnds[at] = append(p.byEnds[at], partialNode{s, n})
	if size := [2]int{len(at[0]), len(at[1])}; !slices.Contains(p.sizes, size) {
		p.sizes = append(p.sizes, size)
	}
	return n
}

// matching appends those that match the text, the first one first. It allocates nothing while there is room in to.
func (p *partials) matching(text string, to []partialNode) []partialNode {
	for _, size := range p.sizes {
		if len(text) <= size[0]+size[1] {
			continue
		}
		for _, known := range p.byEnds[ends{text[:size[0]], text[len(text)-size[1]:]}] {
			if known.segment.matches(text) {
				to = append(to, known)
			}
		}
	}
	// Of two that are ordered, the one that matches less has more literal text.
	slices.SortFunc(to, func(a, b partialNode) int { return b.segment.literals() - a.segment.literals() })
	return to
}

// all lists them in an order that is always the same, so that errors are.
func (p *partials) all() []partialNode {
	var all []partialNode
	for _, list := range p.byEnds {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b partialNode) int { return strings.Compare(a.segment.String(), b.segment.String()) })
	return all
}

// Unordered lists pairs of rows that match one path and one method, and that nothing orders. Each pair is in ascending order. It
// lists 100 at most.
func (x *Index) Unordered() [][2]int {
	c := collisions{index: x}
	c.below(&x.root)
	for i := range c.pairs {
		slices.Sort(c.pairs[i][:])
	}
	slices.SortFunc(c.pairs, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(c.pairs)
}

// collisions collects pairs of rows that match one path and one method.
type collisions struct {
	index *Index
	pairs [][2]int
}

const maxPairs = 100

// below looks for partial segments that nothing orders.
func (c *collisions) below(n *node) {
	siblings := n.partials.all()
	for i, a := range siblings {
		for _, b := range siblings[i+1:] {
			if len(c.pairs) < maxPairs && a.segment.meets(b.segment) && a.segment.goesBefore(b.segment) == 0 {
				c.meet(a.node, b.node)
			}
		}
	}
	for _, next := range n.children() {
		c.below(next.node)
	}
}

// children are all nodes that follow on n.
func (n *node) children() []partialNode {
	all := n.partials.all()
	for _, text := range slices.Sorted(maps.Keys(n.literals)) {
		all = append(all, partialNode{segment{kind: literal, texts: []string{text}}, n.literals[text]})
	}
	if n.parameter != nil {
		all = append(all, partialNode{segment{kind: parameter, texts: []string{"", ""}}, n.parameter})
	}
	return all
}

// meet adds the rows below the two nodes that match the same end of a path.
func (c *collisions) meet(a, b *node) {
	if len(c.pairs) >= maxPairs {
		return
	}
	c.add(a.methods, b.methods)
	c.meetRest(a.rest, b)
	c.meetRest(b.rest, a)
	c.add(a.rest, b.rest)
	others := b.children()
	for _, one := range a.children() {
		for _, other := range others {
			if one.segment.meets(other.segment) {
				c.meet(one.node, other.node)
			}
		}
	}
}

// meetRest adds the rows below the node that match what a rest does, which starts with a segment that is not empty.
func (c *collisions) meetRest(m methods, n *node) {
	for _, next := range n.children() {
		if m != nil && (next.segment.kind != literal || next.segment.texts[0] != "") {
			c.meetBelow(m, next.node)
		}
	}
}

func (c *collisions) meetBelow(m methods, n *node) {
	if len(c.pairs) >= maxPairs {
		return
	}
	c.add(m, n.methods)
	c.add(m, n.rest)
	for _, next := range n.children() {
		c.meetBelow(m, next.node)
	}
}

func (c *collisions) add(a, b methods) {
	for _, m := range slices.Sorted(maps.Keys(a)) {
		for _, n := range slices.Sorted(maps.Keys(b)) {
			if c.index.ShareMethod(m, n) {
				c.pairs = append(c.pairs, [2]int{a[m], b[n]})
			}
		}
	}
}

// ShareMethod reports whether there is a request that rows of both methods are for.
func (x *Index) ShareMethod(m, n string) bool {
	return m == n || m == AnyMethod || n == AnyMethod ||
		x.HeadWithGet && (m == "HEAD" && n == "GET" || m == "GET" && n == "HEAD")
}
