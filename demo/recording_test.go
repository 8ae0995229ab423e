package demo

import (
	"html"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/demo/example"
)

// The recording in README.md shows each request of the tour and its response.
func TestRecordingShowsTheTour(t *testing.T) {
	drawing, err := os.ReadFile("../docs/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	if len(drawing) > 150_000 {
		t.Errorf("%d bytes", len(drawing))
	}
	shown := html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(string(drawing), "\n"))
	for _, step := range example.Tour {
		for _, text := range []string{"# " + step.Why, "ok  " + step.Line, step.Want} {
			if !strings.Contains(shown, "\n"+text) {
				t.Errorf("docs/demo.svg does not show %q: run make recording", text)
			}
		}
	}
	if !strings.Contains(shown, "every answer as expected") {
		t.Error("docs/demo.svg does not show the end")
	}
}
