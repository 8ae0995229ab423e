// Package shells tests the completion of command lines in a real fish and a real zsh. The script completion.txtar of cmd/keywicket
// tests bash.
package shells

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/internal/modulefile"
	"github.com/keywicket/keywicket/test/program"
)

func TestCompletionInFish(t *testing.T) {
	dir := folder(t, "fish")
	for line, want := range map[string][]string{
		"keywicket tok":                     {"token"},
		"keywicket token create --expires-": {"--expires-at", "--expires-in"},
		"keywicket --output ":               {"json", "text"},
		"keywicket --output=j":              {"--output=json"},
		"keywicket completion ":             {"bash", "fish", "zsh"},
		"keywicket --config config.":        {"config.yaml"},
		"keywicket nonsense config.":        {"config.yaml"},
	} {
		// fish looks for its functions where Debian installs them.
		out := output(t, dir, "fish", "--no-config", "-c", `
			set -a fish_function_path $argv[1]/usr/share/fish/functions
			source keywicket.fish
			complete -C $argv[2]`, shellFolder(t, "fish"), line)
		got := strings.Fields(out)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// zshDriver types a line and the Tab key into an interactive zsh, and prints the line that zsh has completed.
const zshDriver = `
setup="[[ -d $1 ]] && module_path=($1/usr/lib/*/zsh/*(/)) && fpath=($1/usr/share/zsh/functions/**/*(/)); :"
eval $setup
zmodload zsh/zpty
zpty typist "$2" -f -i
zpty -w typist "$setup; autoload -Uz compinit; compinit -u -D; source keywicket.zsh"
zpty -w typist 'show() { print -r -- "$BUFFER" > line.new; mv line.new line }; zle -N show; bindkey "^X" show; bindkey "^I" complete-word; echo READY_$((1+1))'
zpty -r -m typist seen '*READY_2*'
zpty -w -n typist "$3"$'\t\x18'
while [[ ! -e line ]]; do zpty -r -t typist seen; zmodload zsh/zselect; zselect -t 1; done
zpty -d typist
cat line; rm line
`

func TestCompletionInZsh(t *testing.T) {
	dir := folder(t, "zsh")
	for line, want := range map[string]string{
		"keywicket tok":                        "keywicket token ",
		"keywicket token create --expires-i":   "keywicket token create --expires-in ",
		"keywicket --output j":                 "keywicket --output json ",
		"keywicket --output=j":                 "keywicket --output=json ",
		"keywicket --output=json completion f": "keywicket --output=json completion fish ",
		"keywicket --config conf":              "keywicket --config config.yaml ",
	} {
		got := output(t, dir, "zsh", "-f", "-c", zshDriver, "driver", shellFolder(t, "zsh"), shell(t, "zsh"), line)
		if got != want+"\n" {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// folder returns a folder with the shell's completion script, and with a file config.yaml.
func folder(t *testing.T, shell string) string {
	t.Helper()
	dir := t.TempDir()
	keywicket, err := program.Keywicket()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(keywicket, filepath.Join(dir, "keywicket")); err != nil {
		t.Fatal(err)
	}
	script, err := exec.CommandContext(t.Context(), keywicket, "completion", shell).Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"keywicket." + shell: string(script), "config.yaml": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// output runs the shell in the folder, and returns its standard output.
func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, shell(t, name), args...)
	command.Dir = dir
	command.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "HOME=" + dir, "TERM=dumb", "KEYWICKET_DATABASE_URL=postgres://x:y@127.0.0.1:1/x"}
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args[len(args)-1], err)
	}
	return string(out)
}

// shell returns the path of the program: the one that `make` has downloaded, or the installed one.
func shell(t *testing.T, name string) string {
	t.Helper()
	if path, ok := modulefile.Find(".tools/" + name); ok {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: install %s, or run test/shells/fetch-shell %s", err, name, name)
	}
	return path
}

// shellFolder returns the folder with the files of a downloaded shell. For an installed shell, the folder does not exist.
func shellFolder(t *testing.T, name string) string {
	t.Helper()
	return shell(t, name) + ".d"
}
