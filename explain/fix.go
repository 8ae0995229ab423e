package explain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/table"
)

// fix returns the change that gets the request allowed: a header to send, a command to run, or a row to add. If one step is not
// enough, it returns several steps in order. For a header, credential or role to change, it evaluates the policy with the change.
// It does not check a row to add, or the steps for a banned user or an app's token. For an allowed request it returns "".
func (m *simulation) fix(ctx context.Context) (string, error) {
	if m.explanation.Allow {
		return "", nil
	}
	if step, err := m.bannedStep(ctx); step != "" || err != nil {
		return step, err
	}
	var routeSteps []string
	if m.explanation.Route == "" {
		step, otherAPI, err := m.fixRoute(ctx)
		if err != nil || otherAPI {
			return step, err
		}
		routeSteps = []string{step}
	}
	attempts, err := m.attempts(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range attempts {
		changed := simulation{
			explainer: m.explainer, cfg: m.cfg, api: m.api, method: m.method, path: m.path,
			format: m.format, workspace: a.header, lookupResult: a.lookupResult(),
		}
		if err := changed.check(ctx); err != nil {
			return "", err
		}
		if changed.explanation.Allow || changed.explanation.Reason == authz.ReasonNoRoute {
			return strings.Join(append(a.steps, routeSteps...), "; then "), nil
		}
	}
	if m.token.Kind == authz.KindOAuthToken {
		return m.consentStep(ctx)
	}
	return m.noFix(), nil
}

// bannedStep returns the step for a banned user, or "" if the user is not banned. Another token of a banned user would not
// help.
func (m *simulation) bannedStep(ctx context.Context) (string, error) {
	if m.registry == nil || m.token.UserID == nil || m.explanation.Reason != authz.ReasonRevoked {
		return "", nil
	}
	u, err := m.registry.User(ctx, *m.token.UserID)
	if err != nil || !u.Banned(time.Now()) {
		return "", err
	}
	return fmt.Sprintf("the user is banned until %s: wait, or set banned_until in keywicket.users to null", u.BannedUntil.UTC().Format(time.RFC3339)), nil
}

// consentStep returns the step for an app's access token that is not sufficient. In most cases only the app or the user can take
// this step.
func (m *simulation) consentStep(ctx context.Context) (string, error) {
	switch {
	case m.explanation.Reason == authz.ReasonExpired:
		return "the app has to refresh the token", nil
	case m.explanation.Reason == authz.ReasonRevoked:
		return "the user has to consent again, in the app, unless the app itself was revoked", nil
	case m.explanation.Reason == authz.ReasonWorkspaceRequired && len(m.granted) == 1:
		// The user is no longer a member of the only granted workspace.
		w, err := m.registry.Workspace(ctx, m.granted[0])
		return fmt.Sprintf("%s --workspace %s --user %s --role ROLE", m.command("member set"), w.Slug, userOf(m.principal())), err
	}
	step := "the user has to consent again, in the app"
	if missing := m.missing(); len(missing) > 0 {
		step += "; the app has to request " + strings.Join(missing, " ")
	}
	if m.headerWorkspace.ID != "" && !slices.Contains(m.granted, m.headerWorkspace.ID) {
		step += "; the user has to choose the workspace " + m.headerWorkspace.Slug + ", and must be a member of that workspace"
	}
	return step, nil
}

// noFix returns the text for a request that no change by an operator would allow.
func (m *simulation) noFix() string {
	ofUser := func(f authz.CredentialFormat) bool { return f.Kind.OfUser() }
	if m.level() == table.LevelUser && !slices.ContainsFunc(m.cfg.APIs[m.api].OperatorFormats(), ofUser) {
		return "the route is about a user, and " + m.api + " has no kind of token for users"
	}
	return "no header, scope, role or kind of token gets the request allowed: see the rule"
}
