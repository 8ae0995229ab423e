package bench

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// document is the path of the document that contains the tables of the figures. Each table is between the marks <!-- name -->
// and <!-- end -->.
const document = "../../docs/benchmarks/README.md"

// goal is one line of the table of goals: a value that a benchmark measures, and its limit.
type goal struct {
	text string
	row  string // name of the benchmark
	// limit is the text of the limit in the table. If limit is empty, the value has no goal. bound is the limit as a number:
	// the maximum, or the negated minimum.
	limit string
	bound float64
	// values returns the values to compare with the limit, each with the name of its case.
	values func(f figure) []value
	unit   string
}

type value struct {
	caseName   string
	number     float64
	totalRatio float64 // ratio of the totals of all rounds; 0: none
}

var goals = []goal{
	{text: "CPU of a no-op server ÷ CPU of a second no-op server: the error of the measurement", row: "control", limit: "0.95 to 1.05", bound: 1.05, unit: "×", values: ratiosOf(cpu)},
	{text: "warm check with a random id in each path, 2,000 tokens in rotation: CPU", row: "warm", limit: "≤ 0.95", bound: 0.95, unit: "×", values: ratiosOf(cpu)},
	{text: "warm check that contains all headers of a browser: CPU", row: "headers", unit: "×", values: ratiosOf(cpu)},
	{text: "first decision for a pair of a cached token and a route: CPU", row: "first", limit: "≤ 1.6", bound: 1.6, unit: "×", values: ratiosOf(cpu)},
	{text: "first decision, with an added rule that prevents tokens from sharing decisions, so that OPA evaluates each decision: CPU", row: "evaluated", unit: "×", values: ratiosOf(cpu)},
	{text: "denial: CPU", row: "denial", limit: "≤ 1.0", bound: 1, unit: "×", values: ratiosOf(cpu)},
	{text: "warm check over a Unix socket: CPU", row: "unix", unit: "×", values: ratiosOf(cpu)},
	{text: "warm check under a limit of half a processor: CPU", row: "half", unit: "×", values: ratiosOf(cpu)},
	{text: "warm check under a limit of half a processor: checks/s", row: "half", unit: "×", values: ratiosOf(checkRate)},
	{text: "two workers of Envoy: requests/s with keywicket ÷ requests/s with a no-op server that returns the same response", row: "workers", unit: "×", values: ratiosOf(checkRate)},
	{text: "one worker of Envoy: requests/s with keywicket ÷ requests/s with a no-op server that returns the same response", row: "envoy", limit: "≥ 0.97", bound: -0.97, unit: "×", values: ratiosOf(checkRate)},
	{text: "p99 through Envoy, open loop, at half of the maximum rate: keywicket ÷ a no-op server that returns the same response", row: "latency", limit: "≤ 1.1", bound: 1.1, unit: "×", values: ratiosOf(p99)},
	{text: "cold token: p50 of a check ÷ p50 of the bare query, sent with pauses of 200 µs", row: "cold", limit: "≤ 2.5", bound: 2.5, unit: "×", values: onlyCase(samePace, ratiosOf(p50))},
	{text: "cold token: p50 of a check ÷ p50 of the bare query, sent without pauses", row: "cold", unit: "×", values: onlyCase("back to back", ratiosOf(p50))},
	{text: "RSS at rest", row: "rest", limit: "≤ 35 MiB", bound: 35, unit: " MiB", values: largest},
	{text: "RSS with 100,000 warm tokens, under load", row: "memory", limit: "≤ 110 MiB", bound: 110, unit: " MiB", values: largest},
	{text: "growth of RSS at 70 % of the maximum rate (up to 1 MiB counts as no growth)", row: "growth", limit: "≤ 1 MiB", bound: 1, unit: " MiB", values: growthOf},
	{text: "CPU per check with 300 or 3,000 routes ÷ CPU per check with 20 routes", row: "routes", limit: "≤ 1.2", bound: 1.2, unit: "×", values: ratiosOf(cpu)},
	{text: "CPU per check with 10,000 or 100,000 warm tokens ÷ CPU per check with 1,000 warm tokens", row: "tokens", limit: "≤ 1.2", bound: 1.2, unit: "×", values: ratiosOf(cpu)},
	{text: "CPU per check with 100,000 or 1,000,000 stored tokens ÷ CPU per check with 1,000 stored tokens", row: "stored", limit: "≤ 1.2", bound: 1.2, unit: "×", values: ratiosOf(cpu)},
	{text: "start to ready with the built-in policies", row: "start", limit: "≤ 500 ms", bound: 500, unit: " ms", values: medians(ready)},
}

// ratiosOf returns the ratio of each server to the base server of its case (caseFigures.Base). It skips the Envoy without
// the ext_authz filter.
func ratiosOf(q quantity) func(f figure) []value {
	return func(f figure) (all []value) {
		for _, c := range f.Cases {
			servers := serversOf(c)
			for _, server := range servers {
				if len(c.ratios(server, q)) == 0 || server == noFilter {
					continue
				}
				name := c.Name
				if len(servers) > 2 && c.Servers[noFilter] == nil {
					name += ", " + server
				}
				totalRatio, _ := c.totalRatio(server, q)
				all = append(all, value{name, c.ratio(server, q), totalRatio})
			}
		}
		return all
	}
}

// onlyCase restricts the values to one case.
func onlyCase(name string, values func(f figure) []value) func(f figure) []value {
	return func(f figure) []value {
		return slices.DeleteFunc(values(f), func(v value) bool { return v.caseName != name })
	}
}

func medians(q quantity) func(f figure) []value {
	return func(f figure) (all []value) {
		for _, c := range f.Cases {
			for _, server := range serversOf(c) {
				all = append(all, value{caseName: c.Name, number: c.median(server, q)})
			}
		}
		return all
	}
}

// largest returns the largest memory sample of each case.
func largest(f figure) (all []value) {
	for _, c := range f.Cases {
		all = append(all, value{caseName: c.Name, number: slices.Max(c.Servers["keywicket"][rss])})
	}
	return all
}

// growthOf returns the growth of the memory from the second fifth of the samples to the last fifth. It ignores the first fifth,
// because every operation runs for the first time then.
func growthOf(f figure) (all []value) {
	for _, c := range f.Cases {
		samples := c.Servers["keywicket"][rss]
		fifth := len(samples) / 5
		all = append(all, value{caseName: c.Name, number: median(samples[len(samples)-fifth:]) - median(samples[fifth:2*fifth])})
	}
	return all
}

// serversOf returns the servers of the case, sorted by the number at the start of the name, then by name.
func serversOf(c caseFigures) []string {
	size := func(name string) int {
		number, _, _ := strings.Cut(strings.ReplaceAll(name, ",", ""), " ")
		n, _ := strconv.Atoi(number)
		return n
	}
	servers := slices.Sorted(maps.Keys(c.Servers))
	slices.SortStableFunc(servers, func(a, b string) int { return size(a) - size(b) })
	return servers
}

func (g goal) met(v float64) bool {
	switch {
	case g.row == "control":
		return v >= 0.95 && v <= 1.05
	case g.bound < 0:
		return v >= -g.bound
	}
	return v <= g.bound
}

func goalsTable(all []figure) string {
	var b strings.Builder
	b.WriteString("| measurement | goal | measured | met | command |\n|---|---|---|---|---|\n")
	for _, g := range goals {
		measured, met := "not yet", ""
		if f, ok := find(all, g.row); ok {
			var texts []string
			allMet := true
			for _, v := range g.values(f) {
				text := fmt.Sprintf("%s: **%.4g%s**", v.caseName, round(v.number), g.unit)
				if v.totalRatio != 0 {
					text += fmt.Sprintf(" (ratio of the totals %.4g%s)", round(v.totalRatio), g.unit)
				}
				texts = append(texts, text)
				allMet = allMet && g.met(v.number) && (v.totalRatio == 0 || g.met(v.totalRatio))
			}
			measured = strings.Join(texts, "; ")
			if met = "no"; allMet {
				met = "yes"
			}
		}
		limit := g.limit
		if limit == "" {
			limit, met = "reported", ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | `make bench-envoy ROWS=%s` |\n", g.text, limit, measured, met, g.row)
	}
	return b.String()
}

// round rounds to three decimal places.
func round(v float64) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'f', 3, 64), 64)
	if err != nil {
		panic(err)
	}
	return r
}

func find(all []figure, row string) (figure, bool) {
	i := slices.IndexFunc(all, func(f figure) bool { return f.Row == row })
	if i < 0 {
		return figure{}, false
	}
	return all[i], true
}

// figureColumns are the columns of the table of figures.
var figureColumns = []quantity{cpu, envoyCPU, checkRate, p50, p99}

func figuresTable(all []figure) string {
	var b strings.Builder
	b.WriteString("| row | case | variant |")
	for _, q := range figureColumns {
		fmt.Fprintf(&b, " %s |", q)
	}
	b.WriteString("\n|---|---|---|" + strings.Repeat("---|", len(figureColumns)) + "\n")
	for _, f := range all {
		for _, c := range f.Cases {
			for _, server := range serversOf(c) {
				cells := ""
				hasValue := false
				for _, q := range figureColumns {
					text := ""
					if len(c.Servers[server][q]) > 0 {
						hasValue = true
						text = fmt.Sprintf("%.4g", c.median(server, q))
						if n := c.median(server, q); n >= 1000 {
							text = strconv.Itoa(int(n))
						}
						if ratios := c.ratios(server, q); len(ratios) > 0 {
							text += fmt.Sprintf(" (× %.2f, ± %.2f)", median(ratios), spreadOf(ratios))
						}
					}
					cells += " " + text + " |"
				}
				if hasValue {
					fmt.Fprintf(&b, "| %s | %s | %s |%s\n", f.Row, c.Name, server, cells)
				}
			}
		}
	}
	return b.String()
}

// spreadOf returns half of the interquartile range.
func spreadOf(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return (sorted[len(sorted)*3/4] - sorted[len(sorted)/4]) / 2
}

// memoryTable returns the table of the memory figures. Its columns differ from those of figuresTable.
func memoryTable(all []figure) string {
	var b strings.Builder
	b.WriteString("| row | case | RSS MiB, median | RSS MiB, maximum | GOGC | GOMEMLIMIT MiB | cached answers | cache MiB |\n|---|---|---|---|---|---|---|---|\n")
	for _, f := range all {
		for _, c := range f.Cases {
			for _, server := range serversOf(c) {
				samples := c.Servers[server][rss]
				if len(samples) == 0 {
					continue
				}
				fmt.Fprintf(&b, "| %s | %s | %.1f | %.1f |", f.Row, c.Name, median(samples), slices.Max(samples))
				for _, q := range []quantity{gogc, memLimit, entries, cached} {
					text := ""
					if len(c.Servers[server][q]) > 0 {
						text = fmt.Sprintf("%.0f", c.median(server, q))
					}
					fmt.Fprintf(&b, " %s |", text)
				}
				b.WriteString("\n")
			}
		}
	}
	return b.String()
}

func runsTable(all []figure) string {
	var b strings.Builder
	b.WriteString("| row | date | keywicket | machine | load average before | Go | grpc-go | Envoy | Postgres |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, f := range all {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %.1f | %s | %s | %s | %s |\n", f.Row, f.Date, f.Commit, f.Machine, f.Load, f.Go, f.GRPC, f.Envoy, f.Postgres)
	}
	return b.String()
}

// updatedDocument returns the document with updated tables of figures.
func updatedDocument(t *testing.T, all []figure) string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var pictures strings.Builder
	for _, p := range plots(all) {
		fmt.Fprintf(&pictures, "![%s](%s)\n\n", p.Title, p.file)
	}
	for name, table := range map[string]string{
		"goals": goalsTable(all), "figures": figuresTable(all), "memory": memoryTable(all), "runs": runsTable(all),
		"plots": strings.TrimSuffix(pictures.String(), "\n"),
	} {
		mark := regexp.MustCompile(`(?s)(<!-- ` + name + ` -->\n).*?(<!-- end -->)`)
		if !mark.Match(text) {
			t.Fatalf("%s has no marks for %s", document, name)
		}
		text = mark.ReplaceAllFunc(text, func(old []byte) []byte {
			parts := mark.FindSubmatch(old)
			return slices.Concat(parts[1], []byte("\n"+table+"\n"), parts[2])
		})
	}
	return string(text)
}

// publish writes the document's tables and the plots from the figures.
func publish(t *testing.T) {
	t.Helper()
	all := savedFigures(t)
	files := map[string]string{"README.md": updatedDocument(t, all)}
	for _, p := range plots(all) {
		files[p.file] = p.draw()
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(*out, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The tables and plots of docs/benchmarks match the file figures.json.
func TestDocsShowTheFigures(t *testing.T) {
	all := savedFigures(t)
	text, err := os.ReadFile(filepath.Join(*out, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if want := updatedDocument(t, all); string(text) != want {
		t.Error("README.md does not match figures.json: run make bench-envoy ROWS=none")
	}
	for _, p := range plots(all) {
		if text, err := os.ReadFile(filepath.Join(*out, p.file)); err != nil || string(text) != p.draw() {
			t.Errorf("%s does not match figures.json (%v): run make bench-envoy ROWS=none", p.file, err)
		}
	}
}
