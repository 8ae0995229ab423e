package analysis_test

import (
	"testing"

	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// A reference to a key that input never has is an error: it is undefined, so a denial that reads it would never apply.
func TestUnknownKeyOfInput(t *testing.T) {
	const top = "; its keys are api, context, denial, principal, request, source, time, workspace"
	for expression, want := range map[string]string{
		`input.principle.id`:                          "input has no key principle" + top,
		`input.row`:                                   "input has no key row" + top,
		`input["a b"].c`:                              "input has no key a b" + top,
		`input.workspace.attribute.overdue`:           "input.workspace has no key attribute; its keys are attributes, granted, id, requested, role, slug",
		`"a" in input.principal.needs`:                "input.principal has no key needs; its keys are aal, api, attributes, environment, id, kind, scopes, user_attributes, user_id",
		`count(input.principal.scope) > 1`:            "input.principal has no key scope; its keys are aal, api, attributes, environment, id, kind, scopes, user_attributes, user_id",
		`not input.source.ip`:                         "input.source has no key ip; its keys are address, certificate, principal",
		`input.request.header["x-a"]`:                 "input.request has no key header; its keys are headers, host, method, path, query, raw_query, segments",
		`input.workspace.attributes.anything.at.all`:  "",
		`input.request.headers["x-a"][0] == "b"`:      "",
		`some key in ["id"]; input.principal[key]`:    "",
		`object.get(input, "principle", null) == "a"`: "",
		`input.source.certificate.uris[0] == "a"`:     "",
		`data.keywicket.own with input.own as 1`:      "",
		`input.principal`:                             "",
		`input.time > 0`:                              "",
	} {
		dir := policytest.Copy(t)
		policytest.Write(t, dir, "keywicket/own.rego", "package keywicket\n\nimport future.keywords.not\n\nheaders[\"x-a\"] := \"b\" if {\n\tinput.api == \"zoo\"\n\t"+expression+"\n}\n\nown if input.own == 1\n")
		if want != "" {
			want = "keywicket/own.rego:7: " + want
		}
		got := ""
		if _, err := policies.LoadExplainer(t.Context(), policies.Config{Dir: dir}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", expression, got, want)
		}
	}
}
