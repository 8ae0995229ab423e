// Command prose checks the English of the comments and documents in this repository. Readers whose first language is not English
// should not have to read a sentence twice. Prose reports sentences of more than [maxWords] words, and words of [unwanted].
//
//	prose [PATH...]
//
// It checks the files that git tracks below the paths (default: all of them), and exits with 1 if it reports anything.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	flag.Parse()
	found, err := check(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(2)
	}
	for _, f := range found {
		fmt.Println(f)
	}
	if len(found) > 0 {
		os.Exit(1)
	}
}

// check returns a line for each finding in the tracked files below the paths.
func check(paths []string) (found []string, err error) {
	names, err := exec.Command("git", append([]string{"ls-files", "-z", "--"}, paths...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("list the files that git tracks: %w", err)
	}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		file := string(name)
		extract := extractorOf(file)
		if extract == nil {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		paragraphs, err := extract(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, p := range paragraphs {
			for _, problem := range p.problems() {
				found = append(found, file+":"+problem)
			}
		}
	}
	return found, nil
}

// extractorOf returns the function that extracts the prose of a file, or nil for a file without prose.
func extractorOf(file string) func(string) ([]paragraph, error) {
	if strings.HasPrefix(file, "tools/prose/") || strings.Contains(file, "testdata/") || strings.Contains(file, "node_modules/") {
		return nil
	}
	switch filepath.Ext(file) {
	case ".go":
		return goComments
	case ".md":
		return markdown
	case ".sql":
		return lineComments("--")
	case ".rego", ".yaml", ".yml", ".sh", ".mk", ".conf", ".py":
		return lineComments("#")
	case "":
		if base := filepath.Base(file); base == "Makefile" || strings.HasPrefix(file, "tools/") || strings.HasPrefix(base, "fetch-") {
			return lineComments("#")
		}
	}
	return nil
}
