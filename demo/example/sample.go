package example

import (
	"time"

	"github.com/keywicket/keywicket/authz"
)

// Two workspaces from the examples in Velocity's API document.
const (
	YourSlug   = "your-workspace"
	TargetSlug = "target-workspace"
)

var (
	skLive = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live, VisiblePrefix: 16, BodyLength: 40}
	skTest = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_test_", Environment: authz.Sandbox, VisiblePrefix: 16, BodyLength: 40}
	vel    = authz.CredentialFormat{Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live, VisiblePrefix: 12, BodyLength: 38}
	velu   = authz.CredentialFormat{Kind: authz.KindPersonalKey, Prefix: "velu_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38}
)

var (
	readScopes  = []string{"issues:read", "projects:read", "documents:read", "workspace:read"}
	writeScopes = append([]string{"issues:write", "projects:write", "documents:write"}, readScopes...)
)

// Keys are the credentials of the demo. Three of them are the example keys in the API documents of VelaFlows and
// Velocity. The demo imports them, as a product imports its existing keys.
var Keys = []Key{
	{Name: "dashboard", Format: skLive, API: "velaflows", Workspace: WorkspaceSlug,
		Scopes:   []string{"inbox:read", "crm:read", "contacts:read", "analytics:read"},
		Imported: "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0"},
	{Name: "chatbot", Format: skLive, API: "velaflows", Workspace: WorkspaceSlug,
		Scopes: []string{"inbox:read", "inbox:write", "channels:read", "channels:write", "ai:read"}},
	{Name: "administrator", Format: skLive, API: "velaflows", Workspace: WorkspaceSlug, Scopes: []string{"admin:all"}},
	{Name: "sandbox", Format: skTest, API: "velaflows", Workspace: WorkspaceSlug, Scopes: []string{"inbox:read"}},
	{Name: "expired", Format: skLive, API: "velaflows", Workspace: WorkspaceSlug, Scopes: []string{"inbox:read"}, ExpiresIn: 100 * time.Millisecond},
	{Name: "revoked", Format: skLive, API: "velaflows", Workspace: WorkspaceSlug, Scopes: []string{"inbox:read"}, Revoked: true},
	{Name: "read-only", Format: vel, API: "velocity", Workspace: YourSlug, Scopes: readScopes, Imported: "vel_your_api_key_here"},
	{Name: "read-write", Format: vel, API: "velocity", Workspace: YourSlug, Scopes: writeScopes},
	{Name: "settings", Format: vel, API: "velocity", Workspace: YourSlug, Scopes: []string{"workspace:admin"}},
	{Name: "ada's", Format: velu, API: "velocity", User: "ada@example.com",
		Scopes: []string{"user:read", "workspaces:list", "issues:read", "issues:write"}, Imported: "velu_your_personal_key_here"},
	{Name: "ada's admin", Format: velu, API: "velocity", User: "ada@example.com", Scopes: []string{"admin"}},
	{Name: "ada's session", API: "velocity", User: "ada@example.com", Variable: "SESSION"},
	{Name: "ada's signed out", API: "velocity", User: "ada@example.com", Variable: "SIGNED_OUT", Revoked: true},
}

func step(api, line, key, workspace, want, why string) Request {
	return Request{API: api, Line: line, Key: key, Workspace: workspace, Want: want, Why: why}
}

// Tour has the requests of the sample APIs, and the responses that the APIs' documents promise.
var Tour = []Request{
	step("velaflows", "GET /api/v1/inbox/conversations", "dashboard", WorkspaceID, "200 live", "the document's first example"),
	step("velaflows", "GET /api/v1/inbox/conversations", "", WorkspaceID, "401 UNAUTHORIZED missing", "no token"),
	step("velaflows", "GET /api/v1/inbox/conversations", "expired", WorkspaceID, "401 UNAUTHORIZED expired", "an expired token"),
	step("velaflows", "GET /api/v1/inbox/conversations", "revoked", WorkspaceID, "401 UNAUTHORIZED revoked", "a revoked token"),
	step("velaflows", "GET /api/v1/inbox/conversations", "read-only", WorkspaceID, "401 UNAUTHORIZED unknown", "a key of the other API"),
	step("velaflows", "GET /api/v1/inbox/conversations", "dashboard", "64f1a2b3c4d5e6f7a8b9c0d2", "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "another workspace"),
	step("velaflows", "GET /api/v1/inbox/conversations", "dashboard", "", "403 WORKSPACE_ACCESS_DENIED workspace_required", "no workspace header"),
	step("velaflows", "GET /api/v1/inbox/conversations", "administrator", "64F1A2B3C4D5E6F7A8B9C0D1", "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "an id with capital letters"),
	step("velaflows", "GET /api/v1/inbox/conversations", "sandbox", WorkspaceID, "200 sandbox", "sk_test_ reaches the sandbox"),
	step("velaflows", "POST /api/v1/inbox/conversations/7/messages", "chatbot", WorkspaceID, "200 live", "a chatbot replies"),
	step("velaflows", "POST /api/v1/inbox/conversations/7/messages", "dashboard", WorkspaceID, "403 FORBIDDEN missing_scope", "the dashboard's key only reads"),
	step("velaflows", "DELETE /api/v1/crm/leads/7", "dashboard", WorkspaceID, "403 FORBIDDEN missing_scope", "a scope is missing"),
	step("velaflows", "DELETE /api/v1/crm/leads/7", "administrator", WorkspaceID, "200 live", "admin:all overrides every scope"),
	step("velaflows", "GET /api/v1/admin/audit", "administrator", WorkspaceID, "200 live", "admin:all allows administration"),
	step("velaflows", "GET /api/v1/secrets", "administrator", WorkspaceID, "403 FORBIDDEN no_route", "admin:all allows no unlisted route"),
	step("velaflows", "GET /healthz", "", "", "200 live", "a public route"),
	step("velocity", "GET /api/issues", "read-only", YourSlug, "200 live", "the document's first example"),
	step("velocity", "GET /api/issues", "read-only", "", "200 live", "a vel_ key belongs to one workspace"),
	step("velocity", "GET /api/issues", "read-only", TargetSlug, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "a vel_ key in another workspace"),
	step("velocity", "POST /api/issues", "read-only", "", "403 FORBIDDEN missing_scope", "a read-only key cannot write"),
	step("velocity", "POST /api/issues", "read-write", "", "200 live", "a read-write key can write"),
	step("velocity", "PATCH /api/workspace", "read-write", "", "403 FORBIDDEN missing_scope", "a read-write key cannot administer"),
	step("velocity", "PATCH /api/workspace", "settings", "", "200 live", "a key with workspace:admin can"),
	step("velocity", "GET /api/user", "settings", "", "403 FORBIDDEN missing_scope", "a workspace key has no user"),
	step("velocity", "GET /api/user", "ada's", "", "200 live", "a personal key reads the profile"),
	step("velocity", "GET /api/workspaces", "ada's", "", "200 live", "a personal key lists workspaces"),
	step("velocity", "GET /api/issues", "ada's", "", "403 WORKSPACE_ACCESS_DENIED workspace_required", "a personal key must name the workspace of issues"),
	step("velocity", "POST /api/issues", "ada's", YourSlug, "200 live", "Ada is the owner"),
	step("velocity", "GET /api/issues", "ada's", TargetSlug, "200 live", "Ada is a guest"),
	step("velocity", "POST /api/issues", "ada's", TargetSlug, "403 FORBIDDEN missing_scope", "a guest may not write"),
	step("velocity", "POST /api/issues", "ada's admin", TargetSlug, "403 FORBIDDEN missing_scope", "a guest may not write, even with admin"),
	step("velocity", "GET /api/issues", "ada's", WorkspaceSlug, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "Ada is not a member"),
	step("velocity", "GET /api/user", "ada's session", "", "200 live", "a session of the web application"),
	step("velocity", "POST /api/issues", "ada's session", YourSlug, "200 live", "a session may do what Ada may do"),
	step("velocity", "POST /api/issues", "ada's session", TargetSlug, "403 FORBIDDEN missing_scope", "a session may not write where Ada is a guest"),
	step("velocity", "GET /api/user", "ada's signed out", "", "401 UNAUTHORIZED revoked", "Ada has signed out"),
	step("velaflows", "GET /api/v1/inbox/conversations", "ada's session", WorkspaceID, "401 UNAUTHORIZED unknown", "a session of the other API"),
	step("velocity", "GET /healthz", "", "", "200 live", "a public route"),
}

// Highlights are the sample requests of a summary.
var Highlights = []Request{
	step("velaflows", "GET /api/v1/inbox/conversations", "dashboard", WorkspaceID, "200", "the key may read the inbox"),
	step("velaflows", "GET /api/v1/inbox/conversations", "", "", "401 UNAUTHORIZED missing", "no key"),
	step("velaflows", "GET /healthz", "", "", "200", "a public route needs no key"),
	step("velocity", "GET /api/issues", "read-only", "", "200", "the key may read issues"),
	step("velocity", "POST /api/issues", "read-only", "", "403 FORBIDDEN missing_scope", "the same key may not write them"),
	step("velocity", "GET /api/user", "ada's", "", "200", "the key of a user reads their profile"),
}
