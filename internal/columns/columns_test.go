package columns

import (
	"strings"
	"testing"
)

func TestColumns(t *testing.T) {
	var text strings.Builder
	if err := Rows(&text, []string{"ID", "NAME"}, [][]string{{"1", "acme"}, {"22", ""}}); err != nil {
		t.Fatal(err)
	}
	if err := Fields(&text, [2]string{"id", "1"}, [2]string{"empty", ""}, [2]string{"status", "active"}); err != nil {
		t.Fatal(err)
	}
	if want := "ID  NAME\n1   acme\n22\nid      1\nstatus  active\n"; text.String() != want {
		t.Errorf("got %q, want %q", text.String(), want)
	}
}

// A product's texts in the database may contain characters that move the cursor, start a line, or change the direction of the text.
func TestTextsCannotChangeTheTable(t *testing.T) {
	var text strings.Builder
	const hostile = "a\x1b[2J\nb\tc\u202e\u009b\\\"é\xff 雪"
	if err := Rows(&text, []string{"NAME", "ID"}, [][]string{{hostile, "1"}}); err != nil {
		t.Fatal(err)
	}
	if err := Fields(&text, [2]string{"name", hostile}); err != nil {
		t.Fatal(err)
	}
	const shown = `a\x1b[2J\nb\tc\u202e\u009b\"é` + "\ufffd 雪"
	if got := text.String(); strings.Count(got, shown) != 2 || strings.Count(got, "\n") != 3 {
		t.Errorf("got %q", got)
	}
}
