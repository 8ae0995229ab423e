package settings

import "testing"

// documented are the sentences of the API documents about the console's pages. The source is a document and a line. The step is the
// step of a walk that does what the sentence says: the title of a page, and the name of the step. The documents are not part of this
// repository. test/cases has the sentences about requests.
var documented = []struct{ source, sentence, step string }{
	{"velaflows:6", "Log in to app.velaflows.com", "API Tokens: sign in"},
	{"velaflows:7", "Navigate to Settings > Developer > API Tokens", "API Tokens: navigate"},
	{"velaflows:8", "Click Create Token", "API Tokens: open the form"},
	{"velaflows:9", "Give your token a descriptive name (e.g., “Production API”, “Zapier Integration”)", "API Tokens: name"},
	{"velaflows:10", "Select the scopes your token needs (see Scopes below)", "API Tokens: scopes"},
	{"velaflows:11", "Click Create", "API Tokens: create"},
	{"velaflows:12", "Copy your token immediately — it will only be shown once", "API Tokens: copy"},
	{"velaflows:14", "The first 16 characters (sk_live_a1b2c3d4) are the visible prefix, shown in the dashboard so you can identify tokens.", "API Tokens: visible prefix"},
	{"velaflows:15", "The rest is the secret portion.", "API Tokens: shown once"},
	{"velaflows:25", "sk_live_ | Production", "API Tokens: environments"},
	{"velaflows:26", "sk_test_ | Sandbox", "API Tokens: environments"},
	{"velaflows:27", "Both token types are 48+ characters long.", "API Tokens: copy"},
	{"velaflows:29", "Your workspace ID is a 24-character MongoDB ObjectId.", "API Tokens: workspace"},
	{"velaflows:31", "Settings > General — Displayed on the workspace settings page", "API Tokens: workspace"},
	{"velaflows:32", "API Response — Returned when you list your workspaces via the auth API", "API Tokens: workspace"},
	{"velaflows:34", "When creating a token, select only the scopes your integration needs.", "API Tokens: scopes"},
	{"velaflows:35", "Available Scopes (the table)", "API Tokens: descriptions of scopes"},
	{"velaflows:57", "admin:all | Full administrative access (use sparingly)", "API Tokens: full access"},
	{"velaflows:60", "A read-only dashboard integration might use: inbox:read, crm:read, contacts:read, analytics:read", "API Tokens: presets"},
	{"velaflows:61", "A chatbot that replies to messages might use: inbox:read, inbox:write, channels:read, channels:write, ai:read", "API Tokens: presets"},
	{"velaflows:62", "A CRM sync integration might use: crm:read, crm:create, crm:update, contacts:read, contacts:write", "API Tokens: presets"},
	{"velaflows:64", "Tokens are active from the moment they’re created.", "API Tokens: use at once"},
	{"velaflows:67", "Go to Settings > Developer > API Tokens", "API Tokens: navigate"},
	{"velaflows:68", "Find the token in the list (identified by name and prefix)", "API Tokens: find"},
	{"velaflows:69", "Click the Revoke button", "API Tokens: revoke"},
	{"velaflows:70", "Confirm the action", "API Tokens: confirm"},
	{"velaflows:71", "Revoked tokens are immediately invalidated. Any API request using a revoked token will receive a 401 Unauthorized response.", "API Tokens: revoked"},
	{"velaflows:74", "When creating a token, you can optionally set an expiration date.", "API Tokens: expiration"},
	{"velaflows:76", "There is no way to regenerate or view a token after creation.", "API Tokens: shown once"},
	{"velaflows:89", "Create new tokens and revoke old ones on a regular schedule (e.g., every 90 days).", "API Tokens: rotate"},
	{"velaflows:94", "Review your active tokens periodically in the dashboard. Revoke any tokens that are no longer in use.", "API Tokens: use and chart"},

	{"velocity:7", "Create a key from Settings → API Keys", "API Keys: navigate"},
	{"velocity:12", "Workspace keys are prefixed with vel_", "API Keys: copy"},
	{"velocity:12", "The full key is displayed only once at creation time.", "API Keys: shown once"},
	{"velocity:12", "Each key has scoped permissions — you can create read-only or read-write keys.", "API Keys: presets"},
	{"velocity:12", "The workspace is automatically resolved from the key", "API Keys: use at once"},
	{"velocity:14", "Workspace Key Scopes (the table)", "API Keys: descriptions of scopes"},
	{"velocity:28", "Create a key from Settings → Account → Personal API Keys", "Personal API Keys: navigate"},
	{"velocity:33", "Personal keys are prefixed with velu_", "Personal API Keys: copy"},
	{"velocity:33", "Without the header, only user-level operations (like listing workspaces or reading your profile) are available.", "Personal API Keys: use at once"},
	{"velocity:35", "Personal Key Scopes (the table)", "Personal API Keys: descriptions of scopes"},
	{"velocity:51", "Register an OAuth app from Settings → OAuth Apps to get a client ID and secret.", "OAuth Apps: register"},
}

// done are the steps of a test.
type done map[string]bool

// requireDocumented requires that the test has done the steps of all sentences.
func (s done) requireDocumented(t *testing.T) {
	t.Helper()
	for _, d := range documented {
		if !s[d.step] {
			t.Errorf("%s: no step has tested the sentence %q", d.source, d.sentence)
		}
	}
}
