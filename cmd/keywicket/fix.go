package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
)

// fix names the change that would let the request in: a header to send, a command to run, a row to add. Where one is not
// enough, it is all of them, one after the other. It was tried that they do it. Empty for a request that is let in.
func (m *imagined) fix(ctx context.Context) (string, error) {
	if m.why.Allow {
		return "", nil
	}
	if step, err := m.banned(ctx); step != "" || err != nil {
		return step, err
	}
	var route []string
	if m.why.Route == "" {
		step, elsewhere, err := m.fixRoute(ctx)
		if err != nil || elsewhere {
			return step, err
		}
		route = []string{step}
	}
	attempts, err := m.attempts(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range attempts {
		then := imagined{
			explainer: m.explainer, cfg: m.cfg, api: m.api, method: m.method, path: m.path,
			format: m.format, workspace: a.header, found: a.found(),
		}
		if err := then.check(ctx); err != nil {
			return "", err
		}
		if then.why.Allow || then.why.Reason == authz.ReasonNoRoute {
			return strings.Join(append(a.steps, route...), "; then "), nil
		}
	}
	if m.token.Kind == authz.KindOAuthToken {
		return m.consentAnew(ctx)
	}
	return m.obstacle(), nil
}

// banned says what to do where the token's user is banned: no other token would help them.
func (m *imagined) banned(ctx context.Context) (string, error) {
	if m.registry == nil || m.token.UserID == nil || m.why.Reason != authz.ReasonRevoked {
		return "", nil
	}
	u, err := m.registry.User(ctx, *m.token.UserID)
	if err != nil || !u.Banned(time.Now()) {
		return "", err
	}
	return fmt.Sprintf("the user is banned until %s: wait, or set banned_until in keywicket.users to null", when(u.BannedUntil)), nil
}

// consentAnew is what an app needs whose token does not do, and no operator can give.
func (m *imagined) consentAnew(ctx context.Context) (string, error) {
	switch {
	case m.why.Reason == authz.ReasonExpired:
		return "the app has to refresh it", nil
	case m.why.Reason == authz.ReasonRevoked:
		return "the user has to consent anew, at the app, unless the app itself was revoked", nil
	case m.why.Reason == authz.ReasonWorkspaceRequired && len(m.granted) == 1: // he has left the only one
		w, err := m.registry.Workspace(ctx, m.granted[0])
		return fmt.Sprintf("keywicket member set --workspace %s --user %s --role ROLE", w.Slug, userOf(m.principal())), err
	}
	step := "the user has to consent anew, at the app"
	if missing := m.missing(); len(missing) > 0 {
		step += "; it has to ask for " + strings.Join(missing, " ")
	}
	if m.named.ID != "" && !slices.Contains(m.granted, m.named.ID) {
		step += "; he has to choose the workspace " + m.named.Slug + ", as a member of it"
	}
	return step, nil
}

// obstacle is what no change of those that an operator has would help against.
func (m *imagined) obstacle() string {
	ofUser := func(f authz.CredentialFormat) bool { return f.Kind.OfUser() }
	if m.level() == policies.LevelUser && !slices.ContainsFunc(madeHere(m.cfg.APIs[m.api]), ofUser) {
		return "the route is about a user, and " + m.api + " has no kind of token for users"
	}
	return "no header, scope, role or kind of token would let it in: see the rule"
}

// attempt is the request with something changed.
type attempt struct {
	steps []string // what to do
	// cost puts one step before two, and what gives nobody more rights before what does.
	cost      int
	principal authz.Principal
	header    string           // of the workspace; empty: none
	workspace authz.Membership // the credential's own, or the one in the header; without a role, the user is not in it
}

const (
	costHeader     = 10
	costCredential = 11
	costRole       = 12
	costKind       = 40 // somebody else's credential: after whatever can be done with this one
)

func (a attempt) step(cost int, what string) attempt {
	a.cost += cost
	a.steps = append(slices.Clone(a.steps), what)
	return a
}

func (a attempt) found() authz.Found {
	f := authz.Found{Principal: a.principal}
	if !a.principal.Kind.OfUser() || a.workspace.Role != "" {
		f.Workspace = a.workspace
	}
	return f
}

// attempts are all combinations, the best first.
func (m *imagined) attempts(ctx context.Context) ([]attempt, error) {
	memberships, err := m.memberships(ctx)
	if err != nil {
		return nil, err
	}
	home, err := m.home(ctx)
	if err != nil {
		return nil, err
	}
	var all []attempt
	for _, credential := range m.credentials(home, memberships) {
		for _, header := range m.headers(credential, memberships) {
			all = append(all, m.roles(header)...)
		}
	}
	slices.SortStableFunc(all, func(a, b attempt) int { return a.cost - b.cost })
	return all, nil
}

// memberships are those of the token's user.
func (m *imagined) memberships(ctx context.Context) ([]authz.Membership, error) {
	user := m.principal().UserID
	switch {
	case user == "":
		return nil, nil
	case m.registry == nil:
		own := authz.Membership{ID: imaginedID, Slug: imaginedSlug, Role: "owner"}
		return []authz.Membership{cmp.Or(m.named, own)}, nil
	}
	workspaces, err := m.registry.Workspaces(ctx)
	if err != nil {
		return nil, err
	}
	attributes := make(map[string]authz.Attributes, len(workspaces))
	for _, w := range workspaces {
		attributes[w.ID] = w.Attributes
	}
	members, err := m.registry.Members(ctx, "")
	var list []authz.Membership
	for _, member := range members {
		if member.UserID == user && (m.token.Kind != authz.KindOAuthToken || slices.Contains(m.granted, member.WorkspaceID)) {
			list = append(list, authz.Membership{
				ID: member.WorkspaceID, Slug: member.WorkspaceSlug, Role: member.Role, Attributes: attributes[member.WorkspaceID],
			})
		}
	}
	return list, err
}

// home is the workspace that a workspace's token belongs to, or would.
func (m *imagined) home(ctx context.Context) (authz.Membership, error) {
	if m.token.WorkspaceID == nil {
		return cmp.Or(authz.Membership{ID: m.named.ID, Slug: m.named.Slug, Attributes: m.named.Attributes}, authz.Membership{ID: imaginedID, Slug: imaginedSlug}), nil
	}
	w, err := m.registry.Workspace(ctx, *m.token.WorkspaceID)
	return authz.Membership{ID: w.ID, Slug: w.Slug, Attributes: w.Attributes}, err
}

// credentials: this one, if it is good; one like it that has the scopes; one of another kind, whoever's.
func (m *imagined) credentials(home authz.Membership, memberships []authz.Membership) []attempt {
	own := m.principal()
	with := func(p authz.Principal) attempt {
		a := attempt{principal: p, header: m.workspace, workspace: home}
		switch {
		case p.Kind == authz.KindOAuthToken && m.workspace == "" && len(m.granted) == 1 && len(memberships) == 1:
			a.workspace = memberships[0]
		case p.Kind.OfUser():
			a.workspace = m.named
		}
		for _, w := range memberships {
			if p.UserID == own.UserID && w.ID == m.named.ID {
				a.workspace = w
			}
		}
		return a
	}
	var list []attempt
	good := m.input.Denial == ""
	if good {
		list = append(list, with(own))
	}
	if own.Kind == authz.KindOAuthToken { // it is not the operator who gives an app another one
		return list
	}
	for _, f := range madeHere(m.cfg.APIs[m.api]) {
		p := own
		p.Kind, p.API, p.Environment = f.Kind, m.api, f.Environment
		p.UserID, p.Scopes = "", m.needed()
		p.Attributes, p.UserAttributes = "", ""
		valid := m.explainer.Tables()[m.api].ScopeNames(levelsOf(f.Kind)...)
		invalid := func(scope string) bool { return !slices.Contains(valid, scope) }
		switch {
		case slices.ContainsFunc(m.needed(), invalid):
		case m.made(f):
			if good && len(m.missing()) == 0 {
				continue
			}
			p.UserID, p.Attributes, p.UserAttributes = own.UserID, own.Attributes, own.UserAttributes
			p.Scopes = slices.DeleteFunc(slices.Concat(m.held(), m.missing()), invalid) // the policy may have dropped some
			list = append(list, with(p).step(costCredential, m.create(f, p, home)))
		case own.API != m.api:
			list = append(list, with(p).step(costKind, "the token is one of "+own.API+": "+m.create(f, p, home)))
		case f.Kind.OfUser() != own.Kind.OfUser():
			why := "it takes another kind of token"
			if m.level() == policies.LevelUser {
				why = "the route is about a user, and a workspace's token is nobody's"
			}
			list = append(list, with(p).step(costKind, why+": "+m.create(f, p, home)))
		}
	}
	return list
}

// levelsOf are the levels of the scopes that a kind of token can have.
func levelsOf(kind authz.Kind) []policies.Level {
	if kind.OfUser() {
		return []policies.Level{policies.LevelWorkspace, policies.LevelUser}
	}
	return []policies.Level{policies.LevelWorkspace}
}

// made says that the token is of this format.
func (m *imagined) made(f authz.CredentialFormat) bool {
	if m.registry == nil {
		return f == m.format
	}
	return m.token.API == m.api && f.Kind == m.token.Kind && f.Environment == m.token.Environment &&
		strings.HasPrefix(m.token.Prefix, f.Prefix)
}

// create is the command that makes a token for the principal. What it leaves open is in capitals.
func (m *imagined) create(f authz.CredentialFormat, p authz.Principal, home authz.Membership) string {
	words := []string{"keywicket token create --prefix", f.Prefix}
	sharing := 0
	for _, api := range m.cfg.APIs {
		if _, ok := api.Format(f.Prefix); ok {
			sharing++
		}
	}
	if sharing > 1 {
		words = append(words, "--api", quote(m.api))
	}
	if f.Kind.OfUser() {
		words = append(words, "--user", userOf(p))
	} else {
		words = append(words, "--workspace", nameOf(home))
	}
	words = append(words, "--name="+quote(cmp.Or(m.token.Name, "NAME")),
		"--scope", cmp.Or(strings.Join(p.Scopes, ","), "SCOPE"))
	if a := p.Attributes.JSON(); a != "{}" {
		words = append(words, "--attributes", quote(a))
	}
	if m.token.ExpiresAt != nil {
		words = append(words, "--expires-in", lifetime(m.token.ExpiresAt.Sub(m.token.CreatedAt)))
	}
	return strings.Join(words, " ")
}

// lifetime in whole days, one at least.
func lifetime(d time.Duration) string {
	const day = 24 * time.Hour
	return fmt.Sprintf("%dd", max(1, d.Round(day)/day))
}

func userOf(p authz.Principal) string {
	if p.UserID == "" || p.ID == "imagined" {
		return "U"
	}
	return quote(p.UserID)
}

// nameOf a workspace is its slug, or what of it is known.
func nameOf(w authz.Membership) string {
	if w.Slug == imaginedSlug {
		return shown(w.ID)
	}
	return w.Slug
}

// headers: the one that was sent; none, for what a user does as such; the workspace's own; a workspace of the user, if
// none was meant.
func (m *imagined) headers(a attempt, memberships []authz.Membership) []attempt {
	list := []attempt{a}
	header := m.cfg.APIs[m.api].Workspace.Header
	send := func(w authz.Membership) {
		to := reference(m.cfg.APIs[m.api], w.ID, w.Slug)
		if to == a.header {
			return
		}
		b := a.step(costHeader, fmt.Sprintf("send the header %s: %s", header, shown(to)))
		b.header, b.workspace = to, w
		list = append(list, b)
	}
	if m.level() == policies.LevelUser && a.header != "" {
		b := a.step(costHeader, "send no "+header+" header: the route is about the user, in no workspace")
		b.header = ""
		if a.principal.Kind.OfUser() {
			b.workspace = authz.Membership{}
		}
		list = append(list, b)
	}
	switch {
	case !a.principal.Kind.OfUser():
		send(a.workspace)
	case m.named.ID != "":
	case a.principal.UserID == "" || len(memberships) == 0:
		send(authz.Membership{ID: imaginedID, Slug: imaginedSlug})
	default:
		var tried []authz.Membership
		for _, w := range memberships {
			like := authz.Membership{Role: w.Role, Attributes: w.Attributes} // the next one like it would fare the same
			if !slices.Contains(tried, like) {
				tried = append(tried, like)
				send(w)
			}
		}
	}
	return list
}

// roles: the user's own, and those that are more, the least first.
func (m *imagined) roles(a attempt) []attempt {
	list := []attempt{a}
	if !a.principal.Kind.OfUser() || a.workspace.ID == "" {
		return list
	}
	if a.principal.Kind == authz.KindOAuthToken && !slices.Contains(m.granted, a.workspace.ID) {
		return list
	}
	roles := m.explainer.Tables()[m.api].Roles
	least := slices.SortedFunc(maps.Keys(roles), func(x, y string) int {
		return cmp.Or(m.reach(roles[x])-m.reach(roles[y]), cmp.Compare(y, x))
	})
	for _, role := range least {
		if m.reach(roles[role]) > m.reach(roles[a.workspace.Role]) {
			b := a.step(costRole, fmt.Sprintf("keywicket member set --workspace %s --user %s --role %s",
				nameOf(a.workspace), userOf(a.principal), quote(role)))
			b.workspace.Role = role
			list = append(list, b)
		}
	}
	return list
}

// reach is how much a role allows; an override allows everything.
func (m *imagined) reach(scopes []string) int {
	table := m.explainer.Tables()[m.api]
	for _, scope := range scopes {
		if table.IsOverride(scope, policies.LevelWorkspace) {
			return len(table.ScopeNames(policies.LevelWorkspace)) + 1
		}
	}
	reached := make(map[string]bool)
	for _, scope := range scopes {
		for _, implied := range table.Implied(scope) {
			reached[implied] = true
		}
	}
	return len(reached)
}

// quote makes a word of the shell's.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
