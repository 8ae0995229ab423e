package explain

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/rego"
)

// explainOutput is the output of `explain --output json`.
type explainOutput struct {
	Allow          bool
	Code, Reason   *string
	RequiredScopes []string `json:"required_scopes"`
	Route          *string
	Row, Rule      string
	Fix, Widen     string
	Header, Logged string
	Held, Missing  []string
}

var (
	fixCommand  = regexp.MustCompile(`keywicket (token create|member set) .*$`)
	fixHeader   = regexp.MustCompile(`^send the header ([^:]+): (.*)$`)
	fixNoHeader = regexp.MustCompile(`^send no \S+ header: the route is about the user, not about a workspace$`)
	fixRow      = regexp.MustCompile(`- \{.*\}`)
	sourceLine  = regexp.MustCompile(`/(decision\.rego|data\.yaml):[1-9][0-9]*$`)
)

// For each denied request, explain prints the cause and a fix. After the fix, the request is allowed.
func TestExplainNamesTheCauseAndTheFix(t *testing.T) {
	harness.SkipIfShort(t)
	dir := rego.CopyBuiltin(t)
	s := harness.StartStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir, harness.ShortStaleness}})
	client := harness.NewClient(t, s, 1)
	home, other := harness.CreateWorkspace(t, s), harness.CreateWorkspace(t, s)
	ada := harness.Keywicket[registry.User](t, s, "user", "create", "--email", "ada@example.com")
	for workspace, role := range map[string]string{home.Slug: "owner", other.Slug: "guest"} {
		harness.Keywicket[registry.Member](t, s, "member", "set", "--workspace", workspace, "--user", ada.ID, "--role", role)
	}
	eve := harness.Keywicket[registry.User](t, s, "user", "create", "--email", "eve@example.com")
	withoutMembers, nonexistent := harness.CreateWorkspace(t, s), registry.Workspace{ID: "nowhere", Slug: "nowhere"}
	// The name of this token starts with - and contains a quote. So a printed command must quote the name.
	personalOf := func(user registry.User, scopes string) harness.Token {
		return harness.Keywicket[harness.Token](t, s, "token", "create", "--prefix", "velu_", "--user", user.ID, "--name=-'s", "--scope", scopes)
	}
	personal := func(scopes string) harness.Token { return personalOf(ada, scopes) }
	expired := func(scopes string) harness.Token {
		return harness.IssueToken(t, s, "sk_live_", home.Slug, scopes, "--expires-in", "1ms")
	}
	revoked := func(scopes string, more ...string) harness.Token {
		token := harness.IssueToken(t, s, "sk_live_", home.Slug, scopes, more...)
		harness.Keywicket[harness.ListedToken](t, s, "token", "revoke", token.ID)
		return token
	}

	none := registry.Workspace{}
	const (
		mismatch     = "WORKSPACE_ACCESS_DENIED workspace_mismatch"
		required     = "WORKSPACE_ACCESS_DENIED workspace_required"
		missingScope = "FORBIDDEN missing_scope"
		newIssue     = "POST /api/issues"
		deleteLead   = "DELETE /api/v1/crm/leads/7"
	)
	for name, c := range map[string]struct {
		api, line string
		token     harness.Token
		workspace registry.Workspace // zero: no header
		outcome   string
		missing   string
		steps     []string // the expected text of each step of the fix and of widen, in order
	}{
		"missing scope":                        {"velaflows", deleteLead, harness.IssueToken(t, s, "sk_live_", home.Slug, "crm:read"), home, missingScope, "crm:delete", []string{"--scope crm:read,crm:delete"}},
		"sandbox token, missing scope":         {"velaflows", "GET /api/v1/tags", harness.IssueToken(t, s, "sk_test_", home.Slug, "crm:read"), home, missingScope, "tags:read", []string{"--prefix sk_test_"}},
		"no workspace":                         {"velaflows", harness.Conversations, harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read"), none, required, "", []string{home.ID}},
		"another workspace":                    {"velaflows", harness.Conversations, harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read"), other, mismatch, "", []string{home.ID}},
		"expired":                              {"velaflows", harness.Conversations, expired("inbox:read"), home, "UNAUTHORIZED expired", "", []string{"--expires-in 1d"}},
		"revoked":                              {"velaflows", harness.Conversations, revoked("inbox:read"), home, "UNAUTHORIZED revoked", "", []string{"--scope inbox:read"}},
		"a workspace key in another workspace": {"velocity", "GET /api/issues", harness.IssueToken(t, s, "vel_", home.Slug, "issues:read"), other, mismatch, "", []string{home.Slug}},
		"a workspace key, user-level route":    {"velocity", "GET /api/user", harness.IssueToken(t, s, "vel_", home.Slug, "workspace:admin"), none, missingScope, "user:read", []string{"--prefix velu_"}},
		"a user who is no member":              {"velocity", newIssue, personal("issues:write"), withoutMembers, mismatch, "", []string{"--role member"}},
		"a reader who is no member":            {"velocity", "GET /api/issues", personal("issues:read"), withoutMembers, mismatch, "", []string{"--role guest"}},
		"a role too low":                       {"velocity", newIssue, personal("issues:write"), other, missingScope, "", []string{"--role member"}},
		"a role far too low":                   {"velocity", "PATCH /api/workspace", personal("workspace:admin"), other, missingScope, "", []string{"--role owner"}},
		"a personal key's scope":               {"velocity", "PATCH /api/workspace", personal("issues:write"), home, missingScope, "workspace:admin", []string{"--scope issues:write,workspace:admin"}},
		"a personal key without a workspace":   {"velocity", "PATCH /api/workspace", personal("admin"), none, required, "", []string{home.Slug}},
		"the user's profile, missing scope":    {"velocity", "PATCH /api/user", personal("user:read"), none, missingScope, "user:write", []string{"--scope user:read,user:write"}},

		// Requests that are denied for two reasons.
		"no workspace, missing scope":                          {"velocity", newIssue, personal("issues:read,user:read"), none, required, "issues:write", []string{"--scope issues:read,user:read,issues:write", home.Slug}},
		"nonexistent workspace, missing scope":                 {"velocity", newIssue, personal("issues:read,user:read"), nonexistent, mismatch, "issues:write", []string{"--scope issues:read,user:read,issues:write", home.Slug}},
		"the user's profile, another workspace":                {"velocity", "GET /api/user", personalOf(eve, "user:read"), home, mismatch, "", []string{"send no"}},
		"the user's profile, nonexistent workspace":            {"velocity", "GET /api/user", personalOf(eve, "user:read"), nonexistent, mismatch, "", []string{"send no"}},
		"the user's profile, another workspace, missing scope": {"velocity", "PATCH /api/user", personalOf(eve, "user:read"), home, mismatch, "user:write", []string{"--scope user:read,user:write", "send no"}},
		"expired, missing scope":                               {"velaflows", deleteLead, expired("inbox:read,crm:read"), home, "UNAUTHORIZED expired", "crm:delete", []string{"--scope inbox:read,crm:read --expires-in 1d", "--scope inbox:read,crm:read,crm:delete --expires-in 1d"}},
		"revoked, missing scope":                               {"velaflows", deleteLead, revoked("inbox:read", "--expires-in", "90d"), home, "UNAUTHORIZED revoked", "crm:delete", []string{"--scope inbox:read --expires-in 90d", "--scope inbox:read,crm:delete --expires-in 90d"}},
		"expired, no workspace":                                {"velaflows", harness.Conversations, expired("inbox:read"), none, "UNAUTHORIZED expired", "", []string{"--expires-in 1d", home.ID}},
		"another workspace, missing scope":                     {"velaflows", deleteLead, harness.IssueToken(t, s, "sk_live_", home.Slug, "crm:read"), other, mismatch, "crm:delete", []string{"--scope crm:read,crm:delete", home.ID}},
		"a workspace key, user-level route, another workspace": {"velocity", "GET /api/user", harness.IssueToken(t, s, "vel_", home.Slug, "issues:read"), other, mismatch, "user:read", []string{"--prefix velu_", "send no"}},
		"a token of another API":                               {"velocity", "GET /api/user", harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read"), none, "UNAUTHORIZED unknown", "user:read", []string{"--prefix velu_"}},
		"a token of another API, another workspace":            {"velocity", "GET /api/issues", harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read"), other, "UNAUTHORIZED unknown", "issues:read", []string{"--prefix vel_", home.Slug}},
		"a role too low, missing scope":                        {"velocity", newIssue, personal("issues:read"), other, missingScope, "issues:write", []string{"--scope issues:read,issues:write", "--role member"}},
		"a user without a workspace":                           {"velocity", "GET /api/issues", personalOf(eve, "issues:read"), none, required, "", []string{": W", "--role guest"}},
	} {
		t.Run(name, func(t *testing.T) {
			// Undo the fix, so that it does not affect the requests of other cases.
			defer func() {
				harness.Keywicket[registry.Member](t, s, "member", "set", "--workspace", other.Slug, "--user", ada.ID, "--role", "guest")
				for _, user := range []registry.User{ada, eve} {
					_ = harness.Command(t.Context(), t, s, "member", "remove", "--workspace", withoutMembers.Slug, "--user", user.ID).Run() // fails if the user is not a member
				}
			}()
			reference := func(w registry.Workspace) string {
				if c.api == "velaflows" {
					return w.ID
				}
				return w.Slug
			}
			workspace, token := reference(c.workspace), c.token.Token
			if a := client.Send(t, harness.NewRequest(c.api, c.line, token, workspace)); a.HasOutcome(c.outcome, a.RequiredScopes...) != nil {
				t.Fatalf("before the fix: %s", a.Outcome)
			}
			args := append([]string{"explain"}, strings.Fields(c.line)...)
			args = append(args, "--token-id", c.token.ID, "--api", c.api)
			header := ""
			if c.workspace.ID != "" {
				args = append(args, "--workspace", c.workspace.Slug)
				header = strings.ToLower(product.WorkspaceHeaders[c.api]) + ": " + workspace
			}
			e := explain(t, s, dir, args...)
			if e.Allow || e.Code == nil || *e.Code+" "+*e.Reason != c.outcome || strings.Join(e.Missing, " ") != c.missing ||
				e.Header != header || !sourceLine.MatchString(e.Rule) || !sourceLine.MatchString(e.Row) || len(e.Held) == 0 {
				t.Errorf("explain returns %+v", e)
			}
			steps := strings.Split(e.Fix, "; then ")
			fixes := len(steps) // after these steps, widen follows
			if e.Widen != "" {
				steps = append(steps, strings.Split(e.Widen, "; then ")...)
			}
			if len(steps) != len(c.steps) {
				t.Fatalf("the fix %q and %q do not have %d steps", e.Fix, e.Widen, len(c.steps))
			}
			for i, step := range steps {
				if i == fixes { // the access is restored, and not widened
					if a := client.Send(t, harness.NewRequest(c.api, c.line, token, workspace)); a.HasOutcome(missingScope, a.RequiredScopes...) != nil {
						t.Errorf("after %q: %s", e.Fix, a.Outcome)
					}
				}
				if !strings.Contains(step, c.steps[i]) {
					t.Errorf("%q does not contain %q", step, c.steps[i])
				}
				if m := fixHeader.FindStringSubmatch(step); m != nil {
					workspace = strings.Replace(m[2], "W", reference(withoutMembers), 1)
				} else if fixNoHeader.MatchString(step) {
					workspace = ""
				} else if line := fixCommand.FindString(step); line != "" {
					line = strings.NewReplacer("--user U ", "--user "+ada.ID+" ", "--workspace W ", "--workspace "+withoutMembers.Slug+" ").Replace(line)
					if made := runFix(t, s, line); made.Token != "" {
						token = made.Token
					}
				} else {
					t.Fatalf("the fix is neither a command nor a header: %s", step)
				}
			}
			if a := client.Send(t, harness.NewRequest(c.api, c.line, token, workspace)); a.Outcome != "allow" {
				t.Errorf("after %q: %s", e.Fix, a.Outcome)
			}
		})
	}

	t.Run("no route", func(t *testing.T) {
		token := harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read")
		e := explain(t, s, dir, "explain", "GET", "/api/v1/inbox/archive,all", "--token-id", token.ID, "--workspace", other.ID)
		if e.Allow || *e.Reason != "workspace_mismatch" || e.Row != "" || e.Route != nil || !sourceLine.MatchString(e.Rule) {
			t.Fatalf("explain returns %+v", e)
		}
		steps := strings.Split(e.Fix, "; then ")
		if m := fixHeader.FindStringSubmatch(steps[0]); len(steps) != 2 || m == nil || m[2] != home.ID {
			t.Fatalf("the fix is %q", e.Fix)
		}
		row := strings.Replace(fixRow.FindString(steps[1]), "SCOPE", "inbox:read", 1)
		harness.AppendFile(t, filepath.Join(dir, "apis", "velaflows", "data.yaml"), "  "+row+"\n")
		again := harness.StartStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir}})
		client := harness.NewClient(t, again, 1)
		home := harness.CreateWorkspace(t, again)
		token = harness.IssueToken(t, again, "sk_live_", home.Slug, "inbox:read")
		client.Expect(t, harness.NewRequest("velaflows", "GET /api/v1/inbox/archive,all", token.Token, home.ID), "allow")
	})
}

func explain(t *testing.T, s *demo.Stack, dir string, args ...string) (e explainOutput) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := harness.Command(ctx, t, s, append(args, "--output", "json")...)
	c.Env = append(c.Env, "KEYWICKET_POLICIES_DIR="+dir)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	if err := json.Unmarshal(out, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// runFix runs a command in a shell, exactly as `keywicket explain` printed the command.
func runFix(t *testing.T, s *demo.Stack, line string) (made harness.Token) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	keywicket := harness.Command(ctx, t, s)
	c := exec.CommandContext(ctx, "sh", "-c", strings.Replace(line, "keywicket", keywicket.Path, 1)+" --output json")
	c.Env = keywicket.Env
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	time.Sleep(harness.Staleness)
	return made
}
