package fleet

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

const plot = "../../docs/scaling.svg"

// earlierDesign contains figures of an earlier design, in which each sidecar sent nonces (random values) through NOTIFY. The
// figures were measured with connections that only listen. They cover only the fleets for which two cores were enough.
var earlierDesign = []figure{{Sidecars: 10, Cores: 0.02}, {Sidecars: 50, Cores: 0.12}, {Sidecars: 100, Cores: 0.36}}

// The plot and the tables in docs/scaling.md match the figures. `make fleet` updates the plot, but the tables must be copied by
// hand.
func TestDocsShowTheFigures(t *testing.T) {
	var all, pooled []figure
	for _, m := range readFigures(t) {
		if m.Pooled > 0 {
			pooled = append(pooled, m)
		} else {
			all = append(all, m)
		}
	}
	drawn := draw(all)
	if *sizes != "" {
		if err := os.WriteFile(plot, []byte(drawn), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log("\n" + table(all) + "\n" + pooledTable(pooled))
	}
	if text, err := os.ReadFile(plot); err != nil || string(text) != drawn {
		t.Errorf("%s does not match the figures (%v): run make fleet", plot, err)
	}
	text, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{table(all), pooledTable(pooled)} {
		if !strings.Contains(string(text), want) {
			t.Errorf("docs/scaling.md does not contain this table: copy it\n%s", want)
		}
	}
}

func table(all []figure) string {
	var b strings.Builder
	b.WriteString("| sidecars | bound | hints | Postgres, cores | comparison: Postgres, cores, only `SELECT 1` | CPU per poll | polls/s | connections per sidecar | delay of a change: p50, p99 | comparison: p99, only LISTEN | missed changes | Postgres, cores, with 3 changes/s |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, m := range all {
		hints, bare := "off", ""
		if m.Hints {
			hints, bare = "on", fmt.Sprintf("%.0f ms", m.BareP99)
		}
		polls := ""
		if m.BareCores > 0 { // only the largest fleets are compared with connections that run SELECT 1
			polls = fmt.Sprintf("%.2f", m.BareCores)
		}
		staleness := m.Bound
		if m.Note != "" {
			staleness += " †"
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %.2f | %s | %.0f µs | %.0f | %.1f | %.0f ms, %.0f ms | %s | %d | %.2f |\n",
			m.Sidecars, staleness, hints, m.Cores, polls, 1e6*m.Cores/m.Polls, m.Polls, m.Connections, m.P50, m.P99, bare, m.Missed, m.ChangingCores)
	}
	return b.String()
}

// pooledTable returns the table of fleets with some sidecars behind a pooler.
func pooledTable(all []figure) string {
	var b strings.Builder
	b.WriteString("| sidecars | behind PgBouncer | connections of PgBouncer | connections per other sidecar | Postgres, cores | PgBouncer, cores | delay behind PgBouncer: p50, p99 | delay for others: p50, p99 | missed changes |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, m := range all {
		fmt.Fprintf(&b, "| %d | %d | %d | %.1f | %.2f | %.2f | %.0f ms, %.0f ms | %.0f ms, %.0f ms | %d |\n", m.Sidecars, m.Pooled,
			m.PoolerConnections, m.Connections, m.Cores, m.PoolerCores, m.PooledP50, m.PooledP99, m.P50, m.P99, m.Missed)
	}
	return b.String()
}

// The edges of the plot's frame in pixels, and the smallest and largest values of its axes.
const (
	left, right, top, bottom = 70.0, 600.0, 20.0, 340.0
	fewest, most             = 10.0, 1000.0 // sidecars
	least, highest           = 0.01, 2.0    // cores
)

func x(sidecars float64) float64 {
	return left + (right-left)*math.Log(sidecars/fewest)/math.Log(most/fewest)
}

func y(cores float64) float64 {
	return bottom - (bottom-top)*math.Log(cores/least)/math.Log(highest/least)
}

// draw plots the cores of Postgres over the sidecars, both on logarithmic scales.
func draw(all []figure) string {
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 400" font-family="sans-serif" font-size="12">`)
	put(`<title>Cores that Postgres uses at rest, by number of sidecars</title>`)
	put(`<rect width="780" height="400" fill="white"/>`)
	for _, n := range []float64{10, 50, 100, 200, 500, 1000} {
		put(`<path d="M%.1f %.1fV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%v</text>`, x(n), top, bottom, x(n), bottom+18, n)
	}
	for _, c := range []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2} {
		put(`<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%v</text>`, left, y(c), right, left-6, y(c)+4, c)
	}
	put(`<text x="%.1f" y="%.1f" text-anchor="middle">sidecars</text>`, (left+right)/2, bottom+42)
	put(`<text transform="translate(22 %.1f) rotate(-90)" text-anchor="middle">cores of Postgres at rest</text>`, (top+bottom)/2)

	line := func(name, color, dash string, figures []figure, label float64) {
		var path strings.Builder
		for i, m := range figures {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x(float64(m.Sidecars)), y(m.Cores))
			put(`<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, x(float64(m.Sidecars)), y(m.Cores), color)
		}
		put(`<path d="%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`, path.String(), color, dash)
		put(`<path d="M%.1f %.1fh24" stroke="%s" stroke-width="2" stroke-dasharray="%s"/><text x="%.1f" y="%.1f">%s</text>`,
			right+10, label-4, color, dash, right+40, label, name)
	}
	var on, off []figure
	for _, m := range all {
		switch {
		case m.Bound != "1s":
			put(`<circle cx="%.1f" cy="%.1f" r="3.5" fill="none" stroke="#0072b2" stroke-width="2"/>`, x(float64(m.Sidecars)), y(m.Cores))
			put(`<text x="%.1f" y="%.1f" text-anchor="end" font-size="11">bound %s</text>`, x(float64(m.Sidecars))-8, y(m.Cores)+4, m.Bound)
		case m.Hints:
			on = append(on, m)
		default:
			off = append(off, m)
		}
	}
	line("log, hints on", "#d55e00", "none", on, 40)
	line("log, hints off", "#0072b2", "none", off, 60)
	line("earlier: nonces", "#777", "6 4", earlierDesign, 80)
	// With more sidecars, the nonces of the earlier design arrived late. The cost of this design was at least all available
	// processors.
	put(`<path d="M%.1f %.1fL%.1f %.1fH%.1f" fill="none" stroke="#777" stroke-width="2" stroke-dasharray="2 4"/>`,
		x(100), y(0.36), x(200), y(highest), x(400))
	for _, n := range []float64{200, 400} {
		put(`<path d="M%.1f %.1fl8 8m0 -8l-8 8" stroke="#777" stroke-width="2"/>`, x(n)-4, y(highest)-4)
	}
	put(`<text x="%.1f" y="96" font-size="11">× saturated: 490 of</text>`, right+40)
	put(`<text x="%.1f" y="110" font-size="11">800 nonces at 200,</text>`, right+40)
	put(`<text x="%.1f" y="124" font-size="11">285 of 1,600 at 400</text>`, right+40)
	put(`</svg>`)
	return b.String()
}
