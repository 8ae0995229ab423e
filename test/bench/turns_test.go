package bench

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"
)

// comparedServer is a server that the benchmark compares with other servers, in turn.
type comparedServer struct {
	*server
	want  int     // the status of its answers
	envoy *server // the Envoy in front of it; nil: checks go to the server directly
	plan  string  // plan of this server; empty: the load's plan
	next  int     // position in the plan at which the next turn starts
}

// pairOf returns two servers that take turns; the second one is the base of the comparison.
func pairOf(one, other *server) []*comparedServer {
	return []*comparedServer{{server: one, want: 200}, {server: other, want: 200}}
}

// loadFor returns the load for this server.
func (s *comparedServer) loadFor(l load) load {
	l.Address, l.Want = s.address, s.want
	l.Plan, l.From = cmp.Or(s.plan, l.Plan), s.next
	if s.envoy != nil {
		l.Address, l.HTTP = s.envoy.address, true
	}
	return l
}

// inTurns runs the load on the servers in turns, so that other activity of the machine affects all servers. The parameter `sides`
// contains the compared servers.
func (w *setup) inTurns(ctx context.Context, t *testing.T, name string, sides []*comparedServer, rounds int, l load) caseFigures {
	t.Helper()
	c := newCase(name)
	c.Base = sides[min(1, len(sides)-1)].name
	for _, s := range sides { // so that no turn includes the time to connect
		l := s.loadFor(l)
		l.Checks, l.Rate, l.For = 500, 0, 0
		w.client.run(t, l)
	}
	for round := range rounds {
		w.round(ctx, t, &c, round, sides, l)
	}
	return c
}

// round runs one turn of each server. In each round, another server starts. The function returns how many checks the first
// server of the list has answered.
func (w *setup) round(ctx context.Context, t *testing.T, c *caseFigures, round int, sides []*comparedServer, l load) (checks int) {
	t.Helper()
	l.For = cmp.Or(l.For, *turn)
	for i := range sides {
		s := sides[(i+round)%len(sides)]
		if ctx.Err() != nil {
			t.Fatal("interrupted")
		}
		before := s.cpu(t)
		var envoy time.Duration
		if s.envoy != nil {
			envoy = s.envoy.cpu(t)
		}
		r := w.client.run(t, s.loadFor(l))
		perCheck := func(used time.Duration) float64 { return float64(used.Nanoseconds()) / 1e3 / float64(r.Checks) }
		c.add(s.name, cpu, perCheck(s.cpu(t)-before))
		c.add(s.name, clientCPU, perCheck(r.CPU))
		c.add(s.name, checkRate, r.perSecond())
		if s.envoy != nil {
			c.add(s.name, envoyCPU, perCheck(s.envoy.cpu(t)-envoy))
		}
		if l.Details {
			c.add(s.name, p50, microseconds(r.P50))
			c.add(s.name, p99, microseconds(r.P99))
		}
		s.next += r.Checks
		if s == sides[0] {
			checks = r.Checks
		}
	}
	return checks
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// issuesPlan returns a plan of requests GET /api/issues/{id}, one for each offset. The number of the token of a request is the
// sum of `from` and the offset.
func (w *setup) issuesPlan(name string, from int64, offsets []int) plan {
	p := plan{Name: name, Templates: w.templates}
	route := w.route("GET", "/api/issues/{id}")
	for _, offset := range offsets {
		p.Entries = append(p.Entries, planEntry{from + int64(offset), route})
	}
	return p
}

func (w *setup) route(method, path string) int {
	for i, e := range w.endpoints {
		if e == (endpoint{method, path}) {
			return i
		}
	}
	panic("the table has no row for " + method + " " + path)
}

// mayUse reports whether a token with issues:read and the set of scopes may use the endpoint.
func (w *setup) mayUse(set, endpoint int) bool {
	scopes := append(scopesOf(set), "issues:read")
	for _, needed := range w.needs[endpoint] {
		if !slices.Contains(scopes, needed) {
			return false
		}
	}
	return true
}
