// Package operator contains the commands with which an operator manages tokens, users, workspaces and apps.
package operator

import "github.com/keywicket/keywicket/cmd/keywicket/operator/audit"

// Commands are the operator's commands, as fields for the parser of the command line.
type Commands struct {
	Migrate   migrateCommand   `cmd:"" help:"Update the database schema, or show its state."`
	Workspace workspaceCommand `cmd:"" help:"Create, list and change workspaces."`
	User      userCommand      `cmd:"" help:"Create, list and change users."`
	Member    memberCommand    `cmd:"" help:"Manage the members of workspaces and their roles."`
	Token     tokenCommand     `cmd:"" help:"Create, list, change, revoke and import tokens."`
	Session   sessionCommand   `cmd:"" help:"Revoke sessions before their tokens expire."`
	OAuthApp  oauthAppCommand  `cmd:"" name:"oauth-app" help:"Manage OAuth apps, which act for users."`
	Grant     grantCommand     `cmd:"" help:"List and revoke the grants that users gave to apps."`
	Audit     audit.Command    `cmd:"" help:"Show who changed what."`
	Sidecar   sidecarCommand   `cmd:"" help:"List the running sidecars."`
	Explain   explainCommand   `cmd:"" help:"Show the decision for a request, its cause, and how to get the request allowed."`
}
