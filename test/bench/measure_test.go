package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/policies"
)

var (
	rows      = flag.String("rows", "", "rows to measure, such as warm,denial; quick: all rows that take seconds; all: all rows; none: only update the document")
	rounds    = flag.Int("rounds", 21, "number of turns of each server")
	turn      = flag.Duration("turn", 250*time.Millisecond, "length of a turn")
	keywicket = flag.String("keywicket", "", "keywicket binary to measure; empty: build this tree")
)

// benchmark is what `make bench-envoy ROWS=NAME` measures. The table of goals has one or more rows for most benchmarks.
type benchmark struct {
	name    string
	long    bool // the benchmark takes minutes
	measure func(ctx context.Context, t *testing.T, w *setup) []caseFigures
}

var benchmarks = []benchmark{
	{name: "control", measure: control},
	{name: "warm", measure: warm},
	{name: "headers", measure: headers},
	{name: "first", measure: first},
	{name: "evaluated", measure: evaluated},
	{name: "denial", measure: denial},
	{name: "unix", measure: unixSocket},
	{name: "half", measure: halfCore},
	{name: "envoy", measure: oneWorker},
	{name: "workers", measure: workers},
	{name: "latency", measure: halfOfSaturation},
	{name: "cold", measure: cold},
	{name: "rest", measure: idleMemory},
	{name: "memory", long: true, measure: memory},
	{name: "start", measure: startTime},
	{name: "routes", measure: flatRoutes},
	{name: "callers", measure: flatCallers},
	{name: "tokens", long: true, measure: flatWarm},
	{name: "stored", long: true, measure: flatStored},
	{name: "growth", long: true, measure: memoryGrowth},
	{name: "rates", long: true, measure: rates},
}

// TestMeasure runs the benchmarks in the flag -rows. The figures are valid only on an otherwise idle machine. The benchmark
// "control" shows whether the machine is idle.
func TestMeasure(t *testing.T) {
	switch *rows {
	case "":
		t.Skip("make bench-envoy measures")
	case "none":
		publish(t)
		return
	}
	// An interrupt ends the current benchmark. The test then stops all processes and removes all files, as after a failure.
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if end, ok := t.Deadline(); ok { // at its deadline, go test kills the process without cleaning up
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-time.Minute))
		defer cancel()
	}
	chosen := choose(t, *rows)
	w := newSetup(t, *keywicket)
	defer context.AfterFunc(ctx, w.client.stop)() // the client may be in the middle of a long load
	for _, r := range chosen {
		t.Run(r.name, func(t *testing.T) {
			if ctx.Err() != nil {
				t.Skip("interrupted")
			}
			f := w.newFigure(t, r.name)
			f.Cases = r.measure(ctx, t, w)
			saveFigure(t, f)
			publish(t)
			t.Log("\n" + describe(f))
		})
	}
}

func choose(t *testing.T, names string) (chosen []benchmark) {
	t.Helper()
	for name := range strings.SplitSeq(names, ",") {
		before := len(chosen)
		for _, r := range benchmarks {
			if name == r.name || name == "all" || name == "quick" && !r.long {
				chosen = append(chosen, r)
			}
		}
		if len(chosen) == before {
			t.Fatalf("unknown row %q", name)
		}
	}
	return chosen
}

var callers = []int{4, 16}

// fewerRounds returns the number of rounds for benchmarks that are slow or have no goal.
func fewerRounds() int { return max(1, *rounds/4) }

// control compares the no-op server with a second one. It shows the error of the measurement: the reported difference of two equal
// servers.
func control(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	one, other := w.noop(t, "", ""), w.noop(t, "", "")
	one.name = "no-op, again"
	w.client.storePlan(t, w.issuesPlan("warm", variedTokens, smallSets(rotation)))
	for _, n := range callers {
		cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%d callers", n), pairOf(one, other), *rounds, load{Plan: "warm", Callers: n}))
	}
	return cases
}

// warm measures checks of cached tokens. Each check is for a random issue.
func warm(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	sides := pairOf(w.keywicket(t), w.noop(t, "", ""))
	p := w.issuesPlan("warm", variedTokens, smallSets(rotation))
	w.warm(ctx, t, sides[0].server, p, 200)
	for _, n := range callers {
		cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%d callers", n), sides, *rounds, load{Plan: "warm", Callers: n}))
	}
	return cases
}

// headers measures the benchmark "warm" with every request header in the check. Envoy sends all headers if allowed_headers is
// not set.
func headers(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	sides := pairOf(w.keywicket(t), w.noop(t, "", ""))
	p := w.issuesPlan("headers", variedTokens, smallSets(rotation))
	p.Templates = captureChecks(t, w.endpoints, true)
	w.warm(ctx, t, sides[0].server, p, 200)
	for _, n := range callers {
		name := fmt.Sprintf("%d callers, checks of %.1f KiB", n, float64(len(p.Templates[p.Entries[0].Template].Text))/1024)
		cases = append(cases, w.inTurns(ctx, t, name, sides, *rounds, load{Plan: "headers", Callers: n}))
	}
	return cases
}

// denial measures a 401 for a token that is cached as unknown, and a 403 for a token without the scope.
func denial(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	sides := pairOf(w.keywicket(t), w.noop(t, "", ""))
	sets := smallSets(rotation + 1)[1:]
	for _, c := range []struct {
		name     string
		from     int64
		want     int
		caseName string
	}{
		{"unknown", unknownTokens, 401, "401 unknown"}, {"missing", unscopedTokens, 403, "403 missing_scope"},
	} {
		w.warm(ctx, t, sides[0].server, w.issuesPlan(c.name, c.from, sets), c.want)
		for _, n := range callers {
			sides[0].want = c.want
			cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%s, %d callers", c.caseName, n), sides, *rounds, load{Plan: c.name, Callers: n}))
		}
	}
	return cases
}

// first measures the first decision of a token on a route.
func first(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	return w.firstDecisions(ctx, t)
}

// evaluated measures the benchmark "first" with a rule that prevents tokens from sharing decisions. So OPA evaluates each
// decision.
func evaluated(ctx context.Context, t *testing.T, w *setup) []caseFigures {
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Builtin); err != nil {
		t.Fatal(err)
	}
	const rule = `package keywicket

deny contains {"code": "FORBIDDEN", "reason": "missing_scope"} if count(input.principal.scopes) > 1000
`
	if err := os.WriteFile(filepath.Join(dir, "keywicket", "own.rego"), []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	return w.firstDecisions(ctx, t, "KEYWICKET_POLICIES_DIR="+dir)
}

// firstDecisions measures the first decision for each pair of a token and a route. Before this decision, a check of another
// route has cached the token, and another token has used the route. No two tokens have the same scopes. When no unused pair
// is left, firstDecisions restarts the sidecar.
func (w *setup) firstDecisions(ctx context.Context, t *testing.T, settings ...string) (cases []caseFigures) {
	t.Helper()
	const warmRoute = 0 // GET /api/issues
	byScopes := smallSets(sets)
	slices.Reverse(byScopes) // tokens with many scopes come first, because they may use many routes
	pairs := plan{Name: "first", Templates: w.templates}
	routesOnce := plan{Name: "routes", Templates: w.templates}
	warmTokens := plan{Name: "known", Templates: w.templates}
	for n, set := range byScopes {
		warmTokens.Entries = append(warmTokens.Entries, planEntry{int64(variedTokens + set), warmRoute})
		// The first few tokens use every route once.
		for route := range w.endpoints {
			if n < len(w.endpoints) && route != warmRoute && w.mayUse(set, route) {
				routesOnce.Entries = append(routesOnce.Entries, planEntry{int64(variedTokens + set), route})
			}
		}
	}
	// Two consecutive pairs have different routes and different tokens.
	for shift := range len(w.endpoints) {
		for n, set := range byScopes[len(w.endpoints):] {
			if route := (n + shift) % len(w.endpoints); route != warmRoute && w.mayUse(set, route) {
				pairs.Entries = append(pairs.Entries, planEntry{int64(variedTokens + set), route})
			}
		}
	}
	w.client.storePlan(t, pairs)
	w.client.storePlan(t, routesOnce)
	noopServer := w.noop(t, "", "")
	w.client.run(t, load{Plan: "first", Address: noopServer.address, Callers: 1, Checks: 500, Want: 200})
	var sides []*comparedServer
	restart := func() {
		if sides != nil {
			if err := sides[0].Stop(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		sides = pairOf(w.keywicket(t, settings...), noopServer)
		w.warm(ctx, t, sides[0].server, warmTokens, 200)
		w.client.run(t, load{Plan: "routes", Address: sides[0].address, Callers: 1, Checks: len(routesOnce.Entries), Want: 200})
	}
	restart()
	next, last := 0, 0
	for _, callers := range callers {
		c := newCase(fmt.Sprintf("%d callers", callers))
		c.Base = noopServer.name
		for round := range *rounds {
			if len(pairs.Entries)-next < last*3/2 {
				restart()
				next = 0
			}
			sides[0].next, sides[1].next = next, next
			// A repeated pair would not be a first decision.
			last = w.round(ctx, t, &c, round, sides, load{Plan: "first", Callers: callers, Checks: len(pairs.Entries) - next})
			next += last
		}
		cases = append(cases, c)
	}
	return cases
}

// unixSocket measures the benchmark "warm" over a Unix socket.
func unixSocket(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	dir := t.TempDir()
	sides := pairOf(w.keywicket(t, "KEYWICKET_LISTEN_GRPC=unix://"+filepath.Join(dir, "keywicket")), w.noop(t, "unix://"+filepath.Join(dir, "noop"), ""))
	w.warm(ctx, t, sides[0].server, w.issuesPlan("warm", variedTokens, smallSets(rotation)), 200)
	for _, n := range callers {
		cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%d callers", n), sides, *rounds, load{Plan: "warm", Callers: n}))
	}
	return cases
}

// halfCore measures the benchmark "warm" with each server limited to half of a processor. The latencies include whole periods
// in which the limit stops the server.
func halfCore(ctx context.Context, t *testing.T, w *setup) (cases []caseFigures) {
	w.cgroup = newGroupFactory(t, 0.5)
	defer func() { w.cgroup = nil }()
	sides := pairOf(w.keywicket(t), w.noop(t, "", ""))
	w.warm(ctx, t, sides[0].server, w.issuesPlan("warm", variedTokens, smallSets(rotation)), 200)
	for _, n := range callers {
		cases = append(cases, w.inTurns(ctx, t, fmt.Sprintf("%d callers", n), sides, fewerRounds(), load{Plan: "warm", Callers: n, For: 4 * *turn, Details: true}))
	}
	return cases
}
