package analysis_test

import (
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/internal/policytest"
)

// A rule can read the query in several ways. For each way, Needs must report that the policy reads the query.
func TestPolicyThatReadsTheQuery(t *testing.T) {
	for name, c := range map[string]struct {
		rules string // rules that are added to decision.rego; the policy allows a request only if `extra` is true
		want  bool
	}{
		"not at all":                            {`extra := true`, false},
		"by name":                               {`extra if not input.request.query.admin`, true},
		"by a string key":                       {`extra if not input.request["query"].admin`, true},
		"the whole query":                       {`extra if count(input.request.query) < 9`, true},
		"the whole request":                     {`extra if count(input.request) > 1`, true},
		"the whole input":                       {`extra if count(input) > 1`, true},
		"by a variable":                         {"extra if {\n\tsome k in [\"query\"]\n\tnot input.request[k].admin\n}", true},
		"by a variable above the query":         {"extra if {\n\tsome k, _ in input\n\tnot input[k].query.admin\n}", true},
		"by an assignment":                      {"extra if {\n\tr := input.request\n\tnot r.query.admin\n}", true},
		"by a function":                         {"extra if f(input.request)\nf(r) if not r.query.admin", true},
		"by object.get":                         {`extra if object.get(input, ["request", "query", "admin"], []) == []`, true},
		"by walk":                               {"extra if {\n\tnot danger\n}\ndanger if walk(input, [[\"request\", \"query\", \"admin\", 0], _])", true},
		"in a comprehension":                    {`extra if count([1 | some _, v in input.request.query; "x" in v]) == 0`, true},
		"in an every expression":                {"extra if {\n\tevery _, v in input.request.query {\n\t\tcount(v) < 9\n\t}\n}", true},
		"by unification":                        {"extra if {\n\t{\"query\": q, \"method\": _, \"path\": _, \"segments\": _, \"headers\": _, \"host\": _, \"raw_query\": _} = input.request\n\tnot q.admin\n}", true},
		"in a rule that reads a replaced input": {"extra if g with input.context as input.request.query\ng if not input.context.admin", true},
		"in an else branch":                     {"extra := false if {\n\tinput.request.method == \"NONE\"\n} else := true if {\n\tnot input.request.query.admin\n}", true},
		"in another package":                    {`extra if data.helper.fine`, true},
		"by a package's name":                   {`extra if data.helper[input.api]`, true},
		"other parts of requests": {`extra if {
	input.request.method != "NONE"
	input.request.path != "/"
	count(input.request.headers) < 9
	input.request.host != ""
	count(input.request.segments) > 0
	input.context != null
}`, false},
		"a query in the data": {`extra if not data.apis.velaflows.query`, false},
		"an unused rule":      {"extra := true\nunused if input.request.query.admin", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := policytest.Copy(t)
			policytest.RemoveTests(t, dir)
			policytest.Edit(t, dir, "keywicket/decision.rego", "input.principal.kind in workspace_kinds\n\tevery", "input.principal.kind in workspace_kinds\n\textra\n\tevery")
			policytest.Edit(t, dir, "keywicket/decision.rego", "# METADATA\n# description: The route is open", c.rules+"\n\n# METADATA\n# description: The route is open")
			policytest.Write(t, dir, "helper/helper.rego", "package helper\n\nfine if not input.request.query.admin\n\nvelaflows if not input.request.query.admin\n")
			engine := policytest.Load(t, dir)
			if got := engine.Needs("velaflows"); got.Query != c.want || len(got.Parameters.MayHold) != 0 {
				t.Errorf("%+v", got)
			}
			// With the rule `extra`, the policy must still allow this request.
			if d, err := engine.Decide(t.Context(), policytest.Input()); err != nil || !d.Allow {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

// The input contains attributes if and only if a decision depends on them. Attributes that are not a JSON object cause an error
// instead of a decision.
func TestPolicyThatReadsAttributes(t *testing.T) {
	type attributes struct{ token, user, workspace authz.Attributes }
	const pro = authz.Attributes(`{"plan": "pro", "limit": 12345678901234567890}`)
	all := attributes{pro, pro, pro}
	for name, c := range map[string]struct {
		rules string // rules that are added to decision.rego, as in TestPolicyThatReadsTheQuery
		reads attributes
	}{
		"none":            {`extra := true`, attributes{}},
		"the token's":     {`extra if input.principal.attributes.plan == "pro"`, attributes{token: pro}},
		"the user's":      {`extra if input.principal.user_attributes.plan == "pro"`, attributes{user: pro}},
		"the workspace's": {`extra if input.workspace.attributes.plan == "pro"`, attributes{workspace: pro}},
		"by the principal": {"extra if {\n\tp := input.principal\n\tevery name in [\"attributes\", \"user_attributes\"] {\n\t\tp[name].plan == \"pro\"\n\t}\n}",
			attributes{pro, pro, ""}},
		"all":           {`extra if count([1 | walk(input, [_, "pro"])]) == 3`, all},
		"a number":      {"extra if {\n\tn := input.principal.attributes.limit\n\tn == 12345678901234567890\n\tn != 12345678901234567891\n}", attributes{token: pro}},
		"no attributes": {"extra if {\n\tinput.principal.id == \"t1\"\n\tinput.workspace.slug == \"acme\"\n}", attributes{}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := policytest.Copy(t)
			policytest.RemoveTests(t, dir)
			policytest.Edit(t, dir, "keywicket/decision.rego", "input.principal.kind in workspace_kinds\n\tevery", "input.principal.kind in workspace_kinds\n\textra\n\tevery")
			policytest.Edit(t, dir, "keywicket/decision.rego", "# METADATA\n# description: The route is open", c.rules+"\n\n# METADATA\n# description: The route is open")
			engine := policytest.Load(t, dir)
			explainer, err := policies.LoadExplainer(t.Context(), policies.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			decide := func(values attributes) (bool, error) {
				in := policytest.Input()
				in.Principal.Attributes, in.Principal.UserAttributes, in.Workspace.Attributes = values.token, values.user, values.workspace
				d, err := engine.Decide(t.Context(), in)
				e, errExplained := explainer.Explain(t.Context(), in)
				if d.Allow != e.Allow || (err == nil) != (errExplained == nil) {
					t.Errorf("%+v, %v, and explained %+v, %v", d, err, e, errExplained)
				}
				return d.Allow, err
			}
			if allow, err := decide(c.reads); err != nil || !allow {
				t.Errorf("allow is %v, %v", allow, err)
			}
			if allow, err := decide(attributes{}); err != nil || allow != (c.reads == attributes{}) {
				t.Errorf("without attributes allow is %v, %v", allow, err)
			}
			for _, invalid := range []authz.Attributes{`{"plan": "pro"`, `["pro"]`, `null`, "\xff"} {
				token, user, workspace := c.reads, c.reads, c.reads
				token.token, user.user, workspace.workspace = invalid, invalid, invalid
				for part, test := range map[string]struct {
					values attributes
					read   bool
				}{
					"token": {token, c.reads.token != ""}, "user": {user, c.reads.user != ""}, "workspace": {workspace, c.reads.workspace != ""},
				} {
					allow, err := decide(test.values)
					if test.read && (err == nil || allow || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "pro")) {
						t.Errorf("invalid attributes of the %s: allow is %v, %v", part, allow, err)
					}
					if !test.read && (err != nil || !allow) {
						t.Errorf("invalid attributes of the %s, which no rule reads: allow is %v, %v", part, allow, err)
					}
				}
			}
		})
	}
}

// Needs reports the certificate only if the policy reads it. A policy that reads the raw query does not count as reading the
// query.
func TestPolicyThatReadsTheCertificate(t *testing.T) {
	for condition, want := range map[string]authz.PolicyNeeds{
		`input.source.principal == "spiffe://acme/billing"`:     {},
		`input.request.raw_query == ""`:                         {},
		`input.time > 0`:                                        {},
		`"spiffe://a" in input.source.certificate.uris`:         {Certificate: true},
		`input.source.certificate != null`:                      {Certificate: true},
		`count(input.source) == 3`:                              {Certificate: true},
		`input[input.context.part].certificate.subject == "CN"`: {Certificate: true, Query: true},
	} {
		dir := policytest.Copy(t)
		policytest.RemoveTests(t, dir)
		policytest.Edit(t, dir, "keywicket/decision.rego", "permitted if {\n", "permitted if {\n\t"+condition+"\n")
		got := policytest.Load(t, dir).Needs("velaflows")
		if got.Certificate != want.Certificate || got.Query != want.Query {
			t.Errorf("%s: %+v", condition, got)
		}
	}
}
