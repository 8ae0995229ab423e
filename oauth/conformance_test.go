package oauth_test

import (
	"os"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/testnames"
)

// Every row of conformance.md cites at least one test, and every cited test exists.
func TestConformanceCitesTests(t *testing.T) {
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
		if cited := testnames.Find(cells[len(cells)-1]); len(cells) == 3 && len(cited) > 0 {
			names = append(names, cited...)
		} else {
			t.Errorf("the row cites no test: %s", line)
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
