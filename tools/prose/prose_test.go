package main

import (
	"slices"
	"strings"
	"testing"
)

func TestProblems(t *testing.T) {
	long := strings.TrimSpace(strings.Repeat("word ", maxWords+1))
	packageClause := "// Package p is short.\npackage p\n\n"
	for name, c := range map[string]struct {
		file, text string
		want       []string // the beginnings of the reported lines
	}{
		"a long sentence in Go":                  {"a.go", packageClause + "// " + long + ".\nvar a int\n", []string{"4: a sentence of 31"}},
		"two sentences":                          {"a.go", packageClause + "// " + long[5:] + ". One more.\nvar a int\n", nil},
		"a long sentence over lines":             {"a.go", packageClause + "// " + strings.ReplaceAll(long, "word word ", "word\n// word ") + "\nvar a int\n", []string{"4: a sentence of 31"}},
		"code in a comment":                      {"a.go", packageClause + "// See:\n//\n//\t" + long + "\nvar a int\n", nil},
		"a directive":                            {"a.go", packageClause + "//nolint:all // " + long + "\nvar a int\n", nil},
		"an unwanted word":                       {"a.go", packageClause + "// He waits.\nvar a int\n", []string{`4: "he"`}},
		"an unwanted word inside a word":         {"a.go", packageClause + "// There is the other one, this one.\nvar a int\n", nil},
		"an unwanted word in a string":           {"a.go", packageClause + "var a = \"whoever asks\"\n", []string{`4: "whoever"`}},
		"a long string":                          {"a.go", packageClause + "var a = \"" + long + "\"\n", nil},
		"a document":                             {"a.md", "# Title\n\nShort. " + long + ".\n", []string{"3: a sentence of 31"}},
		"a block of code in a document":          {"a.md", "```sh\n" + long + " he\n```\n", nil},
		"words of code in a document":            {"a.md", "The key `he` is one.\n", nil},
		"items of a list":                        {"a.md", "- " + long[25:] + "\n- " + long[25:] + "\n", nil},
		"an item over two lines":                 {"a.md", "- " + long[25:] + "\n  " + long[25:] + "\n", []string{"1: a sentence of 52"}},
		"cells of a table":                       {"a.md", "| " + long[25:] + " | his own " + long[40:] + " |\n", []string{`1: "his"`}},
		"a comment of Rego":                      {"a.rego", "# METADATA\n# description: |\n#   " + long + "\npackage a\n", []string{"2: a sentence of 32"}},
		"a comment at the end of a line of YAML": {"a.yaml", "a: 1 # Whoever asks\n", []string{`1: "whoever"`}},
		"SQL":                                    {"a.sql", "-- " + long + "\nSELECT 1;\n", []string{"1: a sentence of 31"}},
	} {
		paragraphs, err := extractorOf(c.file)(c.text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range paragraphs {
			got = append(got, p.problems()...)
		}
		if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
