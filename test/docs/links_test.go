package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/testnames"
)

var link = regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)

var heading = regexp.MustCompile(`(?m)^#+ (.*)$`)

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// TestTargetsOfLinksExist checks the file and the heading of each link.
func TestTargetsOfLinksExist(t *testing.T) {
	for _, document := range documents(t, "../..") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			file, anchor := m[1], m[2]
			if strings.Contains(file, "://") {
				continue
			}
			target := document
			if file != "" {
				target = filepath.Join(filepath.Dir(document), file)
			}
			content, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr == nil && info.IsDir() {
				err = nil
			}
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(document), err)
			} else if anchor != "" && !slices.Contains(anchors(string(content)), anchor) {
				t.Errorf("%s: %s has no heading for %s", filepath.Base(document), filepath.Base(target), anchor)
			}
		}
	}
}

// anchors returns the anchors that GitHub generates for the headings of a document.
func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := notInAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, "#"+strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// The documents below contain names of tests. Each of these tests must exist, because README.md refers to the documents for its
// claims.
func TestNamedTestsExist(t *testing.T) {
	var names []string
	for document, minimum := range map[string]int{"security.md": 50, "reliability.md": 15, "configuration.md": 5, "policies.md": 1, "operations.md": 1, "oauth.md": 3} {
		text, err := os.ReadFile("../../docs/" + document)
		if err != nil {
			t.Fatal(err)
		}
		named := testnames.Find(string(text))
		if len(named) < minimum {
			t.Errorf("%s contains the names of only %d tests", document, len(named))
		}
		names = append(names, named...)
	}
	missing, err := testnames.Missing("../..", names)
	if err != nil || len(missing) > 0 {
		t.Errorf("missing tests: %v, %v", missing, err)
	}
}
