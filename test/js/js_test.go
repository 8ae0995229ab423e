package js_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/js"
)

func TestNodeFindsThePackages(t *testing.T) {
	node, err := js.Node()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"axe-core/axe.min.js", "oauth4webapi/build/index.js", "oidc-client-ts/dist/browser/oidc-client-ts.min.js",
		"@modelcontextprotocol/sdk/package.json",
	} {
		if _, err := js.File(name); err != nil {
			t.Error(err)
		}
	}
	script := `import * as oauth from "oauth4webapi"; console.log(typeof oauth.authorizationCodeGrantRequest)`
	out, err := exec.CommandContext(t.Context(), node, "--input-type=module", "--eval", script).CombinedOutput()
	if err != nil || string(out) != "function\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestErrorsExplainHowToInstall(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PATH", "")
	if _, err := js.Node(); err == nil || !strings.Contains(err.Error(), `run "make .tools/node"`) {
		t.Errorf("no Node.js: %v", err)
	}
	if _, err := js.File("axe-core/axe.min.js"); err == nil || !strings.Contains(err.Error(), `run "make test/js/node_modules"`) {
		t.Errorf("no axe-core: %v", err)
	}
}
