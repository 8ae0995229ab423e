package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
)

// fix names the one change that would let the request in: a header to send, a command to run, or a row to add. Where
// there is a choice, it was tried that the change does it. Empty for a request that is let in already.
func (m *imagined) fix(ctx context.Context) (string, error) {
	switch m.why.Reason {
	case authz.ReasonUnknown:
		return fmt.Sprintf("the token is one of %s: present one of %s, made by keywicket token create --prefix %s",
			m.token.API, m.api, m.format.Prefix), nil
	case authz.ReasonExpired, authz.ReasonRevoked:
		return "make another token: " + m.create(m.token.Scopes), nil
	case authz.ReasonWorkspaceRequired:
		return m.fixWorkspace(ctx)
	case authz.ReasonWorkspaceMismatch:
		return m.fixMismatch(ctx)
	case authz.ReasonNoRoute:
		return m.fixRoute(), nil
	case authz.ReasonMissingScope:
		return m.fixScope(ctx)
	}
	return "", nil
}

// create is the command that makes a token like this one, with other scopes.
func (m *imagined) create(scopes []string) string {
	owner, name := "--workspace W", "NAME"
	switch {
	case m.token.WorkspaceID != nil:
		owner, name = "--workspace "+*m.token.WorkspaceID, m.token.Name
	case m.token.UserID != nil:
		owner, name = "--user "+quote(*m.token.UserID), m.token.Name
	case m.format.Kind.OfUser():
		owner = "--user U"
	}
	return fmt.Sprintf("keywicket token create --prefix %s %s --name %s --scope %s",
		m.prefix(), owner, quote(name), strings.Join(scopes, ","))
}

// createOfUser is the command that makes a user's token, of some user.
func (m *imagined) createOfUser(scopes []string) string {
	for _, f := range m.cfg.APIs[m.api].Credentials {
		if f.Kind.OfUser() {
			return fmt.Sprintf("keywicket token create --prefix %s --user U --name NAME --scope %s", f.Prefix, strings.Join(scopes, ","))
		}
	}
	return "the API has no kind of token for users"
}

// prefix is that of the token's own format.
func (m *imagined) prefix() string {
	for _, f := range m.cfg.APIs[cmp.Or(m.token.API, m.api)].Credentials {
		if m.token.ID != "" && f.Kind == m.token.Kind && f.Environment == m.token.Environment && strings.HasPrefix(m.token.Prefix, f.Prefix) {
			return f.Prefix
		}
	}
	return m.format.Prefix
}

func (m *imagined) header(value string) string {
	return fmt.Sprintf("send the header %s: %s", m.cfg.APIs[m.api].Workspace.Header, value)
}

// fixWorkspace: the credential's own workspace, or one in which the user may do this.
func (m *imagined) fixWorkspace(ctx context.Context) (string, error) {
	api := m.cfg.APIs[m.api]
	if m.registry == nil {
		return m.header("W"), nil
	}
	if m.token.WorkspaceID != nil {
		w, err := m.registry.Workspace(ctx, *m.token.WorkspaceID)
		return m.header(reference(api, w.ID, w.Slug)), err
	}
	members, err := m.registry.Members(ctx, "")
	if err != nil {
		return "", err
	}
	for _, member := range members {
		if m.token.UserID == nil || member.UserID != *m.token.UserID {
			continue
		}
		if ok, err := m.allows(ctx, as(member.Role)); err != nil || ok {
			return m.header(reference(api, member.WorkspaceID, member.WorkspaceSlug)), err
		}
	}
	return "the user is in no workspace where this would be allowed: keywicket member set --workspace W --user " +
		quote(*m.token.UserID) + " --role ROLE, and " + m.header("W"), nil
}

func as(role string) func(*authz.Input) {
	return func(in *authz.Input) {
		in.Workspace = authz.Workspace{Requested: true, Granted: true, ID: imaginedID, Slug: imaginedSlug, Role: role}
	}
}

// fixMismatch: a workspace's credential has one workspace; a user can be made a member of another.
func (m *imagined) fixMismatch(ctx context.Context) (string, error) {
	if m.token.UserID == nil {
		return m.fixWorkspace(ctx)
	}
	if _, err := m.registry.Workspace(ctx, m.workspace); err != nil {
		return m.fixWorkspace(ctx)
	}
	return m.fixRole(ctx, "no role would allow this")
}

// fixRole: the least role that is enough. When none is, the scopes are too few as well.
func (m *imagined) fixRole(ctx context.Context, none string) (string, error) {
	roles := m.explainer.Tables()[m.api].Roles
	byScopes := slices.SortedFunc(maps.Keys(roles), func(a, b string) int {
		return cmp.Or(m.reach(roles[a])-m.reach(roles[b]), -cmp.Compare(a, b))
	})
	for _, role := range byScopes {
		ok, err := m.allows(ctx, as(role))
		if err != nil {
			return "", err
		}
		if ok {
			return fmt.Sprintf("keywicket member set --workspace %s --user %s --role %s",
				m.workspace, quote(*m.token.UserID), role), nil
		}
	}
	return none, nil
}

// reach is how much a role allows; an override allows everything.
func (m *imagined) reach(scopes []string) int {
	table := m.explainer.Tables()[m.api]
	for _, scope := range scopes {
		if slices.Contains(table.Overrides[policies.LevelWorkspace], scope) {
			return len(table.ScopeNames(policies.LevelWorkspace)) + 1
		}
	}
	return len(scopes)
}

func (m *imagined) fixScope(ctx context.Context) (string, error) {
	p := m.input.Principal
	if m.level() == policies.LevelUser && !p.Kind.OfUser() {
		return "the route is about a user, and a workspace's token is nobody's: " + m.createOfUser(m.why.RequiredScopes), nil
	}
	enough := slices.Concat(p.Scopes, m.missing())
	ok, err := m.allows(ctx, func(in *authz.Input) {
		principal := *p
		principal.Scopes = enough
		in.Principal = &principal
	})
	if err != nil {
		return "", err
	}
	if ok {
		return m.create(enough), nil
	}
	if m.registry == nil {
		return "the role of an owner does not allow this", nil
	}
	return m.fixRole(ctx, fmt.Sprintf("the role %s and the scopes are both too few: keywicket member set, and %s",
		m.input.Workspace.Role, m.create(enough)))
}

func (m *imagined) level() policies.Level {
	for _, r := range m.explainer.Tables()[m.api].Routes {
		if r.Method+" "+r.Path == m.why.Route && r.Level != "" {
			return r.Level
		}
	}
	return policies.LevelWorkspace
}

func (m *imagined) fixRoute() string {
	if m.input.Segments == nil {
		return "the path is not canonical, and matches no route: send it without empty or dot segments, ';' and escapes of them"
	}
	return fmt.Sprintf("add the row  - {method: %s, path: %s, scopes: [SCOPE]}  to apis/%s/data.yaml of the policies",
		m.input.Method, m.input.Path, m.api)
}

// quote makes a word of the shell's.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
