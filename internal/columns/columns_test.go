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
