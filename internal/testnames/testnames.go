// Package testnames finds the names of tests in documents. A test that a document cites as proof must exist.
package testnames

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var form = regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`)

// Find returns the test names in a text.
func Find(text string) []string { return form.FindAllString(text, -1) }

// Missing returns the names for which the folder and its subfolders contain no test. It skips hidden folders, which contain
// third-party code.
func Missing(folder string, names []string) ([]string, error) {
	var tests strings.Builder
	err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != folder && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(file, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(file)
		tests.WriteString("\n")
		tests.Write(text)
		return err
	})
	var missing []string
	for _, name := range names {
		if !strings.Contains(tests.String(), "\nfunc "+name+"(") {
			missing = append(missing, name)
		}
	}
	return missing, err
}
