package policies_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// A policy that allows more than it appears to allow is refused. The error has the line and the remedy.
func TestPolicyThatAllowsMoreThanItAppearsToAllowIsRefused(t *testing.T) {
	const table = "apis/velaflows/data.yaml"
	shipped := func(t *testing.T) string { t.Helper(); return policytest.Copy(t) }
	earlier := func(t *testing.T) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "policies")
		if err := os.CopyFS(dir, os.DirFS("../test/testdata/earlier-policies")); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	earlierDecision := func(t *testing.T) string { // only decision.rego is from an earlier version
		t.Helper()
		dir := shipped(t)
		for _, file := range []string{"decision.rego", "decision_test.rego"} {
			text, err := os.ReadFile(filepath.Join("..", "test", "testdata", "earlier-policies", "keywicket", file))
			if err != nil {
				t.Fatal(err)
			}
			policytest.Write(t, dir, "keywicket/"+file, string(text))
		}
		return dir
	}
	row := func(rows string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			policytest.Edit(t, dir, table, "routes:\n", "routes:\n"+rows)
		}
	}
	file := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { t.Helper(); policytest.Write(t, dir, name, text) }
	}
	const deny = "package keywicket\n\ndeny contains {\"code\": \"FORBIDDEN\", \"reason\": \"no_route\"} if input.api == \"velaflows\"\n"
	for name, c := range map[string]struct {
		copyPolicy func(t *testing.T) string
		edit       func(t *testing.T, dir string)
		want       string // empty if the policy is accepted
	}{
		"any_of with earlier rules":               {earlier, row("  - {method: GET, path: /zz, any_of: [tags:read]}\n"), ":33: the rules allow a token without any scope, because they do not read any_of"},
		"any_of with an earlier decision.rego":    {earlierDecision, row("  - {method: GET, path: /zz, any_of: [tags:read]}\n"), ":50: the rules allow a token without any scope"},
		"any_of":                                  {shipped, row("  - {method: GET, path: /zz, any_of: [tags:read]}\n"), ""},
		"a rest parameter with earlier rules":     {earlier, row("  - {method: GET, path: \"/zz/{id}\", scopes: [tags:write]}\n  - {method: GET, path: \"/zz/{r...}\", scopes: [tags:read]}\n"), `keywicket/route.rego finds `},
		"a partial segment with earlier rules":    {earlier, row("  - {method: GET, path: /zz/vx, scopes: [tags:write]}\n  - {method: GET, path: \"/zz/v{id}\", scopes: [tags:read]}\n"), `keywicket/route.rego finds `},
		"the method * with earlier rules":         {earlier, row("  - {method: \"*\", path: /zz, scopes: [tags:write]}\n"), `:33: keywicket/route.rego finds "" for GET /zz instead of * /zz`},
		"a row in an old form with earlier rules": {earlier, row("  - {method: GET, path: \"/zz/{id}\", scopes: [tags:write]}\n"), ""},
		"a denial with earlier rules":             {earlier, file("keywicket/own.rego", deny), "keywicket/own.rego:3: data.keywicket.deny is defined, but no rule reads it: use keywicket/decision.rego"},
		"a denial in a test file":                 {shipped, file("keywicket/own_test.rego", deny), "keywicket/own_test.rego:3: data.keywicket.deny is read at keywicket/decision.rego:"},
		"a rule that reads a test file":           {shipped, file("keywicket/own.rego", "package keywicket\n\nheaders[\"x-a\"] := \"b\" if data.keywicket.fixture.own.granted\n"), "keywicket/fixture_test.rego:"},
		"deny is true":                            {shipped, file("keywicket/own.rego", "package keywicket\n\ndeny := true if input.api == \"zoo\"\n"), "keywicket/own.rego:3: deny must contain objects. Write: deny contains"},
		"a denial that is a string":               {shipped, file("keywicket/own.rego", "package keywicket\n\ndeny contains \"no\" if input.api == \"zoo\"\n"), "keywicket/own.rego:3: deny must contain objects"},
		"a denial that allows":                    {shipped, file("keywicket/own.rego", "package keywicket\n\ndeny contains {\"code\": \"FORBIDDEN\", \"reason\": \"no_route\", \"allow\": true} if input.api == \"zoo\"\n"), `keywicket/own.rego:3: a denial of data.keywicket.deny has the unknown key "allow"`},
		"headers that are a set":                  {shipped, file("keywicket/own.rego", "package keywicket\n\nheaders contains \"x-plan\" if input.api == \"zoo\"\n"), "keywicket/own.rego:3: headers must be an object"},
		"other data with code and reason":         {shipped, file("keywicket/own.rego", "package keywicket\n\nheaders[\"x-a\"] := entry.code if {\n\tsome entry in [{\"code\": \"US\", \"reason\": \"sanction\", \"note\": 1}]\n}\n"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.copyPolicy(t)
			c.edit(t, dir)
			_, err := policies.LoadExplainer(t.Context(), policies.Config{Dir: dir})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

// Explain returns the place of the rule that defines the denial.
func TestExplainNamesTheDenialsRule(t *testing.T) {
	dir := policytest.Copy(t)
	policytest.Write(t, dir, "keywicket/own.rego", "package keywicket\n\ndeny contains {\"code\": \"PAYMENT_REQUIRED\", \"reason\": \"unpaid\"} if {\n\tinput.request.host == \"x\"\n}\n\ndeny contains {\"code\": \"PAYMENT_REQUIRED\", \"reason\": \"unpaid\"} if {\n\tinput.request.host == \"api.example\"\n}\n")
	e, err := policytest.Explainer(t, dir).Explain(t.Context(), policytest.Input())
	if err != nil || e.Code != "PAYMENT_REQUIRED" || !strings.HasSuffix(e.Rule, "keywicket/own.rego:7") {
		t.Errorf("%+v, %v", e, err)
	}
}
