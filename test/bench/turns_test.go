package bench

import (
	"context"
	"slices"
	"testing"
)

// compared is one of two servers that take turns.
type compared struct {
	*server
	want int // the status that it answers with
}

// both are the servers whose figures are divided, the first by the second.
func both(one, other *server) []*compared { return []*compared{{one, 200}, {other, 200}} }

// inTurns has each side make the load in turns, so that what else the machine does is in the figures of both.
func (w *world) inTurns(ctx context.Context, t *testing.T, name string, sides []*compared, l load) kase {
	t.Helper()
	c := newCase(name)
	for round := range *rounds {
		w.round(ctx, t, &c, round, sides, l)
	}
	return c
}

// round is a turn of each side, and returns how many checks the first one has answered. They begin by turns.
func (w *world) round(ctx context.Context, t *testing.T, c *kase, round int, sides []*compared, l load) (checks int) {
	t.Helper()
	for i := range sides {
		s := sides[(i+round)%len(sides)]
		if ctx.Err() != nil {
			t.Fatal("interrupted")
		}
		l.Address, l.Want, l.For = s.address, s.want, *turn
		before := s.cpu(t)
		r := w.client.run(t, l)
		used := s.cpu(t) - before
		c.add(s.name+cpu, float64(used.Nanoseconds())/1e3/float64(r.Checks))
		c.add(s.name+answers, r.perSecond())
		if s == sides[0] {
			checks = r.Checks
		}
	}
	return checks
}

// issues is a plan of GET /api/issues/{id} with a token of each set of scopes.
func (w *world) issues(name string, from int64, sets []int) plan {
	p := plan{Name: name, Forms: w.forms}
	route := w.route("GET", "/api/issues/{id}")
	for _, set := range sets {
		p.Asks = append(p.Asks, question{from + int64(set), route})
	}
	return p
}

func (w *world) route(method, path string) int {
	for i, e := range w.endpoints {
		if e == (endpoint{method, path}) {
			return i
		}
	}
	panic("no row of the table is for " + method + " " + path)
}

// may says whether a token with issues:read and the set of scopes may use the endpoint.
func (w *world) may(set, endpoint int) bool {
	scopes := append(scopesOf(set), "issues:read")
	for _, needed := range w.needs[endpoint] {
		if !slices.Contains(scopes, needed) {
			return false
		}
	}
	return true
}
