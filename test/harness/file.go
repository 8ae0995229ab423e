package harness

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// AppendFile appends to a file. It creates the file if necessary.
func AppendFile(t testing.TB, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Replace replaces all occurrences of `from`. The test fails if the text does not contain exactly the expected number of
// occurrences.
func Replace(t testing.TB, text []byte, from, to string, occurrences int) []byte {
	t.Helper()
	if got := bytes.Count(text, []byte(from)); got != occurrences {
		t.Fatalf("the text contains %q %d times", from, got)
	}
	return bytes.ReplaceAll(text, []byte(from), []byte(to))
}
