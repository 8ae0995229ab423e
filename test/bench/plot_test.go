package bench

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// plot is a line diagram, with logarithmic scales by default.
type plot struct {
	file           string
	Title          string
	xLabel, yLabel string // labels of the axes
	linearX        bool
	linearY        bool
	marksX, marksY []float64 // values on the axes; the first and the last are the ends
	lines          []line
}

type line struct {
	name   string
	color  string
	dashed bool
	points [][2]float64
}

// Colour-blind readers can distinguish these colours.
const (
	blue   = "#0072b2"
	orange = "#d55e00"
	green  = "#009e73"
	grey   = "#777"
)

// The frame, in pixels.
const (
	left, right, top, bottom = 80.0, 560.0, 40.0, 340.0
	width, height            = 780, 400
)

func (p plot) x(v float64) float64 { return scale(v, p.marksX, p.linearX, left, right) }
func (p plot) y(v float64) float64 { return scale(v, p.marksY, p.linearY, bottom, top) }

func scale(v float64, marks []float64, linear bool, from, to float64) float64 {
	first, last := marks[0], marks[len(marks)-1]
	if linear {
		return from + (to-from)*(v-first)/(last-first)
	}
	return from + (to-from)*math.Log(v/first)/math.Log(last/first)
}

func (p plot) draw() string {
	var b strings.Builder
	put := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`, width, height)
	put(`<title>%s</title>`, p.Title)
	put(`<rect width="%d" height="%d" fill="white"/>`, width, height)
	put(`<text x="%.1f" y="22" font-size="14">%s</text>`, left, p.Title)
	for _, v := range p.marksX {
		put(`<path d="M%.1f %.1fV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, p.x(v), top, bottom, p.x(v), bottom+18, humanize.Commaf(v))
	}
	for _, v := range p.marksY {
		put(`<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`, left, p.y(v), right, left-6, p.y(v)+4, humanize.Commaf(v))
	}
	put(`<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, (left+right)/2, bottom+42, p.xLabel)
	put(`<text transform="translate(22 %.1f) rotate(-90)" text-anchor="middle">%s</text>`, (top+bottom)/2, p.yLabel)
	for i, l := range p.lines {
		dash := "none"
		if l.dashed {
			dash = "6 4"
		}
		var path strings.Builder
		for i, point := range l.points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], p.x(point[0]), p.y(point[1]))
			if !l.dashed {
				put(`<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, p.x(point[0]), p.y(point[1]), l.color)
			}
		}
		put(`<path d="%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`, path.String(), l.color, dash)
		at := top + 20*float64(i+1)
		put(`<path d="M%.1f %.1fh24" stroke="%s" stroke-width="2" stroke-dasharray="%s"/><text x="%.1f" y="%.1f">%s</text>`,
			right+10, at-4, l.color, dash, right+40, at, l.name)
	}
	put(`</svg>`)
	return b.String()
}

// plots returns the plots for which there are figures.
func plots(all []figure) (drawn []plot) {
	for _, p := range []plot{latencyPlot(all), callersPlot(all), flatPlot(all)} {
		if len(p.lines) > 0 {
			drawn = append(drawn, p)
		}
	}
	return drawn
}

// latencyPlot shows the latency over the rate, through Envoy.
func latencyPlot(all []figure) plot {
	p := plot{
		file: "latency.svg", Title: "Latency through Envoy, open loop", xLabel: "requests/s", yLabel: "µs, from the planned start of a request",
		linearX: true,
	}
	f, ok := find(all, "rates")
	if !ok {
		return p
	}
	for _, s := range []struct{ server, name, color string }{{"keywicket", "keywicket", orange}, {"no-op", "no-op, same response", blue}, {noFilter, noFilter, grey}} {
		for _, q := range []quantity{p99, p50} {
			l := line{name: s.name + ", " + strings.TrimSuffix(string(q), " µs"), color: s.color, dashed: q == p50}
			for _, c := range f.Cases {
				l.points = append(l.points, [2]float64{leadingNumber(c.Name), c.median(s.server, q)})
			}
			p.lines = append(p.lines, l)
		}
	}
	p.marksX, p.marksY = marks(p.lines, 0, true), marks(p.lines, 1, false)
	return p
}

// callersPlot shows the CPU of a warm check over the number of callers.
func callersPlot(all []figure) plot {
	p := plot{file: "callers.svg", Title: "CPU of a warm check", xLabel: "callers", yLabel: "µs", linearY: true}
	f, ok := find(all, "callers")
	if !ok {
		return p
	}
	for _, s := range []struct{ server, color string }{{"keywicket", orange}, {"no-op", blue}} {
		l := line{name: s.server, color: s.color}
		for _, c := range f.Cases {
			l.points = append(l.points, [2]float64{leadingNumber(c.Name), c.median(s.server, cpu)})
		}
		p.lines = append(p.lines, l)
	}
	for _, point := range p.lines[0].points {
		p.marksX = append(p.marksX, point[0])
	}
	p.marksY = marks(p.lines, 1, true)
	return p
}

// flatPlot shows the CPU of a check as a ratio to the CPU with the fewest routes or tokens.
func flatPlot(all []figure) plot {
	p := plot{
		file: "flat.svg", Title: "CPU of a check ÷ CPU of a check with the fewest routes or tokens", xLabel: "routes or tokens", yLabel: "ratio",
		linearY: true, marksX: []float64{10, 100, 1000, 10_000, 100_000, 1_000_000}, marksY: []float64{0, .2, .4, .6, .8, 1, 1.2, 1.4},
	}
	for _, s := range []struct{ row, caseName, name, color string }{
		{"routes", "16 callers", "routes", orange},
		{"tokens", "16 callers", "warm tokens", blue},
		{"stored", "no cache, 16 callers", "stored tokens, no cache", green},
	} {
		f, ok := find(all, s.row)
		if !ok {
			continue
		}
		for _, c := range f.Cases {
			if c.Name != s.caseName {
				continue
			}
			l := line{name: s.name, color: s.color}
			for _, server := range serversOf(c) {
				ratio := 1.0
				if server != c.Base {
					ratio = c.ratio(server, cpu)
				}
				l.points = append(l.points, [2]float64{leadingNumber(server), ratio})
			}
			p.lines = append(p.lines, l)
		}
	}
	if len(p.lines) > 0 {
		p.lines = append(p.lines, line{name: "goal", color: grey, dashed: true, points: [][2]float64{{10, 1.2}, {1_000_000, 1.2}}})
		for highest := largestValue(p.lines, 1); p.marksY[len(p.marksY)-1] < highest; {
			p.marksY = append(p.marksY, p.marksY[len(p.marksY)-1]+.2)
		}
	}
	return p
}

// leadingNumber returns the number at the start of a name.
func leadingNumber(name string) float64 {
	number, _, _ := strings.Cut(strings.ReplaceAll(name, ",", ""), " ")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		panic(err)
	}
	return v
}

func largestValue(lines []line, axis int) (v float64) {
	for _, l := range lines {
		for _, point := range l.points {
			v = max(v, point[axis])
		}
	}
	return v
}

// marks returns round numbers for an axis. The last number is not less than the largest value. On a linear scale, the first
// number is 0. On a logarithmic scale, the first number is not greater than the smallest value.
func marks(lines []line, axis int, linear bool) (all []float64) {
	highest := largestValue(lines, axis)
	if linear {
		step := math.Pow(10, math.Floor(math.Log10(highest)))
		for _, part := range []float64{.1, .2, .5, 1} {
			if highest/(part*step) <= 8 {
				step *= part
				break
			}
		}
		for v := 0.0; ; v += step {
			all = append(all, v)
			if v >= highest {
				return all
			}
		}
	}
	lowest := highest
	for _, l := range lines {
		for _, point := range l.points {
			lowest = min(lowest, point[axis])
		}
	}
	for power := math.Pow(10, math.Floor(math.Log10(lowest))); ; power *= 10 {
		for _, digit := range []float64{1, 2, 5} {
			all = append(all, digit*power)
			if digit*power >= highest {
				first := slices.IndexFunc(all, func(v float64) bool { return v > lowest })
				return all[max(0, first-1):]
			}
		}
	}
}
