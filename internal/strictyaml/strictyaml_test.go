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
		"name: a\ntitel: b":     `line 2: unknown key "titel"`,
		"part:\n  nam: b":       `line 2: unknown key "nam"`,
		"{name: a,b@c/d}":       "line 1: unknown key, not shown because it may be a part of a secret; if a text contains a comma, put the text in quotes",
		"wait: soon":            "line 1: `soon` is not a duration with a unit, such as 200ms or 0s",
		"wait: 0":               "line 1: `0` is not a duration with a unit, such as 200ms or 0s",
		"count: many":           "line 1: `many` is not a whole number",
		"on: perhaps":           "line 1: `perhaps` is not true or false",
		"list: one":             "line 1: `one` is not a list",
		"part: one":             "line 1: `one` is not a group of keys",
		"name: [a]":             "line 1: the value is not a text",
		"name: a\nname: b":      `line 2: mapping key "name" already defined at line 1`,
		"name: a\n---\nname: b": "line 2: there is a second document",
		"name: a\n---\n[":       "line 3: did not find expected node content",
		"list: [a, ~]":          "line 1: an empty item in a list",
		"list:\n  - a\n  -\n":   "line 3: an empty item in a list",
		"titel: a\non: perhaps\nlist:\n  - a\n  -\n  -\n": "line 1: unknown key \"titel\"\nline 2: `perhaps` is not true or false\n" +
			"line 5: an empty item in a list\nline 6: an empty item in a list",
	} {
		err := strictyaml.Decode([]byte(text), new(file))
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
