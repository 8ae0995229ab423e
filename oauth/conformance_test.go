package oauth_test

import (
	"os"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/testnames"
)

// Every row of conformance.md names at least one test, and every named test exists.
func TestConformanceNamesTests(t *testing.T) {
	text, err := os.ReadFile("conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(line, "|\n"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(cells[0], "-") || cells[0] == " section " {
			continue
		}
		rows++
		if named := testnames.Find(cells[len(cells)-1]); len(cells) == 3 && len(named) > 0 {
			names = append(names, named...)
		} else {
			t.Errorf("the row contains no test: %s", line)
		}
	}
	if rows < 100 {
		t.Errorf("only %d rows were found", rows)
	}
	missing, err := testnames.Missing("..", names)
	if err != nil || len(missing) > 0 {
		t.Errorf("these tests do not exist: %v, %v", missing, err)
	}
}
