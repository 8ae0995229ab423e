package explain_test

import (
	"context"
	"fmt"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/explain"
	"github.com/keywicket/keywicket/policies"
)

// A simulated token needs no database.
func ExampleExplainer_Explain() {
	ctx := context.Background()
	rules, err := policies.LoadExplainer(ctx, policies.Config{}) // the built-in policies
	if err != nil {
		panic(err)
	}
	velocity, err := authz.API{
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
		Credentials: []authz.CredentialFormat{{Kind: authz.KindWorkspaceKey, Prefix: "vel_"}},
	}.Complete()
	if err != nil {
		panic(err)
	}
	explainer := explain.New(explain.Config{APIs: map[string]authz.API{"velocity": velocity}}, rules, nil)
	e, err := explainer.Explain(ctx, explain.Request{
		Method: "POST", Path: "/api/issues", Scopes: []string{"issues:read"}, Workspace: "acme", API: "velocity",
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(*e.Code, *e.Reason, e.Missing)
	fmt.Println(e.Fix)
	// Output:
	// FORBIDDEN missing_scope [issues:write]
	// keywicket token create --prefix vel_ --workspace acme --name=NAME --scope issues:read,issues:write
}
