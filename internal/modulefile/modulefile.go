// Package modulefile finds files by their path below the module's root, such as .tools/envoy. The Makefile downloads these files
// for the demo and the tests, which run in the module's root or in the folder of a package.
package modulefile

import (
	"os"
	"path/filepath"
)

// Find returns the absolute path of a file. The name is relative to the module's root. Find looks in the working folder and
// its parents, up to the folder that contains go.mod. It returns false if the file does not exist.
func Find(name string) (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, true
		}
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		parent := filepath.Dir(dir)
		if err == nil || parent == dir {
			return "", false
		}
		dir = parent
	}
}
