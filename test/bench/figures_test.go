package bench

import (
	"bufio"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

var out = flag.String("out", "../../docs/benchmarks", "the folder of the figures, and of what is drawn of them")

// figure is what one row gave.
type figure struct {
	Row     string  `json:"row"`
	Date    string  `json:"date"`
	Commit  string  `json:"commit"` // of keywicket; with + where the tree had changes
	Machine string  `json:"machine"`
	Load    float64 `json:"load"` // of the machine just before, without this
	Go      string  `json:"go"`
	GRPC    string  `json:"grpc"`
	Cases   []kase  `json:"cases"`
}

// kase is a case of a row.
type kase struct {
	Name   string               `json:"name"`
	Series map[string][]float64 `json:"series"` // a value of each round
}

// What series are of, behind the name of the server.
const (
	cpu     = ", CPU µs" // for each check
	answers = ", checks/s"
)

func newCase(name string) kase { return kase{name, make(map[string][]float64)} }

func (c *kase) add(series string, value float64) { c.Series[series] = append(c.Series[series], value) }

// ratio is the median of what each round of one series is of the other's.
func (c *kase) ratio(one, other string) float64 { return median(c.ratios(one, other)) }

func (c *kase) ratios(one, other string) (all []float64) {
	for i, v := range c.Series[one] {
		all = append(all, v/c.Series[other][i])
	}
	return all
}

func (c *kase) median(series string) float64 { return median(c.Series[series]) }

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

// describe is the figure as text for the terminal.
func describe(f figure) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s, load %.1f)\n", f.Row, f.Commit, f.Load)
	for _, c := range f.Cases {
		fmt.Fprintf(&b, "  %s\n", c.Name)
		for _, series := range slices.Sorted(maps.Keys(c.Series)) {
			all := c.Series[series]
			fmt.Fprintf(&b, "    %-24s %10.2f   (%.2f to %.2f)\n", series, median(all), slices.Min(all), slices.Max(all))
		}
		for _, one := range slices.Sorted(maps.Keys(c.Series)) {
			if _, isCPU := strings.CutSuffix(one, cpu); isCPU && one != "no-op"+cpu {
				ratios := c.ratios(one, "no-op"+cpu)
				fmt.Fprintf(&b, "    %-24s %10.3f   (%.3f to %.3f)\n", "ratio of CPU", median(ratios), slices.Min(ratios), slices.Max(ratios))
			}
		}
	}
	return b.String()
}

func newFigure(t *testing.T, row, binary string) figure {
	t.Helper()
	f := figure{Row: row, Date: time.Now().Format(time.DateOnly), Commit: commit(t, binary), Machine: machine(t), Load: machineLoad(t), Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "google.golang.org/grpc" {
				f.GRPC = m.Version
			}
		}
	}
	return f
}

// commit is what the binary was built of; with + where the tree had changes.
func commit(t *testing.T, binary string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	of, changed := "unknown", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			of = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				changed = "+"
			}
		}
	}
	return of + changed
}

func machine(t *testing.T) string {
	t.Helper()
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "model name\t: "); ok {
			return fmt.Sprintf("%s, %d cores", name, runtime.NumCPU())
		}
	}
	return fmt.Sprintf("%s, %d cores", runtime.GOARCH, runtime.NumCPU())
}

func machineLoad(t *testing.T) (minute float64) {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &minute); err != nil {
		t.Fatal(err)
	}
	return minute
}

func figuresFile() string { return filepath.Join(*out, "figures.json") }

// keep puts the figure in the place of the one of before.
func keep(t *testing.T, f figure) {
	t.Helper()
	all := append(slices.DeleteFunc(kept(t), func(old figure) bool { return old.Row == f.Row }), f)
	place := func(f figure) int { return slices.IndexFunc(allRows, func(r row) bool { return r.name == f.Row }) }
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

func kept(t *testing.T) (all []figure) {
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
