package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// explained is the output of `explain --output json`.
type explained struct {
	Allow          bool
	Code, Reason   *string
	RequiredScopes []string `json:"required_scopes"`
	Route          *string
	Row, Rule, Fix string
	Header         string
	Held, Missing  []string
}

var (
	aCommand = regexp.MustCompile(`keywicket (token create|member set) .*$`)
	aHeader  = regexp.MustCompile(`^send the header ([^:]+): (.*)$`)
	noHeader = regexp.MustCompile(`^send no \S+ header: the route is about the user, in no workspace$`)
	aRow     = regexp.MustCompile(`- \{.*\}`)
	aPlace   = regexp.MustCompile(`/(decision\.rego|data\.yaml):[1-9][0-9]*$`)
)

// For each denied request explain names the cause and a fix. After exactly this fix the request is allowed.
func TestExplainNamesTheCauseAndTheFix(t *testing.T) {
	long(t)
	dir := policyFolder(t)
	s := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir, shortStaleness}})
	_, client := newWire(t, s, 1)
	home, other := tenant(t, s), tenant(t, s)
	ada := operator[registry.User](t, s, "user", "create", "--email", "ada@example.com")
	for workspace, role := range map[string]string{home.Slug: "owner", other.Slug: "guest"} {
		operator[registry.Member](t, s, "member", "set", "--workspace", workspace, "--user", ada.ID, "--role", role)
	}
	eve := operator[registry.User](t, s, "user", "create", "--email", "eve@example.com")
	unjoined, nowhere := tenant(t, s), registry.Workspace{ID: "nowhere", Slug: "nowhere"}
	personalOf := func(user registry.User, scopes string) issued {
		return operator[issued](t, s, "token", "create", "--prefix", "velu_", "--user", user.ID, "--name=-'s", "--scope", scopes)
	}
	personal := func(scopes string) issued { return personalOf(ada, scopes) }
	over := func(scopes string) issued {
		return issue(t, s, "sk_live_", home.Slug, scopes, "--expires-in", "1ms")
	}
	revoked := func(scopes string, more ...string) issued {
		token := issue(t, s, "sk_live_", home.Slug, scopes, more...)
		operator[listed](t, s, "token", "revoke", token.ID)
		return token
	}

	none := registry.Workspace{}
	const (
		mismatch = "WORKSPACE_ACCESS_DENIED workspace_mismatch"
		required = "WORKSPACE_ACCESS_DENIED workspace_required"
		tooFew   = "FORBIDDEN missing_scope"
		newIssue = "POST /api/issues"
		noLead   = "DELETE /api/v1/crm/leads/7"
	)
	for name, c := range map[string]struct {
		api, line string
		token     issued
		workspace registry.Workspace // zero: no header
		outcome   string
		missing   string
		steps     []string // the expected text of each step, in order
	}{
		"a scope too few":                    {"velaflows", noLead, issue(t, s, "sk_live_", home.Slug, "crm:read"), home, tooFew, "crm:delete", []string{"--scope crm:read,crm:delete"}},
		"of the sandbox":                     {"velaflows", "GET /api/v1/tags", issue(t, s, "sk_test_", home.Slug, "crm:read"), home, tooFew, "tags:read", []string{"--prefix sk_test_"}},
		"no workspace":                       {"velaflows", conversations, issue(t, s, "sk_live_", home.Slug, "inbox:read"), none, required, "", []string{home.ID}},
		"another workspace":                  {"velaflows", conversations, issue(t, s, "sk_live_", home.Slug, "inbox:read"), other, mismatch, "", []string{home.ID}},
		"expired":                            {"velaflows", conversations, over("inbox:read"), home, "UNAUTHORIZED expired", "", []string{"--expires-in 1d"}},
		"revoked":                            {"velaflows", conversations, revoked("inbox:read"), home, "UNAUTHORIZED revoked", "", []string{"--scope inbox:read"}},
		"a workspace key elsewhere":          {"velocity", "GET /api/issues", issue(t, s, "vel_", home.Slug, "issues:read"), other, mismatch, "", []string{home.Slug}},
		"a workspace key, user-level route":  {"velocity", "GET /api/user", issue(t, s, "vel_", home.Slug, "workspace:admin"), none, tooFew, "user:read", []string{"--prefix velu_"}},
		"a user who is no member":            {"velocity", newIssue, personal("issues:write"), unjoined, mismatch, "", []string{"--role member"}},
		"a reader who is no member":          {"velocity", "GET /api/issues", personal("issues:read"), unjoined, mismatch, "", []string{"--role guest"}},
		"a role too low":                     {"velocity", newIssue, personal("issues:write"), other, tooFew, "", []string{"--role member"}},
		"a role far too low":                 {"velocity", "PATCH /api/workspace", personal("workspace:admin"), other, tooFew, "", []string{"--role owner"}},
		"a personal key's scope":             {"velocity", "PATCH /api/workspace", personal("issues:write"), home, tooFew, "workspace:admin", []string{"--scope issues:write,workspace:admin"}},
		"a personal key without a workspace": {"velocity", "PATCH /api/workspace", personal("admin"), none, required, "", []string{home.Slug}},
		"a profile, a scope too few":         {"velocity", "PATCH /api/user", personal("user:read"), none, tooFew, "user:write", []string{"--scope user:read,user:write"}},

		// Two causes at once.
		"no workspace, a scope too few":                {"velocity", newIssue, personal("issues:read,user:read"), none, required, "issues:write", []string{"--scope issues:read,user:read,issues:write", home.Slug}},
		"nowhere, a scope too few":                     {"velocity", newIssue, personal("issues:read,user:read"), nowhere, mismatch, "issues:write", []string{"--scope issues:read,user:read,issues:write", home.Slug}},
		"a profile, in no such workspace":              {"velocity", "GET /api/user", personalOf(eve, "user:read"), home, mismatch, "", []string{"send no"}},
		"a profile, nowhere":                           {"velocity", "GET /api/user", personalOf(eve, "user:read"), nowhere, mismatch, "", []string{"send no"}},
		"a profile, elsewhere, a scope few":            {"velocity", "PATCH /api/user", personalOf(eve, "user:read"), home, mismatch, "user:write", []string{"--scope user:read,user:write", "send no"}},
		"expired, a scope too few":                     {"velaflows", noLead, over("inbox:read,crm:read"), home, "UNAUTHORIZED expired", "crm:delete", []string{"--scope inbox:read,crm:read,crm:delete --expires-in 1d"}},
		"revoked, a scope too few":                     {"velaflows", noLead, revoked("inbox:read", "--expires-in", "90d"), home, "UNAUTHORIZED revoked", "crm:delete", []string{"--scope inbox:read,crm:delete --expires-in 90d"}},
		"expired, no workspace":                        {"velaflows", conversations, over("inbox:read"), none, "UNAUTHORIZED expired", "", []string{"--expires-in 1d", home.ID}},
		"another workspace, a scope too few":           {"velaflows", noLead, issue(t, s, "sk_live_", home.Slug, "crm:read"), other, mismatch, "crm:delete", []string{"--scope crm:read,crm:delete", home.ID}},
		"a workspace key, user-level route, elsewhere": {"velocity", "GET /api/user", issue(t, s, "vel_", home.Slug, "issues:read"), other, mismatch, "user:read", []string{"--prefix velu_", "send no"}},
		"a token of another API":                       {"velocity", "GET /api/user", issue(t, s, "sk_live_", home.Slug, "inbox:read"), none, "UNAUTHORIZED unknown", "user:read", []string{"--prefix velu_"}},
		"a token of another API, elsewhere":            {"velocity", "GET /api/issues", issue(t, s, "sk_live_", home.Slug, "inbox:read"), other, "UNAUTHORIZED unknown", "issues:read", []string{"--prefix vel_", home.Slug}},
		"a role too low, a scope too few":              {"velocity", newIssue, personal("issues:read"), other, tooFew, "issues:write", []string{"--scope issues:read,issues:write", "--role member"}},
		"a user without a workspace":                   {"velocity", "GET /api/issues", personalOf(eve, "issues:read"), none, required, "", []string{": W", "--role guest"}},
	} {
		t.Run(name, func(t *testing.T) {
			// The other requests must not have what a fix grants.
			defer func() {
				operator[registry.Member](t, s, "member", "set", "--workspace", other.Slug, "--user", ada.ID, "--role", "guest")
				for _, user := range []registry.User{ada, eve} {
					_ = command(t.Context(), s, "member", "remove", "--workspace", unjoined.Slug, "--user", user.ID).Run() // if a member
				}
			}()
			reference := func(w registry.Workspace) string {
				if c.api == "velaflows" {
					return w.ID
				}
				return w.Slug
			}
			workspace, token := reference(c.workspace), c.token.Token
			if a := ask(c.api, c.line, token, workspace).send(t, client); a.hasOutcome(c.outcome, a.requiredScopes...) != nil {
				t.Fatalf("before: %s", a.outcome)
			}
			args := append([]string{"explain"}, strings.Fields(c.line)...)
			args = append(args, "--token-id", c.token.ID, "--api", c.api)
			header := ""
			if c.workspace.ID != "" {
				args = append(args, "--workspace", c.workspace.Slug)
				header = strings.ToLower(headerNames[c.api]) + ": " + workspace
			}
			e := explain(t, s, dir, args...)
			if e.Allow || e.Code == nil || *e.Code+" "+*e.Reason != c.outcome || strings.Join(e.Missing, " ") != c.missing ||
				e.Header != header || !aPlace.MatchString(e.Rule) || !aPlace.MatchString(e.Row) || len(e.Held) == 0 {
				t.Errorf("explain returns %+v", e)
			}
			steps := strings.Split(e.Fix, "; then ")
			if len(steps) != len(c.steps) {
				t.Fatalf("%q is not in %d steps", e.Fix, len(c.steps))
			}
			for i, step := range steps {
				if !strings.Contains(step, c.steps[i]) {
					t.Errorf("%q does not contain %q", step, c.steps[i])
				}
				if m := aHeader.FindStringSubmatch(step); m != nil {
					workspace = strings.Replace(m[2], "W", reference(unjoined), 1)
				} else if noHeader.MatchString(step) {
					workspace = ""
				} else if line := aCommand.FindString(step); line != "" {
					line = strings.NewReplacer("--user U ", "--user "+ada.ID+" ", "--workspace W ", "--workspace "+unjoined.Slug+" ").Replace(line)
					if made := runFix(t, s, line); made.Token != "" {
						token = made.Token
					}
				} else {
					t.Fatalf("the fix is not a command: %s", step)
				}
			}
			if a := ask(c.api, c.line, token, workspace).send(t, client); a.outcome != "allow" {
				t.Errorf("after %q: %s", e.Fix, a.outcome)
			}
		})
	}

	t.Run("no route", func(t *testing.T) {
		token := issue(t, s, "sk_live_", home.Slug, "inbox:read")
		e := explain(t, s, dir, "explain", "GET", "/api/v1/inbox/archive,all", "--token-id", token.ID, "--workspace", other.ID)
		if e.Allow || *e.Reason != "workspace_mismatch" || e.Row != "" || e.Route != nil || !aPlace.MatchString(e.Rule) {
			t.Fatalf("explain returns %+v", e)
		}
		steps := strings.Split(e.Fix, "; then ")
		if m := aHeader.FindStringSubmatch(steps[0]); len(steps) != 2 || m == nil || m[2] != home.ID {
			t.Fatalf("the fix is %q", e.Fix)
		}
		row := strings.Replace(aRow.FindString(steps[1]), "SCOPE", "inbox:read", 1)
		appendTo(t, filepath.Join(dir, "apis", "velaflows", "data.yaml"), "  "+row+"\n")
		again := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir}})
		_, client := newWire(t, again, 1)
		home := tenant(t, again)
		token = issue(t, again, "sk_live_", home.Slug, "inbox:read")
		wantOutcome(t, client, ask("velaflows", "GET /api/v1/inbox/archive,all", token.Token, home.ID), "allow")
	})
}

// explain accepts an app's access token by the ID that is in the log. It separates what an operator can do from what the
// user has to do.
func TestExplainAccessToken(t *testing.T) {
	_, client := newWire(t, world.stack, 1)
	one, two, other := tenant(t, world.stack), tenant(t, world.stack), tenant(t, world.stack)
	ada := operator[registry.User](t, world.stack, "user", "create", "--email", strings.ToLower(t.Name())+"@example.com")
	for _, w := range []registry.Workspace{one, two, other} {
		operator[registry.Member](t, world.stack, "member", "set", "--workspace", w.Slug, "--user", ada.ID, "--role", "guest")
	}
	const again = "the user has to consent again, in the app"
	left := tenant(t, world.stack)
	operator[registry.Member](t, world.stack, "member", "set", "--workspace", left.Slug, "--user", ada.ID, "--role", "guest")
	db := openDatabase(t, world.stack)
	for name, c := range map[string]struct {
		line      string
		scopes    []string
		granted   []string
		workspace string
		revoked   bool
		outcome   string
		fix       string
		works     bool // an operator can do it
	}{
		"allowed":                        {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, "", false, "allow", "", false},
		"a scope too few":                {"GET /api/projects", []string{"issues:read"}, []string{one.Slug}, "", false, "FORBIDDEN missing_scope", again + "; it has to ask for projects:read", false},
		"a role too low":                 {"POST /api/issues", []string{"issues:write"}, []string{one.Slug}, "", false, "FORBIDDEN missing_scope", "keywicket member set --workspace " + one.Slug + " --user " + ada.ID + " --role member", true},
		"several, none named":            {"GET /api/issues", []string{"issues:read"}, []string{one.Slug, two.Slug}, "", false, "WORKSPACE_ACCESS_DENIED workspace_required", "send the header x-workspace-slug: ", true},
		"another workspace":              {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, other.Slug, false, "WORKSPACE_ACCESS_DENIED workspace_mismatch", again + "; they have to choose the workspace " + other.Slug, false},
		"a workspace that the user left": {"GET /api/issues", []string{"issues:read"}, []string{left.Slug}, "", false, "WORKSPACE_ACCESS_DENIED workspace_required", "keywicket member set --workspace " + left.Slug + " --user " + ada.ID + " --role ", false},
		"an old token":                   {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, "", false, "UNAUTHORIZED expired", "the app has to refresh it", false},
		"a profile, elsewhere":           {"GET /api/user", []string{"user:read"}, nil, other.Slug, false, "WORKSPACE_ACCESS_DENIED workspace_mismatch", "send no x-workspace-slug header: ", true},
		"a grant that is over":           {"GET /api/issues", []string{"issues:read"}, []string{one.Slug}, "", true, "UNAUTHORIZED revoked", again, false},
		"an unlisted route":              {"GET /api/nothing", []string{"issues:read"}, []string{one.Slug}, "", false, "FORBIDDEN no_route", "add the row ", false},
	} {
		t.Run(name, func(t *testing.T) {
			issued := grant(t, ada.ID, c.scopes, c.granted...)
			if c.revoked {
				operator[registry.Grant](t, world.stack, "grant", "revoke", issued.Grant)
			}
			var id string
			if err := db.Get(&id, `SELECT id FROM keywicket.oauth_access_tokens WHERE grant_id = $1`, issued.Grant); err != nil {
				t.Fatal(err)
			}
			switch name {
			case "a workspace that the user left":
				if err := world.registry.RemoveMember(t.Context(), left.Slug, ada.ID); err != nil {
					t.Fatal(err)
				}
			case "an old token":
				db.MustExec(`UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp() WHERE id = $1`, id)
			}
			await(t, c.outcome, func() bool {
				return ask("velocity", c.line, issued.Access.Reveal(), c.workspace).send(t, client).outcome == c.outcome
			})
			args := append(strings.Fields("explain "+c.line), "--token-id", id)
			if c.workspace != "" {
				args = append(args, "--workspace", c.workspace)
			}
			e := explain(t, world.stack, "", args...)
			outcome := "allow"
			if !e.Allow {
				outcome = *e.Code + " " + *e.Reason
			}
			if outcome != c.outcome || !strings.HasPrefix(e.Fix, c.fix) || (c.fix == "") != (e.Fix == "") || len(e.Held) != len(c.scopes) {
				t.Fatalf("explain returns %+v", e)
			}
			if !c.works {
				return
			}
			workspace := c.workspace
			if m := aHeader.FindStringSubmatch(e.Fix); m != nil {
				workspace = m[2]
			} else if noHeader.MatchString(e.Fix) {
				workspace = ""
			} else {
				runFix(t, world.stack, aCommand.FindString(e.Fix))
				defer operator[registry.Member](t, world.stack, "member", "set", "--workspace", one.Slug, "--user", ada.ID, "--role", "guest")
			}
			if a := ask("velocity", c.line, issued.Access.Reveal(), workspace).send(t, client); a.outcome != "allow" {
				t.Errorf("after %q: %s", e.Fix, a.outcome)
			}
		})
	}
}

func TestExplainWithoutAToken(t *testing.T) {
	const (
		row     = `add the row  - {method: %s, path: %q, scopes: [SCOPE]}  to apis/velocity/data.yaml of the policies`
		spelled = `^the table has GET /api/issues \(.*data\.yaml:\d+\): send it like that`
	)
	addRow := func(method, path string) string { return regexp.QuoteMeta(fmt.Sprintf(row, method, path)) + "$" }
	for _, c := range []struct {
		args    []string
		outcome string
		fix     string // a regular expression; empty: the request is allowed
	}{
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:read", "--workspace", "any"}, "", ""},
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:write", "--workspace", "any"}, "missing_scope", `^keywicket token create --prefix sk_live_ --workspace any --name=NAME --scope tags:write,tags:read$`},
		{[]string{"GET", "/api/v1/tags", "--scope", "admin:all"}, "workspace_required", `^send the header x-workspace-id: W$`},
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:write"}, "workspace_required", `^keywicket token create --prefix sk_live_ --workspace W --name=NAME --scope tags:write,tags:read; then send the header x-workspace-id: W$`},
		{[]string{"GET", "/api/user", "--scope", "user:read,user:write"}, "", ""},
		{[]string{"GET", "/api/issues", "--scope", "user:read"}, "workspace_required", `^keywicket token create --prefix velu_ --user U --name=NAME --scope user:read,issues:read; then send the header x-workspace-slug: W$`},
		{[]string{"GET", "/healthz", "--api", "velocity", "--scope", "user:read"}, "", ""},
		{[]string{"GET", "/api//issues", "--scope", "issues:read"}, "no_route", `^the path has an empty segment`},
		{[]string{"GET", "/api/v1/tags", "--scope", "issues:read"}, "no_route", `^velaflows lists it \(.*data\.yaml:\d+\): --api velaflows$`},
		{[]string{"GET", "/api/issues/", "--scope", "issues:read"}, "no_route", spelled},
		{[]string{"GET", "/API/issues", "--scope", "issues:read"}, "no_route", spelled},
		{[]string{"get", "/api/issues", "--scope", "issues:read"}, "no_route", spelled},
		{[]string{"PUT", "/api/issues", "--scope", "issues:read"}, "no_route", `^the path is listed for GET \(.*data\.yaml:\d+\), POST \(.*data\.yaml:\d+\); for PUT too, ` + addRow("PUT", "/api/issues")},
		{[]string{"GET", "/api/a,b:c", "--scope", "issues:read"}, "no_route", "^" + addRow("GET", "/api/a,b:c")},
		{[]string{"get", "/api/new", "--scope", "issues:read"}, "no_route", `^"get" is no method`},
		{[]string{"", "/api/new", "--scope", "issues:read"}, "no_route", `^"" is no method`},
		{[]string{"GET", "/api/new*", "--scope", "issues:read"}, "no_route", "^" + addRow("GET", "/api/new%2A")},
		{[]string{"GET", "/api/:new", "--scope", "issues:read"}, "no_route", "^" + addRow("GET", "/api/%3Anew")},
	} {
		e := explain(t, world.stack, "", append([]string{"explain"}, c.args...)...)
		reason := ""
		if e.Reason != nil {
			reason = *e.Reason
		}
		if e.Allow != (c.fix == "") || reason != c.outcome || len(e.Held) == 0 ||
			(e.Fix == "") != e.Allow || !regexp.MustCompile(c.fix).MatchString(e.Fix) {
			t.Errorf("%v: %+v", c.args, e)
		}
	}
}

func explain(t *testing.T, s *demo.Stack, dir string, args ...string) (e explained) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := command(ctx, s, append(args, "--output", "json")...)
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

// runFix runs a command in a shell exactly as explain prints it.
func runFix(t *testing.T, s *demo.Stack, line string) (made issued) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	environ := command(ctx, s).Env
	c := exec.CommandContext(ctx, "sh", "-c", strings.Replace(line, "keywicket", world.binary, 1)+" --output json")
	c.Env = environ
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	time.Sleep(staleness)
	return made
}

// No other token helps a user who is banned.
func TestExplainBannedUser(t *testing.T) {
	user, workspace := ada(t)
	token, _ := newToken(t, "velu_", registry.NewToken{Name: t.Name(), Scopes: []string{"issues:read"}, User: user})
	db, err := database.Open(world.stack.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for until, banned := range map[string]bool{"2099-01-02 03:04:05Z": true, "infinity": true, "2020-01-01": false} {
		db.MustExec(`UPDATE keywicket.users SET banned_until = $1 WHERE id = $2`, until, user)
		for _, who := range [][]string{{"--token-id", token.ID}, {"--user", user}} {
			e := explain(t, world.stack, "", append([]string{"explain", "GET", "/api/issues", "--workspace", workspace}, who...)...)
			if told := strings.HasPrefix(e.Fix, "the user is banned until "); e.Allow == banned || told != banned {
				t.Errorf("%s, %v: %+v", until, who, e)
			}
		}
	}
}
