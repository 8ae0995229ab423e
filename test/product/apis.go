// Package product contains the configuration, the routes and the scopes of the two APIs, for tests. It was written from the
// documents of the two products, not from the code.
package product

import "github.com/keywicket/keywicket/authz"

// APIs is the built-in configuration, without sessions.
var APIs = map[string]authz.API{
	"velaflows": {
		Workspace: authz.WorkspaceHeader{Header: "x-workspace-id", By: authz.ByID, Required: true},
		Credentials: []authz.CredentialFormat{
			{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live, VisiblePrefix: 16, BodyLength: 40},
			{Kind: authz.KindWorkspaceToken, Prefix: "sk_test_", Environment: authz.Sandbox, VisiblePrefix: 16, BodyLength: 40},
		},
	},
	"velocity": {
		Workspace: authz.WorkspaceHeader{Header: "x-workspace-slug", By: authz.BySlug},
		Credentials: []authz.CredentialFormat{
			{Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live, VisiblePrefix: 12, BodyLength: 38},
			{Kind: authz.KindPersonalKey, Prefix: "velu_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
			{Kind: authz.KindOAuthToken, Prefix: "velo_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
		},
	},
}

// FormatOf returns the credential format with the prefix, and its API.
func FormatOf(prefix string) (api string, f authz.CredentialFormat) {
	for name, a := range APIs {
		if found, ok := a.Format(prefix); ok {
			return name, found
		}
	}
	return "", f
}

// NewKey returns a well-formed key that no deployment has issued.
func NewKey(prefix string) string {
	_, format := FormatOf(prefix)
	return format.NewKey().Reveal()
}
