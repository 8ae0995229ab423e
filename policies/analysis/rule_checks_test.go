package analysis_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// Each `not` that can be undefined instead of true causes a warning. No other expression causes a warning.
func TestUnsafeNot(t *testing.T) {
	for expression, want := range map[string]bool{
		`not data.facts.plans[input.workspace.attributes.plan].photos`:      true,
		`not input.workspace.attributes.plan in {"pro"}`:                    true,
		`not startswith(input.request.headers["x-a"][0], "b")`:              true,
		`not input.workspace.attributes.plan != "free"`:                     true,
		`not input.workspace.attributes.plan == "pro"`:                      false,
		`not input.workspace.attributes.plan`:                               false,
		`not input.request.method in {"GET"}`:                               false,
		`not input.principal.attributes.read_only == lower("TRUE")`:         false,
		`input.workspace.attributes.plan == "pro"`:                          false,
		`not input.workspace.attributes[input.principal.attributes.x] == 1`: true,
	} {
		for imports, warned := range map[string]bool{"": want, "import future.keywords.not\n\n": false} {
			dir := policytest.Copy(t)
			policytest.Write(t, dir, "keywicket/own.rego", "package keywicket\n\n"+imports+"headers[\"x-a\"] := \"b\" if {\n\tinput.api == \"zoo\"\n\t"+expression+"\n}\n")
			got := policytest.Explainer(t, dir).Warnings()
			if (len(got) == 1) != warned || len(got) > 1 || warned && !strings.HasPrefix(got[0], "keywicket/own.rego:5: if input.") {
				t.Errorf("%s%s: %q", imports, expression, got)
			}
		}
	}
}
