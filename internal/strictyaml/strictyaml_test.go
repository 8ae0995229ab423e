package strictyaml_test

import (
	"testing"
	"time"

	"github.com/keywicket/keywicket/internal/strictyaml"
)

type file struct {
	Name  string        `yaml:"name"`
	Wait  time.Duration `yaml:"wait"`
	Count int           `yaml:"count"`
	On    bool          `yaml:"on"`
	List  []string      `yaml:"list"`
	Part  part          `yaml:"part"`
	Parts []part        `yaml:"parts"`
}

type part struct {
	Name string `yaml:"name"`
}

func TestDecodeKeepsFieldsThatTheFileOmits(t *testing.T) {
	got := file{Name: "kept", Wait: time.Second}
	if err := strictyaml.Decode([]byte("wait: 200ms\n"), &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "kept" || got.Wait != 200*time.Millisecond {
		t.Fatalf("got %+v", got)
	}
	if err := strictyaml.Decode(nil, &got); err != nil {
		t.Fatalf("an empty file: %v", err)
	}
}

func TestDecodeErrors(t *testing.T) {
	for text, want := range map[string]string{
		"name: a\ntitel: b":     `line 2: unknown key "titel"; keys are count, list, name, on, part, parts, wait`,
		"part: {nam: b}":        `line 1: unknown key "nam"; keys are name`,
		"parts:\n- nam: b":      `line 2: unknown key "nam"; keys are name`,
		"part:\n  nam: b":       `line 2: unknown key "nam"; keys are name`,
		"{name: a,b@c/d}":       "line 1: unknown key, not shown because it may be a part of a secret; if a text contains a comma, put the text in quotes",
		"wait: soon":            "line 1: `soon` is not a duration, such as 200ms or 5s",
		"count: many":           "line 1: `many` is not a whole number",
		"on: perhaps":           "line 1: `perhaps` is not true or false",
		"list: one":             "line 1: `one` is not a list, such as [a, b]",
		"part: one":             "line 1: `one` is not a group of keys: check the indentation, or write {key: value}",
		"name: [a]":             "line 1: the value is not a text",
		"name: a\nname: b":      `line 2: mapping key "name" already defined at line 1`,
		"name: a\n---\nname: b": "line 2: there is a second document",
		"name: a\n---\n[":       "line 3: did not find expected node content: check the indentation, the brackets and quotes, and the space after each colon",
		"list: [a, ~]":          "line 1: an empty item in a list",
		"list:\n  - a\n  -\n":   "line 3: an empty item in a list",
		"titel: a\non: perhaps\nlist:\n  - a\n  -\n  -\n": "line 1: unknown key \"titel\"; keys are count, list, name, on, part, parts, wait\nline 2: `perhaps` is not true or false\n" +
			"line 5: an empty item in a list\nline 6: an empty item in a list",
	} {
		err := strictyaml.Decode([]byte(text), new(file))
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// The YAML parser often reports the line at which the block with the mistake starts.
func TestSyntaxErrorNamesTheLineOfTheMistake(t *testing.T) {
	const remedy = ": check the indentation, the brackets and quotes, and the space after each colon"
	const colon = ": in this line or the line above, write a space after the key's colon, or quotes around a text that contains a colon"
	const tab = ": indent with spaces, not with a tab"
	for text, want := range map[string]string{
		"# comment\nname: a\nlist:\n  - a\n - b\n":                 "line 5: did not find expected key" + remedy,
		"# comment\nname: a\nlist:\n  - a\n - b\n  - c\non: yes\n": "line 5: did not find expected key" + remedy,
		"list: [a,\n  b,\n  c]\npart:\n  name: b\n name: c\n":      "line 6: did not find expected key" + remedy,
		"part:\n    name: a\n   wait: b\n":                         "line 3: did not find expected key" + remedy,
		"list:\n  - {a: b}\n    - {a: c}\n":                        "line 3: did not find expected '-' indicator" + remedy,
		"name:a\non: yes\n":                                        "line 2: mapping values are not allowed in this context" + colon,
		"name: a\npart:\n\tname: b\n":                              "line 3: found character that cannot start any token" + tab,
		"on: yes\nname: *\n":                                       "line 2: did not find expected alphabetic or numeric character: put quotes around a text that starts with * or &",
		"on: yes\nname: *a\n":                                      "line 2: unknown anchor 'a' referenced: put quotes around a text that starts with * or &",
		"name: @a\n":                                               "line 1: found character that cannot start any token" + remedy,
		"name: a\nlist: [a\non: yes\n":                             "line 2: did not find expected ',' or ']'" + remedy,
		"name: a\non: \"yes\ncount: 1\n":                           "line 2: found unexpected end of stream" + remedy,
	} {
		if err := strictyaml.Decode([]byte(text), new(file)); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
		if err := strictyaml.Syntax([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: Syntax: got %v, want %s", text, err, want)
		}
	}
	if err := strictyaml.Syntax([]byte("a: [b]\n")); err != nil {
		t.Error(err)
	}
}
