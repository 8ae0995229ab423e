package source_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// ownRules is a policy with a rule, a table and facts, each in its own folder, and a test that needs all of them.
const ownRules = `
-- facts/closed/data.yaml --
paths: [/closed]
-- apis/zoo/data.yaml --
routes: [{method: GET, path: /closed, public: true}]
-- keywicket/own.rego --
package keywicket

closed if input.request.path in data.facts.closed.paths
-- keywicket/own_test.rego --
package own_test

test_closed if {
	some row in data.apis.zoo.routes
	data.keywicket.closed with input.request.path as row.path
}
`

// mountConfigMap moves the content of a folder to where Kubernetes puts the keys of a ConfigMap. The files are in a folder named
// by the time, and ..data links to this folder. The volume itself contains a link for each first part of a path.
func mountConfigMap(t *testing.T, volume, version string) {
	t.Helper()
	entries, err := os.ReadDir(volume)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(volume, version), 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, version, filepath.Join(volume, "..data"))
	for _, entry := range entries {
		if err := os.Rename(filepath.Join(volume, entry.Name()), filepath.Join(volume, version, entry.Name())); err != nil {
			t.Fatal(err)
		}
		link(t, "..data/"+entry.Name(), filepath.Join(volume, entry.Name()))
	}
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

const firstVersion = "..2026_11_28_13_00_00.1203487263"

// TestKubernetesVolumes tests that a policy in a mounted ConfigMap is the same policy as in a folder: the same files have the
// same hash.
func TestKubernetesVolumes(t *testing.T) {
	plain := policytest.Load(t, policyOf(t, ownRules)).Hash()
	for name, volumes := range map[string][]string{
		"one volume, with a path for each key": {"."},
		"a ConfigMap for each folder":          {"keywicket", "apis/zoo", "apis/velaflows", "facts/closed"},
		"some folders":                         {"apis", "keywicket"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := policyOf(t, ownRules)
			for _, volume := range volumes {
				mountConfigMap(t, filepath.Join(dir, volume), firstVersion)
			}
			if passed, output := opaTest(t, dir); !passed {
				t.Errorf("opa test --ignore '.*': %s", output)
			}
			if hash := policytest.Load(t, dir).Hash(); hash != plain {
				t.Errorf("the hash is %s; without links it is %s", hash, plain)
			}
			explained, err := policytest.Explainer(t, dir).Explain(t.Context(), policytest.Input())
			if err != nil || explained.Rule == "" {
				t.Errorf("explained as %+v, %v", explained, err)
			}
		})
	}
}

// TestNewVersionOfAConfigMap tests the change of a ConfigMap: Kubernetes writes a new folder, and then renames the link ..data.
func TestNewVersionOfAConfigMap(t *testing.T) {
	dir := policyOf(t, ownRules)
	mountConfigMap(t, dir, firstVersion)
	before := policytest.Load(t, dir).Hash()
	const second = "..2026_11_28_14_00_00.2841903377"
	if err := os.CopyFS(filepath.Join(dir, second), os.DirFS(filepath.Join(dir, firstVersion))); err != nil {
		t.Fatal(err)
	}
	policytest.Edit(t, dir, second+"/facts/closed/data.yaml", "[/closed]", "[/closed, /shut]")
	if hash := policytest.Load(t, dir).Hash(); hash != before {
		t.Errorf("the hash is %s instead of %s before the link changes", hash, before)
	}
	link(t, second, filepath.Join(dir, "..data_tmp"))
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if hash := policytest.Load(t, dir).Hash(); hash == before {
		t.Error("the hash does not cover the file that the link leads to")
	}
}

// TestFilesThatAreNoPolicy tests that the sidecar ignores what `opa test -b --ignore '.*'` ignores: the policy is the same.
func TestFilesThatAreNoPolicy(t *testing.T) {
	dir := policyOf(t, ownRules)
	plain := policytest.Load(t, dir).Hash()
	const broken = "broken {"
	for _, file := range []string{
		".regal.yaml", ".manifest", ".git/HEAD", ".git/refs/x.rego", ".regal/rules/rule.rego", ".vscode/settings.json",
		".github/workflows/ci.yaml", "keywicket/._own.rego", "keywicket/.old/data.yaml", "keywicket/own.rego~", "keywicket/own.rego.orig",
		"input.json", "apis/zoo/openapi.yaml", "apis/zoo/data.yaml.bak", "facts/closed/more.yaml", "package.json", "Makefile", "README.md",
		"node_modules/a/package.json", "node_modules/b/lib/index.js", "values.yml", "bundle.tar.gz", "policy.wasm",
	} {
		policytest.Write(t, dir, file, broken)
	}
	link(t, "host:1234", filepath.Join(dir, "keywicket/.#own.rego")) // Emacs locks a file in this way
	if passed, output := opaTest(t, dir, "-b"); !passed {
		t.Errorf("opa test -b --ignore '.*': %s", output)
	}
	engine := policytest.Load(t, dir)
	if engine.Hash() != plain {
		t.Errorf("the hash is %s; without these files it is %s", engine.Hash(), plain)
	}
	want := []string{
		".git", ".github", ".manifest", ".regal", ".regal.yaml", ".vscode", "Makefile", "README.md", "apis/zoo/data.yaml.bak",
		"apis/zoo/openapi.yaml", "bundle.tar.gz", "facts/closed/more.yaml", "input.json", "keywicket/.#own.rego", "keywicket/._own.rego",
		"keywicket/.old", "keywicket/own.rego.orig", "keywicket/own.rego~", "node_modules", "package.json", "policy.wasm", "table.schema", "values.yml",
	}
	got := slices.Clone(engine.Ignored())
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("ignored\n%q, want\n%q", got, want)
	}
}

// TestLinks tests each kind of link. A link that leads out of the folder is an error: rules must not read other files, and a
// missing rule could allow a request.
func TestLinks(t *testing.T) {
	const (
		out      = "the link leads out of the policy folder: copy its target into the folder"
		circular = "a link leads to a folder that contains the link: remove the link"
		dangling = "the link cannot be followed: "
	)
	outside := t.TempDir()
	policytest.Write(t, outside, "lib/lib.rego", "package lib\n")
	policytest.Write(t, outside, "secret", "password: hunter2\n")
	for name, c := range map[string]struct {
		target, name string
		want         string // the sidecar's error
	}{
		"to a file":                        {"../facts/closed/data.yaml", "facts/data.yaml", passes},
		"to a file, by another name":       {"../README.md", "keywicket/more.rego", passes},
		"to a folder":                      {"keywicket", "again", "again/decision.rego:1"},
		"to a hidden folder":               {".hidden", "more", passes},
		"to a link":                        {"a.rego", "keywicket/b.rego", passes},
		"absolute, to a file":              {"DIR/README.md", "keywicket/more.rego", passes},
		"absolute, to a folder":            {"DIR/.hidden", "more", passes},
		"out, to a rule":                   {outside + "/lib/lib.rego", "keywicket/lib.rego", "keywicket/lib.rego: " + out},
		"out, to a secret":                 {outside + "/secret", "facts/secret/data.yaml", "facts/secret/data.yaml: " + out},
		"out, to a folder":                 {outside + "/lib", "lib", "lib: " + out},
		"out, relative":                    {"../../OUT/lib", "lib", "lib: " + out},
		"out, to a file that is no policy": {outside + "/secret", "LICENSE", passes},
		"out, through a folder":            {outside, "apis/out", "apis/out: " + out},
		"to its folder":                    {".", "apis/zoo/loop", "apis/zoo/loop: " + circular},
		"to a folder above":                {"..", "apis/zoo/loop", "apis/zoo/loop: " + circular},
		"to nothing, as a rule":            {"nowhere", "keywicket/more.rego", "keywicket/more.rego: " + dangling + "no such file or directory"},
		"to nothing":                       {"nowhere", "more", "more: " + dangling + "no such file or directory"},
		"to itself":                        {"more", "more", "more: " + dangling + "too many levels of symbolic links"},
		"to a pipe":                        {"../pipe", "keywicket/more.rego", "keywicket/more.rego: this is not a regular file"},
		"to a pipe that is no policy":      {"pipe", "more", passes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := policyOf(t, ownRules)
			policytest.Write(t, dir, "README.md", "package more\n")
			policytest.Write(t, dir, ".hidden/more.rego", "package more\n")
			policytest.Write(t, dir, "keywicket/z.rego", "package z\n")
			link(t, "z.rego", filepath.Join(dir, "keywicket/a.rego"))
			if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
				t.Fatal(err)
			}
			target := strings.Replace(c.target, "DIR", dir, 1)
			if rest, ok := strings.CutPrefix(target, "../../OUT"); ok {
				relative, err := filepath.Rel(dir, outside)
				if err != nil {
					t.Fatal(err)
				}
				target = relative + rest
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, c.name)), 0o755); err != nil {
				t.Fatal(err)
			}
			link(t, target, filepath.Join(dir, c.name))
			_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
			if (err == nil) != (c.want == passes) || !strings.Contains(errorText(err), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if strings.Contains(errorText(err), "hunter2") {
				t.Errorf("the error shows the target's content: %v", err)
			}
		})
	}
}

// TestLinkedFolder tests that the path of the folder may be a link, relative, or have a name that starts with a dot.
func TestLinkedFolder(t *testing.T) {
	dir := policyOf(t, ownRules)
	plain := policytest.Load(t, dir).Hash()
	parent := t.TempDir()
	t.Chdir(parent)
	link(t, dir, ".current")
	for _, name := range []string{".current", "./.current/", filepath.Join(parent, ".current")} {
		if hash := policytest.Load(t, name).Hash(); hash != plain {
			t.Errorf("%s has the hash %s instead of %s", name, hash, plain)
		}
	}
}

// TestFolderThatIsNone tests the errors for a folder that does not exist, is a file, or has no policy.
func TestFolderThatIsNone(t *testing.T) {
	dir := policyOf(t, "")
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ dir, want string }{
		"missing":          {"nowhere", "the folder does not exist: create it, or correct its name"},
		"a file":           {"file", "this is not a folder: name the folder that contains keywicket/ and apis/"},
		"below a file":     {"file/below", "this is not a folder: name the folder that contains keywicket/ and apis/"},
		"without a policy": {"facts", "there is no table: create apis/NAME/data.yaml for your API\nthere is no Rego file"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(filepath.Join(dir, "facts"), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := policies.Load(t.Context(), policies.Config{Dir: filepath.Join(dir, c.dir)})
			if got := errorText(err); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Chdir(dir)
	_, err := policies.Load(t.Context(), policies.Config{Dir: "nowhere"})
	if got, want := errorText(err), "the folder does not exist in "+dir+": create it, or correct its name"; got != want {
		t.Errorf("a relative name: got %q, want %q", got, want)
	}
}
