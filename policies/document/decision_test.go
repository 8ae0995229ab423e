package document_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// A policy that loads may still return no decision, or an invalid one. In both cases Decide returns an error, so the request is
// not allowed.
func TestInvalidDecision(t *testing.T) {
	for name, rule := range map[string]string{
		"undefined":           `decision := true if input.api == "other"`,
		"not an object":       `decision := true`,
		"no allow":            `decision := {"code": null, "reason": null, "required_scopes": [], "route": null}`,
		"allow is a string":   `decision := {"allow": "yes", "code": null, "reason": null, "required_scopes": [], "route": null}`,
		"a scope is a number": `decision := {"allow": true, "code": null, "reason": null, "required_scopes": [1], "route": null}`,
		"no scopes":           `decision := {"allow": true, "code": null, "reason": null, "route": null}`,
		"a built-in fails":    `decision := {"allow": 1 / count(input.context) > 0, "code": null, "reason": null, "required_scopes": [], "route": null}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := policytest.Copy(t)
			policytest.RemoveTests(t, dir)
			policytest.Write(t, dir, "keywicket/decision.rego", "package keywicket\n\n"+rule+"\n")
			d, err := policytest.Load(t, dir).Decide(t.Context(), policytest.Input())
			if err == nil {
				t.Fatalf("got %+v and no error", d)
			}
		})
	}
}

// An unknown key of the decision is an error. If the key is constant, the error occurs at load. If the key is computed, the
// error occurs when the policy decides.
func TestUnknownKeyOfTheDecision(t *testing.T) {
	for name, rule := range map[string]string{
		"constant": `decision := {"allow": true, "code": null, "reason": null, "required_scopes": [], "route": null, "header": {}}`,
		"in a function": `decision := f({})

f(h) := {"allow": true, "code": null, "reason": null, "required_scopes": [], "route": null, "header": h}`,
	} {
		dir := policytest.Copy(t)
		policytest.RemoveTests(t, dir)
		policytest.Write(t, dir, "keywicket/decision.rego", "package keywicket\n\n"+rule+"\n")
		_, err := policies.Load(t.Context(), policies.Config{Dir: dir})
		line := map[string]string{"constant": "3", "in a function": "5"}[name]
		if want := "keywicket/decision.rego:" + line + `: data.keywicket.decision has the unknown key "header"; the required keys are allow, code`; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
	dir := policytest.Copy(t)
	policytest.RemoveTests(t, dir)
	policytest.Write(t, dir, "keywicket/decision.rego", `package keywicket

decision := object.union({"allow": true, "code": null, "reason": null, "required_scopes": [], "route": null}, {input.context.method_key: "x"}) if input.context.method_key
else := object.union({"allow": true, "code": null, "reason": null, "required_scopes": [], "route": null}, {lower(input.request.method): "x"})
`)
	d, err := policytest.Load(t, dir).Decide(t.Context(), policytest.Input())
	if want := `unknown key "get"; the required keys are allow, code, reason, required_scopes, route; the optional keys are any_of, headers, retry_after`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %+v, %v", d, err)
	}
}

func TestOptionalKeysOfTheDecision(t *testing.T) {
	const allow = `"allow": true, "code": null, "reason": null, "required_scopes": [], "route": null`
	for keys, want := range map[string]authz.Decision{
		``: {Allow: true},
		`, "any_of": ["a", "b"], "headers": {"x-plan": "pro"}, "retry_after": 30`: {
			Allow: true, AnyOf: []string{"a", "b"}, Headers: map[string]string{"x-plan": "pro"}, RetryAfter: 30,
		},
	} {
		d, err := decisionWith(t, allow+keys)
		if err != nil || !d.Allow || strings.Join(d.AnyOf, " ") != strings.Join(want.AnyOf, " ") || d.Headers["x-plan"] != want.Headers["x-plan"] || d.RetryAfter != want.RetryAfter {
			t.Errorf("%s: got %+v, %v", keys, d, err)
		}
	}
	for keys, want := range map[string]string{
		`"any_of": "a"`:                  "any_of is a string, not an array",
		`"any_of": [1]`:                  "any_of contains a number",
		`"headers": ["x"]`:               "headers is an array, not an object",
		`"headers": {"x-plan": ["pro"]}`: "headers.x-plan is an array, not a string",
		`"headers": {"x-plan": null}`:    "headers.x-plan is null",
		`"retry_after": "30"`:            `retry_after is "30", not a whole number`,
		`"retry_after": 1.5`:             "retry_after is 1.5",
		`"retry_after": 0`:               "retry_after is 0",
		`"retry_after": -1`:              "retry_after is -1",
		`"retry_after": null`:            "retry_after is null",
	} {
		if d, err := decisionWith(t, allow+", "+keys); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v", keys, d, err)
		}
	}
}

func decisionWith(t *testing.T, keys string) (authz.Decision, error) {
	t.Helper()
	dir := policytest.Copy(t)
	policytest.RemoveTests(t, dir)
	policytest.Write(t, dir, "keywicket/decision.rego", "package keywicket\n\ndecision := {"+keys+"}\n")
	return policytest.Load(t, dir).Decide(t.Context(), policytest.Input())
}
