package shell

import (
	"os/exec"
	"testing"
)

// A shell reads the quoted string as the original string.
func TestQuote(t *testing.T) {
	for _, s := range []string{"", "acme", "a b", "it's", "$HOME", "`id`", "a;b", "*", `\`, "\n", "-n"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+Quote(s)+"x").Output()
		if err != nil || string(out) != s+"x" {
			t.Errorf("%q: got %q, %v", s, out, err)
		}
	}
	if got := Quote("ada@example.com"); got != "ada@example.com" {
		t.Errorf("quoted unnecessarily: %s", got)
	}
}
