package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// README.md shows the measured cost of a warm check (a check with a cached token): the range of its CPU time, relative to a
// server that decides nothing.
func TestReadmeShowsTheMeasuredCost(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	benchmarks, err := os.ReadFile("../../docs/benchmarks/README.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| warm check with a random id .*$`).FindString(string(benchmarks))
	var ratios []float64
	for _, m := range regexp.MustCompile(`\*\*([0-9.]+)×\*\*`).FindAllStringSubmatch(row, -1) {
		ratio, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		ratios = append(ratios, ratio)
	}
	if len(ratios) < 2 {
		t.Fatalf("the row of a warm check has %v: %q", ratios, row)
	}
	want := fmt.Sprintf("[%.2f to %.2f times the CPU]", slices.Min(ratios), slices.Max(ratios))
	if !strings.Contains(strings.Join(strings.Fields(string(readme)), " "), want) {
		t.Errorf("README.md does not contain %q", want)
	}
}

// docs/README.md has a link to every document.
func TestIndexLinksToEveryDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(found) < 8 {
		t.Fatal(found, err)
	}
	for _, document := range found {
		name := filepath.Base(document)
		if name != "README.md" && !strings.Contains(string(text), "]("+name) {
			t.Errorf("docs/README.md has no link to %s", name)
		}
	}
}
