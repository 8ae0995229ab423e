// Package docs tests the documents: the commands, the links, and the names of tests and of configuration keys.
package docs

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/program"
	"github.com/keywicket/keywicket/test/rego"
)

var shellBlock = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")

var expectedOutput = regexp.MustCompile(`\s+# → (.*)$`)

// The test runs every command exactly as the documents contain it, while a demo runs. The output of a command must contain the
// text after "# →".
func TestDocumentedCommandsWork(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	d := harness.StartDemo(t, demo.Config{})
	dir := commandFolder(t)
	addresses := strings.NewReplacer("http://127.0.0.1:8000", d.VelaFlows, "http://127.0.0.1:8001", d.Velocity)
	var demoOutput bytes.Buffer
	if err := d.Print(&demoOutput); err != nil {
		t.Fatal(err)
	}
	environ := append(os.Environ(), "KEYWICKET_DATABASE_URL="+d.DatabaseURL(), "PATH="+dir+":"+os.Getenv("PATH"),
		regexp.MustCompile(`SESSION=\S+`).FindString(demoOutput.String()), "BROWSER="+browserScript(t))
	ran := 0
	for _, document := range documents(t, root) {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
			for _, c := range commandsOf(block[1]) {
				ran++
				line := addresses.Replace(c.line)
				folder := dir
				if target, ok := strings.CutPrefix(line, "make "); ok {
					// Some make targets run this test. So the test runs no make target: --dry-run only checks that the
					// target exists and is complete.
					line, folder = "make --dry-run "+target, root
				}
				if strings.HasPrefix(line, "go ") {
					folder = root
				}
				command := exec.CommandContext(ctx, "sh", "-c", line)
				command.Dir, command.Env = folder, environ
				out, err := command.CombinedOutput()
				if err != nil || !strings.Contains(string(out), c.want) {
					t.Errorf("%s: %s\n%v, want %q in\n%s", filepath.Base(document), c.line, err, c.want, out)
				}
			}
		}
	}
	if ran < 15 {
		t.Errorf("only %d commands were found", ran)
	}
	t.Logf("%d commands", ran)
}

// browserScript returns the path of a script that acts as a user with a browser.
func browserScript(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "browser")
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$1\"\n", browserVariable, os.Args[0])
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// browserVariable is an environment variable. If it is set, this test binary acts as a user in a browser: it opens an
// address, and consents to the app's request.
const browserVariable = "KEYWICKET_TEST_BROWSER"

func consent(ctx context.Context, address string) error {
	redirect, err := demo.NewUser("ada@example.com").Approve(ctx, address)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, redirect.String(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// commandFolder returns a folder with the files that the commands need: bin/keywicket, policies, and the official opa. The
// folder is on the commands' PATH.
func commandFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	opa, err := program.OPA()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(opa, filepath.Join(dir, "opa")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(rego.CopyBuiltin(t), filepath.Join(dir, "policies")); err != nil { // no link: opa test -b does not follow it
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	keywicket, err := program.Keywicket()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(keywicket, filepath.Join(dir, "bin", "keywicket")); err != nil {
		t.Fatal(err)
	}
	return dir
}

type shellCommand struct{ line, want string }

// commandsOf splits a block into commands. A backslash at the end of a line joins it with the next line. A here-document belongs
// to its command.
func commandsOf(block string) []shellCommand {
	var commands []shellCommand
	block = strings.ReplaceAll(block, "\\\n", " ")
	for block != "" {
		line, rest, _ := strings.Cut(block, "\n")
		if strings.HasSuffix(line, "<<'EOF'") {
			document, after, _ := strings.Cut(rest, "\nEOF\n")
			line, rest = line+"\n"+document+"\nEOF", after
		}
		block = rest
		c := shellCommand{line: strings.TrimSpace(line)}
		if m := expectedOutput.FindStringSubmatch(c.line); m != nil {
			c.want = m[1]
			c.line = strings.TrimSuffix(c.line, m[0])
		}
		if c.line != "" {
			commands = append(commands, c)
		}
	}
	return commands
}

func documents(t *testing.T, root string) []string {
	t.Helper()
	all := []string{filepath.Join(root, "README.md")} // README.md is the first, because commands of other documents end Ada's sessions
	for _, more := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, more))
		if err != nil || len(found) < 4 {
			t.Fatalf("%s: %v, %v", more, found, err)
		}
		for _, document := range found {
			if !slices.Contains(all, document) {
				all = append(all, document)
			}
		}
	}
	return all
}

func TestMain(m *testing.M) {
	if os.Getenv(browserVariable) != "" {
		if err := consent(context.Background(), os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}
