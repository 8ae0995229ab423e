package shell

import (
	"os/exec"
	"testing"
)

// A shell reads the quoted string as the original string.
func TestQuote(t *testing.T) {
	for _, s := range []string{"", "acme", "a b", "it's", "$HOME", "`id`", "a;b", "*", `\`, "\n", "-n", "/a b", "http://h/?a=b&c"} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+Quote(s)+"x").Output()
		if err != nil || string(out) != s+"x" {
			t.Errorf("%q: got %q, %v", s, out, err)
		}
	}
	for _, plain := range []string{"ada@example.com", "/etc/keywicket.yaml", "http://127.0.0.1:8000/a%20b"} {
		if got := Quote(plain); got != plain {
			t.Errorf("quoted unnecessarily: %s", got)
		}
	}
}
