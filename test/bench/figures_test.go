package bench

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo/envoyproxy"
	"github.com/keywicket/keywicket/internal/machine"
)

var out = flag.String("out", "../../docs/benchmarks", "folder of the figures, the document and the plots")

// figure contains the measurements of one benchmark.
type figure struct {
	Row      string        `json:"row"`
	Date     string        `json:"date"`
	Commit   string        `json:"commit"` // commit of keywicket; with + if the tree had changes
	Machine  string        `json:"machine"`
	Load     float64       `json:"load"` // load average of the machine just before the benchmark, without this process
	Go       string        `json:"go"`
	GRPC     string        `json:"grpc"`
	Envoy    string        `json:"envoy"`
	Postgres string        `json:"postgres"`
	Cases    []caseFigures `json:"cases"`
}

// caseFigures contains the measurements of one case. A benchmark has one or more cases, such as different numbers of callers.
type caseFigures struct {
	Name string `json:"name"`
	// Base is the server that the others are compared with; empty: none.
	Base string `json:"base,omitempty"`
	// Servers maps a name and a quantity to the values of the rounds.
	Servers map[string]map[quantity][]float64 `json:"servers"`
}

// quantity is a measured quantity with its unit.
type quantity string

const (
	cpu       quantity = "CPU µs"          // CPU time of the server for each check
	envoyCPU  quantity = "CPU µs of Envoy" // CPU time of Envoy for each request
	clientCPU quantity = "CPU µs of the client"
	checkRate quantity = "checks/s"
	p50       quantity = "p50 µs"
	p99       quantity = "p99 µs"
	rss       quantity = "RSS MiB"
	ready     quantity = "ready after ms"
	gogc      quantity = "GOGC"
	memLimit  quantity = "GOMEMLIMIT MiB"
	entries   quantity = "answers in memory"
	cached    quantity = "cache MiB"
)

func newCase(name string) caseFigures {
	return caseFigures{Name: name, Servers: make(map[string]map[quantity][]float64)}
}

// add adds the value of a round, rounded to the measurement's precision of four significant digits.
func (c *caseFigures) add(server string, q quantity, value float64) {
	digits, err := strconv.ParseFloat(strconv.FormatFloat(value, 'g', 4, 64), 64)
	if err != nil {
		panic(err)
	}
	if c.Servers[server] == nil {
		c.Servers[server] = make(map[quantity][]float64)
	}
	c.Servers[server][q] = append(c.Servers[server][q], digits)
}

func (c *caseFigures) median(server string, q quantity) float64 { return median(c.Servers[server][q]) }

// ratio returns the median of the rounds' ratios.
func (c *caseFigures) ratio(server string, q quantity) float64 { return median(c.ratios(server, q)) }

// totalRatio returns the ratio of the totals of all rounds: of the CPU times, or of the numbers of checks. This ratio includes
// costs that occur in few rounds, such as garbage collections. The median hides such costs. The result `ok` is false for all other
// quantities, such as latencies.
func (c *caseFigures) totalRatio(server string, q quantity) (ratio float64, ok bool) {
	total := func(server string) (sum float64) {
		checks := c.Servers[server][checkRate] // proportional to the checks of each round, because all rounds have the same length
		for i, v := range c.Servers[server][q] {
			if q != checkRate {
				v *= checks[i]
			}
			sum += v
		}
		if q != checkRate {
			sum /= sumOf(checks)
		}
		return sum
	}
	if q != cpu && q != envoyCPU && q != checkRate || len(c.ratios(server, q)) == 0 {
		return 0, false
	}
	return total(server) / total(c.Base), true
}

// ratios returns the ratio to the base server for each round. It returns no ratio if the base server has no values of the
// quantity.
func (c *caseFigures) ratios(server string, q quantity) (all []float64) {
	base := c.Servers[c.Base][q]
	for i, v := range c.Servers[server][q] {
		if i < len(base) && server != c.Base {
			all = append(all, v/base[i])
		}
	}
	return all
}

func sumOf(all []float64) (sum float64) {
	for _, v := range all {
		sum += v
	}
	return sum
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// describe returns the figure as text for the terminal.
func describe(f figure) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s, load %.1f)\n", f.Row, f.Commit, f.Load)
	for _, c := range f.Cases {
		fmt.Fprintf(&b, "  %s\n", c.Name)
		for _, server := range slices.Sorted(maps.Keys(c.Servers)) {
			for _, q := range slices.Sorted(maps.Keys(c.Servers[server])) {
				all := c.Servers[server][q]
				fmt.Fprintf(&b, "    %-30s %10.2f   (%.2f to %.2f)", server+", "+string(q), median(all), slices.Min(all), slices.Max(all))
				if ratios := c.ratios(server, q); len(ratios) > 0 {
					fmt.Fprintf(&b, "   × %.3f   (%.3f to %.3f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
				}
				if ratio, ok := c.totalRatio(server, q); ok {
					fmt.Fprintf(&b, "   ratio of the totals %.3f", ratio)
				}
				b.WriteString("\n")
			}
		}
	}
	return b.String()
}

func (w *setup) newFigure(t *testing.T, row string) figure {
	t.Helper()
	name, load, err := machine.Describe()
	if err != nil {
		t.Fatal(err)
	}
	f := figure{
		Row: row, Date: time.Now().Format(time.DateOnly), Commit: commit(t, w.binary), Machine: name, Load: load,
		Go: strings.TrimPrefix(runtime.Version(), "go"), Envoy: envoyVersion(t),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "google.golang.org/grpc" {
				f.GRPC = strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	if err := w.db.GetContext(t.Context(), &f.Postgres, `SHOW server_version`); err != nil {
		t.Fatal(err)
	}
	return f
}

// commit returns the commit of the binary, with + if the tree had changes. If the binary does not contain its commit,
// commit returns the commit of this tree.
func commit(t *testing.T, binary string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	revision, changed := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				changed = "+"
			}
		}
	}
	if revision != "" {
		return revision + changed
	}
	text, err := exec.CommandContext(t.Context(), "git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

var envoyVersions = regexp.MustCompile(`/([0-9.]+)/`)

func envoyVersion(t *testing.T) string {
	t.Helper()
	binary, err := envoyproxy.Find()
	if err != nil {
		t.Fatal(err)
	}
	text, err := exec.CommandContext(t.Context(), binary, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if found := envoyVersions.FindSubmatch(text); found != nil {
		return string(found[1])
	}
	return "unknown"
}

func figuresFile() string { return filepath.Join(*out, "figures.json") }

// saveFigure saves the figure. The figure replaces the earlier figure of the same benchmark.
func saveFigure(t *testing.T, f figure) {
	t.Helper()
	all := append(slices.DeleteFunc(savedFigures(t), func(old figure) bool { return old.Row == f.Row }), f)
	place := func(f figure) int {
		return slices.IndexFunc(benchmarks, func(r benchmark) bool { return r.name == f.Row })
	}
	slices.SortFunc(all, func(a, b figure) int { return place(a) - place(b) })
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(*out, 0o755); err != nil { //nolint:gosec // documents
		t.Fatal(err)
	}
	if err := os.WriteFile(figuresFile(), append(text, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

func savedFigures(t *testing.T) (all []figure) {
	t.Helper()
	text, err := os.ReadFile(figuresFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}
