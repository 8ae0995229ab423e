package authz_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/keywicket/keywicket/authz"
)

// knownKeys is a directory in memory.
type knownKeys map[authz.Digest]authz.LookupResult

func (k knownKeys) Lookup(_ context.Context, l authz.Lookup) (authz.LookupResult, error) {
	if found, ok := k[l.Digest]; ok {
		return found, nil
	}
	return authz.LookupResult{Denial: authz.ReasonUnknown}, nil
}

// routes is a policy. It maps each route to the scope that the route needs.
type routes map[string]string

func (routes) Needs(string) authz.PolicyNeeds { return authz.PolicyNeeds{} }

func (r routes) Decide(_ context.Context, in authz.Input) (authz.Decision, error) {
	route := in.Method + " " + in.Path
	scope, found := r[route]
	switch {
	case in.Denial != "":
		return authz.Decision{Code: authz.CodeUnauthorized, Reason: in.Denial}, nil
	case !found:
		return authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonNoRoute}, nil
	case !slices.Contains(in.Principal.Scopes, scope):
		return authz.Decision{Code: authz.CodeForbidden, Reason: authz.ReasonMissingScope, Route: route, RequiredScopes: []string{scope}}, nil
	}
	return authz.Decision{Allow: true, Route: route, RequiredScopes: []string{scope}}, nil
}

func Example() {
	format := authz.CredentialFormat{Kind: authz.KindWorkspaceKey, Prefix: "vel_", BodyLength: 38}
	key := format.NewKey()
	authorizer, err := authz.New(authz.Config{APIs: map[string]authz.API{"velocity": {
		Workspace:   authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
		Credentials: []authz.CredentialFormat{format},
	}}}, knownKeys{key.Digest(): {
		Principal: authz.Principal{ID: "key-1", Kind: authz.KindWorkspaceKey, API: "velocity", Scopes: []string{"issues:read"}},
		Workspace: authz.Membership{ID: "64f1a2b3c4d5e6f7a8b9c0d1", Slug: "acme"},
	}}, routes{"GET /api/issues": "issues:read", "POST /api/issues": "issues:write"})
	if err != nil {
		panic(err)
	}
	for _, r := range []authz.Request{
		{Method: "GET", Path: "/api/issues?page=2", Header: authz.Fields{{Name: "authorization", Value: "Bearer " + key.Reveal()}}},
		{Method: "POST", Path: "/api/issues", Header: authz.Fields{{Name: "authorization", Value: "Bearer " + key.Reveal()}}},
		{Method: "GET", Path: "/api/issues"},
	} {
		r.API = "velocity"
		answer, err := authorizer.Check(context.Background(), r)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: allow %v, workspace %q, reason %q\n", r.Method, answer.Allow, answer.Workspace.Slug, answer.Reason)
	}
	// Output:
	// GET: allow true, workspace "acme", reason ""
	// POST: allow false, workspace "acme", reason "missing_scope"
	// GET: allow false, workspace "", reason "missing"
}
