package test

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
	"github.com/keywicket/keywicket/internal/testnames"
	"github.com/keywicket/keywicket/policies"
)

var (
	shellBlock = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")
	expected   = regexp.MustCompile(`\s+# → (.*)$`)
	link       = regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)

	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Runs every command of the README and of docs/ as written, beside a running demo. Its output must match the text after the
// arrow.
func TestDocumentedCommandsWork(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	d, err := demo.New(ctx, demo.Config{Keywicket: world.binary})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := commandFolder(ctx, t, root)
	addresses := strings.NewReplacer("http://127.0.0.1:8000", d.VelaFlows, "http://127.0.0.1:8001", d.Velocity)
	var shown bytes.Buffer
	if err := d.Print(&shown); err != nil {
		t.Fatal(err)
	}
	environ := append(os.Environ(), "KEYWICKET_DATABASE_URL="+d.DatabaseURL(), "PATH="+dir+":"+os.Getenv("PATH"),
		regexp.MustCompile(`SESSION=\S+`).FindString(shown.String()), "BROWSER="+browserOf(t))
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
				where := dir
				if target, ok := strings.CutPrefix(line, "make "); ok {
					// The targets run this test themselves, so it checks only that each one exists and is complete.
					line, where = "make --dry-run "+target, root
				}
				if strings.HasPrefix(line, "go ") {
					where = root
				}
				command := exec.CommandContext(ctx, "sh", "-c", line)
				command.Dir, command.Env = where, environ
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

// browserOf returns a command that does what a user does in a browser.
func browserOf(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "browser")
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$1\"\n", browserVariable, os.Args[0])
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// browserVariable makes this test binary a user who consents to the request of the app at an address.
const browserVariable = "KEYWICKET_TEST_BROWSER"

func consent(ctx context.Context, address string) error {
	back, err := demo.NewUser("ada@example.com").Approve(ctx, address)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, back.String(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// commandFolder returns a folder with the files that the commands need: bin/keywicket, policies, and a stock opa on the
// PATH.
func commandFolder(ctx context.Context, t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-modfile=tools/opa.mod", "-o", filepath.Join(dir, "opa"), "github.com/open-policy-agent/opa")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build opa: %v\n%s", err, out)
	}
	if err := os.CopyFS(filepath.Join(dir, "policies"), policies.Builtin); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(world.binary, filepath.Join(dir, "bin", "keywicket")); err != nil {
		t.Fatal(err)
	}
	return dir
}

type shellCommand struct{ line, want string }

// commandsOf splits a block into commands. A backslash at the end of a line joins it with the next line.
func commandsOf(block string) []shellCommand {
	var commands []shellCommand
	for _, line := range strings.Split(strings.ReplaceAll(block, "\\\n", " "), "\n") {
		c := shellCommand{line: strings.TrimSpace(line)}
		if m := expected.FindStringSubmatch(c.line); m != nil {
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
	all := []string{filepath.Join(root, "README.md")} // first: other documents' commands sign Ada out
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

// TestDocumentedLinksLeadSomewhere checks the file and the heading of each link.
func TestDocumentedLinksLeadSomewhere(t *testing.T) {
	for _, document := range documents(t, "..") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			file, anchor := m[1], m[2]
			if strings.Contains(file, "://") {
				continue
			}
			target := document
			if file != "" {
				target = filepath.Join(filepath.Dir(document), file)
			}
			content, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr == nil && info.IsDir() {
				err = nil
			}
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(document), err)
			} else if anchor != "" && !slices.Contains(anchors(string(content)), anchor) {
				t.Errorf("%s: %s has no heading for %s", filepath.Base(document), filepath.Base(target), anchor)
			}
		}
	}
}

// anchors returns those that GitHub gives to the headings of a document.
func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := notInAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, "#"+strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// Every test that a document names exists. README.md cites these documents as proof.
func TestNamedTestsExist(t *testing.T) {
	var names []string
	for document, least := range map[string]int{"security.md": 50, "reliability.md": 15, "configuration.md": 5, "policies.md": 1, "operations.md": 1} {
		text, err := os.ReadFile("../docs/" + document)
		if err != nil {
			t.Fatal(err)
		}
		named := testnames.In(string(text))
		if len(named) < least {
			t.Errorf("%s names only %d tests", document, len(named))
		}
		names = append(names, named...)
	}
	missing, err := testnames.Missing("..", names)
	if err != nil || len(missing) > 0 {
		t.Errorf("there is no %v, %v", missing, err)
	}
}

// docs/configuration.md names every key of the defaults.
func TestEveryKeyIsDocumented(t *testing.T) {
	defaults, err := os.ReadFile("../cmd/keywicket/defaults.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	section, keys := "", 0
	key := regexp.MustCompile(`^( *)([a-z_]+):`)
	for _, line := range strings.Split(string(defaults), "\n") {
		m := key.FindStringSubmatch(line)
		if m == nil || section == "apis" {
			continue
		}
		name := m[2]
		if m[1] == "" {
			section = name
		} else {
			name = section + "." + name
		}
		if strings.HasSuffix(strings.TrimSpace(line), ":") { // a group
			continue
		}
		keys++
		if !strings.Contains(string(document), "| `"+name+"` |") {
			t.Errorf("docs/configuration.md does not explain %s", name)
		}
	}
	if keys < 10 {
		t.Errorf("only %d keys were found", keys)
	}
}
