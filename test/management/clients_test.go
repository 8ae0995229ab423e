package management

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/test/harness"
)

// run runs a program and returns its output.
func run(t *testing.T, folder, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Dir = folder
	command.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	output, err := command.Output()
	if err != nil {
		stderr := ""
		if failed, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output returns this error unwrapped
			stderr = string(failed.Stderr)
		}
		t.Fatalf("%s %q: %v\n%s\n%s", filepath.Base(program), args, err, output, stderr)
	}
	return strings.TrimSpace(string(output))
}

// python is the interpreter with the packages of requirements.txt.
func python(t *testing.T) string {
	t.Helper()
	path := absolute(t, "../../.tools/management-python/bin/python")
	if _, err := os.Stat(path); err != nil {
		t.Fatal("no Python packages: run make .tools/management-python")
	}
	return path
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// document is the path of the checked-in document.
const document = "../../console/api/openapi.json"

// A program of the OpenAPI initiative's community validates the document.
func TestDocumentIsValid(t *testing.T) {
	harness.SkipIfShort(t)
	run(t, ".", python(t), "-m", "openapi_spec_validator", "--errors", "all", document)
}

// Generated clients create, list and revoke tokens. The compiler accepts the TypeScript client.
func TestGeneratedClients(t *testing.T) {
	harness.SkipIfShort(t)
	d := start(t)
	for name, client := range map[string]func(*testing.T) (program string, args []string){"Python": pythonClient, "TypeScript": typeScriptClient} {
		t.Run(name, func(t *testing.T) {
			program, args := client(t)
			call := func(token string, command ...string) string {
				return run(t, ".", program, append(append(args, d.Velocity+api, token, "acme"), command...)...)
			}
			id, token, _ := strings.Cut(call(d.session, "create", name, "issues:read"), " ")
			if got := d.send(t, token, issues, nil); got.status != 200 {
				t.Errorf("the created token gets %d %s", got.status, got.text)
			}
			if ids := call(d.session, "list"); !strings.Contains(ids, id) {
				t.Errorf("the list is %s", ids)
			}
			if status := call(d.session, "revoke", id); status != "revoked" {
				t.Errorf("the revocation gives %s", status)
			}
			harness.Await(t, "the token is revoked", func() bool { return d.send(t, token, issues, nil).reason() == "revoked" })
			if got := call(token, "list"); got != "error UNAUTHORIZED revoked" {
				t.Errorf("the sidecar's denial is %s", got)
			}
			if got := call(d.session, "revoke", "none"); got != "error NOT_FOUND not_found" {
				t.Errorf("an unknown id gives %s", got)
			}
		})
	}
}

func pythonClient(t *testing.T) (program string, args []string) {
	folder := t.TempDir()
	config := filepath.Join(folder, "config.yaml")
	// Without post_hooks, the generator would format the code with a program of PATH.
	if err := os.WriteFile(config, []byte("post_hooks: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, folder, python(t), "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none", "--config", config,
		"--path", absolute(t, document), "--output-path", filepath.Join(folder, "keywicket"))
	return python(t), []string{"client.py", folder}
}

func typeScriptClient(t *testing.T) (program string, args []string) {
	node := "node"
	if own := absolute(t, "../../.tools/node/bin/node"); exists(own) {
		node = own
	}
	modules := absolute(t, "node_modules")
	if !exists(filepath.Join(modules, ".package-lock.json")) {
		t.Fatal("no npm packages: run make test/management/node_modules")
	}
	folder := t.TempDir()
	text, err := os.ReadFile("client.ts")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"client.ts": string(text), "package.json": `{"type": "module"}`} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(modules, filepath.Join(folder, "node_modules")); err != nil {
		t.Fatal(err)
	}
	run(t, folder, node, "node_modules/openapi-typescript/bin/cli.js", absolute(t, document), "--output", "schema.d.ts")
	run(t, folder, node, "node_modules/typescript/bin/tsc", "--strict", "--noUncheckedIndexedAccess", "--target", "es2022", "--module", "nodenext", "client.ts")
	return node, []string{filepath.Join(folder, "client.js")}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
