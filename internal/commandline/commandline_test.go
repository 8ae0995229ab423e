package commandline_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/internal/commandline"
)

// A negative number after a flag is the value of the flag. Other arguments stay as they are.
func TestJoinNumbers(t *testing.T) {
	for args, want := range map[string]string{
		"token list --limit -5":      "token list --limit=-5",
		"x --expires-in -1h --a -.5": "x --expires-in=-1h --a=-.5",
		"x --name --limit -5 -6":     "x --name --limit=-5 -6",
		"x -5":                       "x -5",
		"-5":                         "-5",
		"x --name -x --wait":         "x --name -x --wait",
		"x --limit=3 -5":             "x --limit=3 -5",
		"x -- --limit -5":            "x -- --limit -5",
		"x --a -5 --":                "x --a=-5 --",
	} {
		if got := commandline.JoinNumbers(strings.Fields(args)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: got %q", args, got)
		}
	}
	if got := commandline.JoinNumbers(nil); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}
