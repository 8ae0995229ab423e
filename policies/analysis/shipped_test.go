package analysis_test

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/source"
)

// The index replaces the shipped file only if that file alone determines which row is found.
func TestIndexReplacesOnlyTheShippedFile(t *testing.T) {
	const route, decision = "keywicket/route.rego", "keywicket/decision.rego"
	shipped, err := policies.Builtin.ReadFile(route)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file, from, to string
		want           bool
	}{
		"as shipped":                             {decision, "", "", true},
		"a comment":                              {route, "# Most rows", "# Many rows", true},
		"a changed decision":                     {decision, "permitted\n", "permitted\n\tinput.request.method != \"TRACE\"\n", true},
		"`with` replaces the input":              {decision, "public if route.public == true", "public if route.public == true with input.request.method as \"GET\"", true},
		"a changed order":                        {route, "min(matches)", "max(matches)", false},
		"an additional match":                    {decision, "public if", "matches contains [[[0]], 0, 0] if input.api == \"zoo\"\n\npublic if", false},
		"`with` replaces tables":                 {decision, "public if route.public == true", "public if route.public == true with data.apis.velocity.routes as []", false},
		"`with` replaces a used function":        {decision, "public if route.public == true", "public if route.public == true with regex.match as true", false},
		"`with` replaces an unused function":     {decision, "public if route.public == true", "public if route.public == true with time.now_ns as 1", true},
		"`with` replaces facts":                  {decision, "public if route.public == true", "public if route.public == true with data.facts.x as 1", true},
		"`with` replaces all data":               {decision, "public if route.public == true", "public if route.public == true with data as {}", false},
		"a rule that adds to a table":            {"apis/more.rego", "", "package apis.velaflows\n\nhead_with_get := true if input.context.head\n", false},
		"a rule that adds to methods":            {"apis/more.rego", "", "package keywicket.methods\n\nLINK := 0 if input.request.method == \"LINK\"\n", false},
		"a rule of another package":              {"apis/more.rego", "", "package helper\n\nmethods := 1\n", true},
		"a rule named like count":                {"keywicket/own.rego", "", "package keywicket\n\ncount(x) := 0 if x\n", false},
		"a rule named like startswith":           {"keywicket/own.rego", "", "package keywicket\n\nstartswith(a, b) := false if { a; b }\n", false},
		"a rule named like an operator":          {"keywicket/own.rego", "", "package keywicket\n\nminus(a, b) := a if b\n", false},
		"a rule named like the index's function": {"keywicket/own.rego", "", "package keywicket\n\nkeywicket := 1\n", false},
		"a rule named like an unused function":   {"keywicket/own.rego", "", "package keywicket\n\nupper(x) := x\n", true},
		"an additional import":                   {route, "package keywicket", "package keywicket\n\nimport data.lib.startswith", false},
		"a rule that adds to rows":               {decision, "public if", "rows[\"zoo\"] := [] if input.api == \"zoo\"\n\npublic if", false},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := policies.Config{}.Folder()
			if err != nil {
				t.Fatal(err)
			}
			s, err := source.Read(files)
			if err != nil {
				t.Fatal(err)
			}
			original, err := policies.Builtin.ReadFile(c.file)
			if err != nil && s.Rules[c.file] != nil {
				t.Fatal(err)
			}
			text := strings.Replace(string(original), c.from, c.to, 1)
			if c.from != "" && !strings.Contains(string(original), c.from) {
				t.Fatalf("%s has no %q", c.file, c.from)
			}
			if s.Rules[c.file], err = ast.ParseModuleWithOpts(c.file, text, ast.ParserOptions{}); err != nil {
				t.Fatal(err)
			}
			if got, err := analysis.HasShippedRoute(s, shipped); err != nil || got != c.want {
				t.Errorf("%t, %v", got, err)
			}
		})
	}
}
