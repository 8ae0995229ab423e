package route

import (
	"maps"
	"slices"
	"strings"
)

// AnyMethod is the method of a row that matches every method. Among rows of one path, such a row has the lowest precedence.
const AnyMethod = "*"

// Index finds rows. It is safe for concurrent use once all rows are added.
type Index struct {
	// HeadWithGet makes a row for GET match HEAD too. A row for HEAD has precedence.
	HeadWithGet bool
	root        node
}

// node is a node of the tree of patterns. All patterns below a node begin with the same segments.
type node struct {
	methods   methods // rows of the patterns that end at this node
	literals  map[string]*node
	partials  partials
	parameter *node
	rest      methods // rows of the patterns that continue with a rest parameter, such as {path...}
}

// methods maps a method to its row.
type methods map[string]int

// Add adds the row of a method and a pattern. If the index already has a row for this method and this pattern, Add returns that
// row and false.
func (x *Index) Add(method string, p Pattern, row int) (existing int, ok bool) {
	n := &x.root
	byMethod := &n.methods
	for _, s := range p.segments {
		if s.kind == rest {
			byMethod = &n.rest
			break
		}
		n = n.next(s)
		byMethod = &n.methods
	}
	if existing, ok := (*byMethod)[method]; ok {
		return existing, false
	}
	if *byMethod == nil {
		*byMethod = make(methods)
	}
	(*byMethod)[method] = row
	return 0, true
}

// next returns the node of the next segment. It adds the node if the node is missing.
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

// Find returns the row that a request addresses. The path consists of the decoded segments, each after a slash.
//
// Several rows may match both the path and the method. The precedence of their paths decides, segment by segment from the left:
// see segment.compare. Among rows of one path, a row for the request's method comes first. If the request's method is HEAD and
// HeadWithGet is set, a row for GET comes next. A row for AnyMethod comes last.
func (x *Index) Find(method, path string) (row int, ok bool) {
	remaining, ok := strings.CutPrefix(path, "/")
	if !ok {
		return 0, false
	}
	return x.find(&x.root, method, remaining)
}

// find returns the row below n for the remaining path, which starts with a segment.
func (x *Index) find(n *node, method, remaining string) (int, bool) {
	text, after, more := strings.Cut(remaining, "/")
	follow := func(n *node) (int, bool) {
		if more {
			return x.find(n, method, after)
		}
		return x.rowFor(n.methods, method)
	}
	if next := n.literals[text]; next != nil {
		if row, ok := follow(next); ok {
			return row, true
		}
	}
	if text == "" { // a parameter never matches an empty segment
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
	return x.rowFor(n.rest, method)
}

// rowFor returns the row for a method.
func (x *Index) rowFor(m methods, method string) (int, bool) {
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

// partials are the partial segments below a node. There may be thousands of such segments, as in /things/{id}:verb, so a map
// finds them by the literal text at both ends. These texts have few different lengths, so few searches in the map are enough.
type partials struct {
	byEnds map[ends][]partialNode
	sizes  [][2]int // distinct lengths of the ends
}

// ends are the texts of a partial segment before its first parameter and after its last parameter.
type ends [2]string

type partialNode struct {
	segment segment
	node    *node
}

// next returns the node of a partial segment. It adds the node if the node is missing.
func (p *partials) next(s segment) *node {
	key := ends{s.texts[0], s.texts[len(s.texts)-1]}
	for _, existing := range p.byEnds[key] {
		if existing.segment.String() == s.String() {
			return existing.node
		}
	}
	if p.byEnds == nil {
		p.byEnds = make(map[ends][]partialNode)
	}
	n := &node{}
	p.byEnds[key] = append(p.byEnds[key], partialNode{s, n})
	if size := [2]int{len(key[0]), len(key[1])}; !slices.Contains(p.sizes, size) {
		p.sizes = append(p.sizes, size)
	}
	return n
}

// matching appends to the slice `found` the segments that match the text, in order of precedence. It allocates nothing if the
// capacity of the slice is sufficient.
func (p *partials) matching(text string, found []partialNode) []partialNode {
	for _, size := range p.sizes {
		if len(text) <= size[0]+size[1] {
			continue
		}
		for _, existing := range p.byEnds[ends{text[:size[0]], text[len(text)-size[1]:]}] {
			if existing.segment.matches(text) {
				found = append(found, existing)
			}
		}
	}
	// If one of two matching segments has precedence, it has more literal text.
	slices.SortFunc(found, func(a, b partialNode) int { return b.segment.literalCount() - a.segment.literalCount() })
	return found
}

// all returns the segments in a fixed order, so that errors are always in the same order.
func (p *partials) all() []partialNode {
	var all []partialNode
	for _, list := range p.byEnds {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b partialNode) int { return strings.Compare(a.segment.String(), b.segment.String()) })
	return all
}

// Ambiguous returns pairs of rows that match the same request although neither row has precedence. Each pair is in ascending
// order. It returns at most maxPairs pairs.
func (x *Index) Ambiguous() [][2]int {
	c := collisions{index: x}
	c.search(&x.root)
	for i := range c.pairs {
		slices.Sort(c.pairs[i][:])
	}
	slices.SortFunc(c.pairs, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(c.pairs)
}

// collisions collects the pairs of rows for Ambiguous.
type collisions struct {
	index *Index
	pairs [][2]int
}

const maxPairs = 100

// search finds pairs of partial segments below a node. In each pair, both segments match a common text, and neither segment has
// precedence.
func (c *collisions) search(n *node) {
	siblings := n.partials.all()
	for i, a := range siblings {
		for _, b := range siblings[i+1:] {
			if len(c.pairs) < maxPairs && a.segment.intersects(b.segment) && a.segment.compare(b.segment) == 0 {
				c.addCommon(a.node, b.node)
			}
		}
	}
	for _, next := range n.children() {
		c.search(next.node)
	}
}

// children returns all nodes directly below n, with their segments.
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

// addCommon adds pairs of rows: one row below node a, and one row below node b. Both rows match the same remaining path.
func (c *collisions) addCommon(a, b *node) {
	if len(c.pairs) >= maxPairs {
		return
	}
	c.add(a.methods, b.methods)
	c.addRest(a.rest, b)
	c.addRest(b.rest, a)
	c.add(a.rest, b.rest)
	others := b.children()
	for _, one := range a.children() {
		for _, other := range others {
			if one.segment.intersects(other.segment) {
				c.addCommon(one.node, other.node)
			}
		}
	}
}

// addRest adds pairs of rows: one row of m, and one row below node n. Both rows match the same remaining path. The patterns of m
// end with a rest parameter, which never matches an empty segment as its first segment.
func (c *collisions) addRest(m methods, n *node) {
	for _, next := range n.children() {
		if m != nil && (next.segment.kind != literal || next.segment.texts[0] != "") {
			c.addBelow(m, next.node)
		}
	}
}

// addBelow adds pairs of rows: one row of m, and one row at node n or below it.
func (c *collisions) addBelow(m methods, n *node) {
	if len(c.pairs) >= maxPairs {
		return
	}
	c.add(m, n.methods)
	c.add(m, n.rest)
	for _, next := range n.children() {
		c.addBelow(m, next.node)
	}
}

// add adds pairs of rows: one row of a, and one row of b. A request can match the methods of both rows.
func (c *collisions) add(a, b methods) {
	for _, m := range slices.Sorted(maps.Keys(a)) {
		for _, n := range slices.Sorted(maps.Keys(b)) {
			if c.index.MethodsOverlap(m, n) {
				c.pairs = append(c.pairs, [2]int{a[m], b[n]})
			}
		}
	}
}

// MethodsOverlap reports whether rows of both methods can match the same request.
func (x *Index) MethodsOverlap(m, n string) bool {
	return m == n || m == AnyMethod || n == AnyMethod ||
		x.HeadWithGet && (m == "HEAD" && n == "GET" || m == "GET" && n == "HEAD")
}
