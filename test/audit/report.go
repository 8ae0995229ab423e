package audit

import (
	"cmp"
	"fmt"
	"html"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// row counts the changes and the requests of one fault, or of one kind of change.
type row struct {
	changes, requests, ambiguous, violations, wrongDenials, unexpected, unavailable int

	worst    time.Duration // the worst staleness
	recovery time.Duration // the time from the healing of a fault until the last 503 that the fault caused
}

func (r *row) count(j judgement) {
	r.requests++
	if j.ambiguous {
		r.ambiguous++
	}
	switch j.verdict {
	case noAnswer:
		r.unavailable++
	case unexpected:
		r.unexpected++
	}
}

func (r *row) countWrong(v verdict) {
	switch v {
	case violation:
		r.violations++
	case wrongDenial:
		r.wrongDenials++
	}
}

// finding is a wrong answer.
type finding struct {
	request
	judgement
	changeKind, fault string // the kind of the change that the answer had to reflect, and the fault at that time
}

// report is the judge's result for a history.
type report struct {
	bound               time.Duration
	total               row
	faults, changeKinds map[string]*row
	findings            []finding
}

func rowOf(rows map[string]*row, name string) *row {
	if rows[name] == nil {
		rows[name] = &row{}
	}
	return rows[name]
}

// judgeAll judges a complete history. It adds each change to the row of the fault during which the change was made. It adds a
// wrong answer to the row of the change that the answer did not reflect.
func judgeAll(h *history, bound time.Duration) *report {
	p := &report{bound: bound, faults: map[string]*row{}, changeKinds: map[string]*row{}}
	slices.SortStableFunc(h.spans, func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	requestsOf := make([][]request, len(h.changes))
	for _, r := range h.requests {
		requestsOf[r.subject] = append(requestsOf[r.subject], r)
	}
	for subject, changes := range h.changes {
		for i, worst := range staleness(changes, requestsOf[subject]) {
			if i == 0 || changes[i].answered == never || changes[i].after == changes[i-1].after {
				continue
			}
			for _, row := range []*row{&p.total, rowOf(p.faults, h.faultAt(changes[i].answered, bound)), rowOf(p.changeKinds, changes[i].changeKind)} {
				row.changes++
				row.worst = max(row.worst, worst)
			}
		}
		for _, r := range requestsOf[subject] {
			j := judge(changes, r, bound)
			p.total.count(j)
			rowOf(p.faults, h.faultAt(r.start, 0)).count(j)
			if j.verdict != violation && j.verdict != wrongDenial {
				continue
			}
			f := finding{request: r, judgement: j, changeKind: changes[j.cause].changeKind, fault: h.faultAt(max(r.start-j.late, 0), bound)}
			if j.cause == 0 {
				f.fault, f.late = h.faultAt(r.start, 0), 0
			}
			p.findings = append(p.findings, f)
			p.total.countWrong(j.verdict)
			rowOf(p.faults, f.fault).countWrong(j.verdict)
			rowOf(p.changeKinds, f.changeKind).countWrong(j.verdict)
		}
	}
	slices.SortStableFunc(p.findings, func(a, b finding) int { return cmp.Compare(a.start, b.start) })
	for _, s := range h.spans {
		row := rowOf(p.faults, s.fault)
		row.recovery = max(row.recovery, recovery(h.requests, s))
	}
	for _, row := range p.faults {
		p.total.recovery = max(p.total.recovery, row.recovery)
	}
	return p
}

// recovery returns the time from the healing of a fault until the last 503 that the fault caused. It stops at the first pause
// of more than 300 ms between two 503s. A later 503 has another cause, such as locks that a change holds.
func recovery(requests []request, s span) time.Duration {
	const gap = 300 * time.Millisecond
	var times []time.Duration
	for _, r := range requests {
		if r.outcome == unavailable && r.start > s.healed && r.start < s.end {
			times = append(times, r.start)
		}
	}
	slices.Sort(times)
	last := s.healed
	for _, t := range times {
		if t-last > gap {
			break
		}
		last = t
	}
	return last - s.healed
}

// table returns the report as Markdown tables.
func (p *report) table() string {
	var b strings.Builder
	b.WriteString("| fault | changes | requests | worst staleness, ms | violations | wrong denials | ambiguous | 503 | recovery, ms |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	line := func(name string, r *row) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d |\n", name, r.changes, r.requests, r.worst.Milliseconds(),
			r.violations, r.wrongDenials, r.ambiguous, r.unavailable, r.recovery.Milliseconds())
	}
	for _, name := range slices.Sorted(maps.Keys(p.faults)) {
		line(name, p.faults[name])
	}
	line("**all**", &p.total)
	b.WriteString("\n| kind of change | changes | worst staleness, ms | violations | wrong denials |\n|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(p.changeKinds)) {
		r := p.changeKinds[name]
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", name, r.changes, r.worst.Milliseconds(), r.violations, r.wrongDenials)
	}
	return b.String()
}

// summary counts the wrong answers by verdict, kind of change, and fault.
func (p *report) summary() string {
	type cause struct {
		verdict           verdict
		changeKind, fault string
	}
	counts, latest, first := map[cause]int{}, map[cause]time.Duration{}, map[cause]finding{}
	for _, f := range p.findings {
		c := cause{f.verdict, f.changeKind, f.fault}
		if counts[c] == 0 {
			first[c] = f
		}
		counts[c]++
		latest[c] = max(latest[c], f.late)
	}
	causes := slices.SortedFunc(maps.Keys(counts), func(a, b cause) int { return cmp.Compare(counts[b], counts[a]) })
	var b strings.Builder
	for _, c := range causes {
		name := "violations"
		if c.verdict == wrongDenial {
			name = "wrong denials"
		}
		fmt.Fprintf(&b, "%d %s after changes of the kind %s during the fault %s, at most %v late; the first: at %v, outcome %v for subject %d from sidecar %d\n",
			counts[c], name, c.changeKind, c.fault, latest[c].Round(time.Millisecond),
			first[c].start.Round(time.Millisecond), first[c].outcome, first[c].subject, first[c].sidecar)
	}
	return b.String()
}

// plot returns an SVG with the worst staleness of each fault as a bar, and the bound as a line.
func (p *report) plot() string {
	const left, width, right, height, top = 110, 560, 70, 24, 48
	names := slices.Sorted(maps.Keys(p.faults))
	longest := p.bound + p.bound/4
	for _, name := range names {
		longest = max(longest, p.faults[name].worst)
	}
	x := func(d time.Duration) int { return left + int(int64(width)*int64(d)/int64(longest)) }
	bottom := top + height*len(names)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		left+width+right, bottom+10)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="16" font-weight="bold">Worst staleness by fault</text>`+"\n", left)
	for i, name := range names {
		worst, y := p.faults[name].worst, top+height*i
		color := "#2a7f62"
		if worst > p.bound {
			color = "#c0392b"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y+16, html.EscapeString(name))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", left, y+4, max(x(worst)-left, 1), height-8, color)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%d ms</text>`+"\n", max(x(worst), left)+6, y+16, worst.Milliseconds())
	}
	fmt.Fprintf(&b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="black" stroke-dasharray="4 3"/>`+"\n",
		x(p.bound), top-6, x(p.bound), bottom+4)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">staleness bound: %v</text>`+"\n", x(p.bound), top-9, p.bound)
	b.WriteString("</svg>\n")
	return b.String()
}

// write writes the table and the plot to a folder.
func (p *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"audit.md": p.table(), "audit.svg": p.plot()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // anybody may read it
			return err
		}
	}
	return nil
}
