package test

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
	"github.com/keywicket/keywicket/store"
)

// explained is what `explain --output json` prints.
type explained struct {
	Allow          bool
	Code, Reason   *string
	RequiredScopes []string `json:"required_scopes"`
	Route          *string
	Row, Rule, Fix string
	Held, Missing  []string
}

var (
	aCommand = regexp.MustCompile(`keywicket (token create|member set) .*$`)
	aHeader  = regexp.MustCompile(`^send the header ([^:]+): (.*)$`)
	aRow     = regexp.MustCompile(`- \{.*\}`)
	aPlace   = regexp.MustCompile(`/(decision\.rego|data\.yaml):[1-9][0-9]*$`)
)

// Each request is denied, explain names the cause, what it says to do is done to the letter, and the request passes.
func TestExplainNamesTheCauseAndTheFix(t *testing.T) {
	dir := policyFolder(t)
	s := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir}})
	_, client := newWire(t, s, 1)
	home, other := tenant(t, s), tenant(t, s)
	ada := operator[store.User](t, s, "user", "create", "--email", "ada@example.com")
	for workspace, role := range map[string]string{home.Slug: "owner", other.Slug: "guest"} {
		operator[store.Member](t, s, "member", "set", "--workspace", workspace, "--user", ada.ID, "--role", role)
	}
	nobodys := tenant(t, s)
	personal := func(scopes string) issued {
		return operator[issued](t, s, "token", "create", "--prefix", "velu_", "--user", ada.ID, "--name", "ada's", "--scope", scopes)
	}
	expired := issue(t, s, "sk_live_", home.Slug, "inbox:read", "--expires-in", "1ms")
	revoked := issue(t, s, "sk_live_", home.Slug, "inbox:read")
	operator[listed](t, s, "token", "revoke", revoked.ID)

	for name, c := range map[string]struct {
		api, line string
		token     issued
		workspace store.Workspace // zero: no header
		outcome   string
		missing   string
	}{
		"a scope too few":            {"velaflows", "DELETE /api/v1/crm/leads/7", issue(t, s, "sk_live_", home.Slug, "crm:read"), home, "FORBIDDEN missing_scope", "crm:delete"},
		"of the sandbox":             {"velaflows", "GET /api/v1/tags", issue(t, s, "sk_test_", home.Slug, "crm:read"), home, "FORBIDDEN missing_scope", "tags:read"},
		"no workspace":               {"velaflows", conversations, issue(t, s, "sk_live_", home.Slug, "inbox:read"), store.Workspace{}, "WORKSPACE_ACCESS_DENIED workspace_required", ""},
		"another workspace":          {"velaflows", conversations, issue(t, s, "sk_live_", home.Slug, "inbox:read"), other, "WORKSPACE_ACCESS_DENIED workspace_mismatch", ""},
		"expired":                    {"velaflows", conversations, expired, home, "UNAUTHORIZED expired", ""},
		"revoked":                    {"velaflows", conversations, revoked, home, "UNAUTHORIZED revoked", ""},
		"a workspace key elsewhere":  {"velocity", "GET /api/issues", issue(t, s, "vel_", home.Slug, "issues:read"), other, "WORKSPACE_ACCESS_DENIED workspace_mismatch", ""},
		"a workspace key of nobody":  {"velocity", "GET /api/user", issue(t, s, "vel_", home.Slug, "workspace:admin"), store.Workspace{}, "FORBIDDEN missing_scope", "user:read"},
		"a user who is no member":    {"velocity", "POST /api/issues", personal("issues:write"), nobodys, "WORKSPACE_ACCESS_DENIED workspace_mismatch", ""},
		"a role too low":             {"velocity", "POST /api/issues", personal("issues:write"), other, "FORBIDDEN missing_scope", ""},
		"a personal key's scope":     {"velocity", "PATCH /api/workspace", personal("issues:write"), home, "FORBIDDEN missing_scope", "workspace:admin"},
		"a personal key at large":    {"velocity", "PATCH /api/workspace", personal("admin"), store.Workspace{}, "WORKSPACE_ACCESS_DENIED workspace_required", ""},
		"a profile, a scope too few": {"velocity", "PATCH /api/user", personal("user:read"), store.Workspace{}, "FORBIDDEN missing_scope", "user:write"},
	} {
		t.Run(name, func(t *testing.T) {
			reference := c.workspace.Slug
			if c.api == "velaflows" {
				reference = c.workspace.ID
			}
			token := c.token.Token
			if a := ask(c.api, c.line, token, reference).send(t, client); a.hasOutcome(c.outcome, a.requiredScopes...) != nil {
				t.Fatalf("before: %s", a.outcome)
			}
			args := append([]string{"explain"}, strings.Fields(c.line)...)
			args = append(args, "--token-id", c.token.ID)
			if c.workspace.ID != "" {
				args = append(args, "--workspace", c.workspace.Slug)
			}
			e := explain(t, s, dir, args...)
			if e.Allow || e.Code == nil || *e.Code+" "+*e.Reason != c.outcome || strings.Join(e.Missing, " ") != c.missing ||
				!aPlace.MatchString(e.Rule) || !aPlace.MatchString(e.Row) || len(e.Held) == 0 {
				t.Errorf("explain says %+v", e)
			}
			if m := aHeader.FindStringSubmatch(e.Fix); m != nil {
				reference = m[2]
			} else if command := aCommand.FindString(e.Fix); command != "" {
				if made := fixed(t, s, strings.Replace(command, "--user U ", "--user "+ada.ID+" ", 1)); made.Token != "" {
					token = made.Token
				}
			} else {
				t.Fatalf("the fix is nothing to do: %s", e.Fix)
			}
			if a := ask(c.api, c.line, token, reference).send(t, client); a.outcome != "allow" {
				t.Errorf("after %q: %s", e.Fix, a.outcome)
			}
		})
	}

	t.Run("no route", func(t *testing.T) {
		token := issue(t, s, "sk_live_", home.Slug, "inbox:read")
		e := explain(t, s, dir, "explain", "GET", "/api/v1/inbox/archive", "--token-id", token.ID, "--workspace", home.ID)
		if e.Allow || *e.Reason != "no_route" || e.Row != "" || e.Route != nil || !aPlace.MatchString(e.Rule) {
			t.Fatalf("explain says %+v", e)
		}
		row := strings.Replace(aRow.FindString(e.Fix), "SCOPE", "inbox:read", 1)
		appendTo(t, filepath.Join(dir, "apis", "velaflows", "data.yaml"), "  "+row+"\n")
		again := separateStack(t, demo.Config{Environ: []string{"KEYWICKET_POLICIES_DIR=" + dir}})
		_, client := newWire(t, again, 1)
		home := tenant(t, again)
		token = issue(t, again, "sk_live_", home.Slug, "inbox:read")
		wantOutcome(t, client, ask("velaflows", "GET /api/v1/inbox/archive", token.Token, home.ID), "allow")
	})
}

func TestExplainWithoutAToken(t *testing.T) {
	for _, c := range []struct {
		args    []string
		outcome string
		allow   bool
	}{
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:read", "--workspace", "any"}, "", true},
		{[]string{"GET", "/api/v1/tags", "--scope", "tags:write", "--workspace", "any"}, "missing_scope", false},
		{[]string{"GET", "/api/v1/tags", "--scope", "admin:all"}, "workspace_required", false},
		{[]string{"GET", "/api/user", "--scope", "user:read,user:write"}, "", true},
		{[]string{"GET", "/healthz", "--api", "velocity", "--scope", "user:read"}, "", true},
		{[]string{"GET", "/api//issues", "--scope", "issues:read"}, "no_route", false},
	} {
		e := explain(t, world.stack, "", append([]string{"explain"}, c.args...)...)
		reason := ""
		if e.Reason != nil {
			reason = *e.Reason
		}
		if e.Allow != c.allow || reason != c.outcome || (e.Fix == "") != c.allow {
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

// fixed runs a command as explain gives it, in a shell.
func fixed(t *testing.T, s *demo.Stack, line string) (made issued) {
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
	return made
}
