package analysis_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// declared has the denials and headers that an API of these tests declares.
var declared = map[string]authz.API{"velaflows": {UpstreamHeaders: []string{"x-region"}, Denials: []authz.DeclaredDenial{
	{Code: "PAYMENT_REQUIRED", Reason: "plan_too_small", Status: 402, Message: "m"},
	{Code: authz.CodeForbidden, Reason: "outside_office_hours", Status: 403, Message: "m"},
}}}

const otherKeys = `"allow": false, "required_scopes": [], "route": null`

// A constant code or reason of a denial must be built in or declared. A code or reason that depends on the input is not checked
// at load.
func TestUndeclaredDenialIsFoundAtLoad(t *testing.T) {
	for name, c := range map[string]struct {
		rules string // rules with a rule `extra`, which becomes another branch of the decision
		want  string // empty if there is no error
	}{
		"a function's arguments":        {`extra := denied("TEAPOT", "tea")`, `keywicket/extra.rego:3: a denial with the code "TEAPOT" and the reason "tea", which no API declares: add it to apis.NAME.denials`},
		"a declared code's reason":      {`extra := denied("PAYMENT_REQUIRED", "unpaid")`, `:3: a denial with the code "PAYMENT_REQUIRED" and the reason "unpaid"`},
		"another code's reason":         {`extra := denied("FORBIDDEN", "expired")`, `:3: a denial with the code "FORBIDDEN" and the reason "expired"`},
		"a code, the reason is dynamic": {`extra := denied("TEAPOT", input.denial)`, `:3: a denial with the code "TEAPOT", which`},
		"a reason, the code is dynamic": {`extra := denied(input.context.code, "tea")`, `:3: a denial with the reason "tea", which`},
		"an object":                     {"extra := {\n\t" + `"code": "TEAPOT", "reason": "tea", ` + otherKeys + "\n}", `:3: a denial with the code "TEAPOT"`},
		"an object in a body":           {"extra := d if {\n\td := {" + `"code": "TEAPOT", "reason": "tea", ` + otherKeys + "}\n}", `:4: a denial`},
		"in an else":                    {"extra := denied(\"FORBIDDEN\", \"no_route\") if {\n\tinput.context.never\n} else := denied(\"TEAPOT\", \"tea\") if {\n\tinput.context.now\n}", `:5: a denial`},
		"a function of a function":      {"extra := forbidden(\"tea\")\n\nforbidden(why) := denied(\"FORBIDDEN\", why)", `:3: a denial with the code "FORBIDDEN" and the reason "tea"`},
		"a function's else":             {"extra := f(\"tea\")\n\nf(why) := denied(\"FORBIDDEN\", \"no_route\") if {\n\tinput.context.never\n} else := denied(\"FORBIDDEN\", why)", `:3: a denial with the code "FORBIDDEN" and the reason "tea"`},
		"an object that is changed":     {`extra := object.union(denied("TEAPOT", "tea"), {"route": "x"})`, `:3: a denial`},
		"in a comprehension":            {"extra := [d | some why in [\"tea\"]; d := {\"code\": \"TEAPOT\", \"reason\": why, " + otherKeys + "}][0]", `:3: a denial with the code "TEAPOT", which`},
		"in another package":            {`extra := data.helper.answer`, `helper/helper.rego:3: a denial with the code "TEAPOT" and the reason "tea"`},
		"a function of another package": {"extra := data.helper.answers(\"tea\")", `keywicket/extra.rego:3: a denial with the code "TEAPOT" and the reason "tea"`},

		"a rule in another file": {`deny contains {"code": "TEAPOT", "reason": "tea"} if input.context.never`, `keywicket/extra.rego:3: a denial with the code "TEAPOT" and the reason "tea"`},
		"a header":               {`headers["x-plan"] := "pro"`, `keywicket/extra.rego:3: the header "x-plan" for the upstream, which no API declares: add it to apis.NAME.upstream_headers`},
		"a header of an object":  {`headers := {"x-region": "eu", "x-plan": "pro"}`, `:3: the header "x-plan" for the upstream`},
		"a header of a decision": {"extra := {\"headers\": {\"x-plan\": \"pro\"}, \"code\": null, \"reason\": null, " + otherKeys + "}", `:3: the header "x-plan"`},
		"two denials":            {"extra := denied(\"A\", \"a\") if {\n\tinput.context.never\n} else := denied(\"B\", \"b\")", "the reason \"a\", which no API declares: add it to apis.NAME.denials in the configuration, or correct the rule\nkeywicket/extra.rego:5: "},

		"a declared header":         {`headers["x-region"] := "eu"`, ""},
		"a header by a variable":    {`headers[name] := "eu" if name := input.context.header`, ""},
		"a declared denial":         {`extra := denied("PAYMENT_REQUIRED", "plan_too_small")`, ""},
		"a declared reason":         {`extra := denied("FORBIDDEN", "outside_office_hours")`, ""},
		"a built-in denial":         {`extra := denied("UNAUTHORIZED", "revoked")`, ""},
		"a dynamic denial":          {`extra := denied(input.context.code, input.context.reason)`, ""},
		"a code in a variable":      {"extra := denied(code, \"no_route\") if code := input.context.code", ""},
		"an unused rule":            {"extra := {} if false\n\nunused := denied(\"TEAPOT\", \"tea\")", ""},
		"an object of other things": {"extra := {} if {\n\tcountry := {\"code\": \"DE\"}\n\tinput.context.country == country.code\n}", ""},
		"a constant parameter":      {"extra := f(\"TEAPOT\")\n\nf(\"FORBIDDEN\") := denied(\"FORBIDDEN\", \"no_route\")", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := policytest.Copy(t)
			policytest.Edit(t, dir, "keywicket/decision.rego", `} else := denied("UNAUTHORIZED", input.denial) if {`, "} else := extra if {\n\tinput.context.extra\n"+`} else := denied("UNAUTHORIZED", input.denial) if {`)
			if !strings.Contains(c.rules, "extra") {
				c.rules += "\n\nextra := {} if false"
			}
			policytest.Write(t, dir, "keywicket/extra.rego", "package keywicket\n\n"+c.rules+"\n")
			policytest.Write(t, dir, "keywicket/extra_test.rego", "package extra_test\n\nimport data.keywicket\n\nanswer := keywicket.denied(\"TESTED\", \"alone\")\n")
			policytest.Write(t, dir, "helper/helper.rego", "package helper\n\nanswer := {\"code\": \"TEAPOT\", \"reason\": \"tea\", "+otherKeys+"}\n\nanswers(why) := {\"code\": \"TEAPOT\", \"reason\": why, "+otherKeys+"}\n")
			err := policytest.Explainer(t, dir).Uses().CheckDeclared(declared)
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestDenialsOfTheBuiltInPolicy(t *testing.T) {
	found := policytest.Load(t, "").Uses()
	if err := found.CheckDeclared(map[string]authz.API{"velaflows": {}}); err != nil || len(found) != 5 {
		t.Errorf("found %v, %v", found, err)
	}
}
