package explain

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/shell"
	"github.com/keywicket/keywicket/policies/table"
)

// attempt is the request with another credential, workspace header or role, or with several of these changes.
type attempt struct {
	steps []step
	// cost orders the attempts: fewer steps first, and steps that grant no rights before steps that grant rights.
	cost      int
	principal authz.Principal
	header    string           // value of the workspace header; empty: no header
	workspace authz.Membership // workspace of the credential or of the header; if a user has no role in it, the user is not a member
	chosen    authz.Membership // workspace that the user chooses for an app; zero value: none
}

const (
	costHeader     = 10
	costCredential = 11
	costRole       = 12
	costKind       = 40 // another kind of credential: after all attempts with the current kind
)

// step returns a copy of the attempt with one more step.
func (a attempt) step(cost int, e effect, text string) attempt {
	a.cost += cost
	a.steps = append(slices.Clone(a.steps), step{e, text})
	return a
}

// lookupResult returns the result of the look-up in this attempt.
func (a attempt) lookupResult() authz.LookupResult {
	f := authz.LookupResult{Principal: a.principal}
	if !a.principal.Kind.OfUser() || a.workspace.Role != "" {
		f.Workspace = a.workspace
	}
	return f
}

// attempts returns all combinations of credential, header and role. The attempt with the lowest cost comes first.
func (m *simulation) attempts(ctx context.Context) ([]attempt, error) {
	memberships, err := m.memberships(ctx)
	if err != nil {
		return nil, err
	}
	ownWorkspace, err := m.ownWorkspace(ctx)
	if err != nil {
		return nil, err
	}
	var all []attempt
	for _, credential := range m.credentialAttempts(ownWorkspace, memberships) {
		for _, header := range m.headerAttempts(credential, memberships) {
			all = append(all, m.roleAttempts(header)...)
		}
	}
	slices.SortStableFunc(all, func(a, b attempt) int { return a.cost - b.cost })
	return all, nil
}

// credentialAttempts returns attempts with these credentials: the current credential if it is valid, a new credential of the same
// format with the needed scopes, and credentials of other formats.
func (m *simulation) credentialAttempts(ownWorkspace authz.Membership, memberships []authz.Membership) []attempt {
	current := m.principal()
	newAttempt := func(p authz.Principal) attempt {
		a := attempt{principal: p, header: m.workspace, workspace: ownWorkspace}
		if p.Kind.OfUser() && !m.hasSoleWorkspace() {
			a.workspace = m.headerWorkspace
		}
		for _, w := range memberships {
			if p.UserID == current.UserID && w.ID == a.workspace.ID && m.mayUse(a, w.ID) {
				a.workspace = w
			}
		}
		return a
	}
	if current.Kind == authz.KindOAuthToken && current.API == m.api {
		return m.appTokenAttempts(func() attempt { return newAttempt(current) }, memberships)
	}
	var list []attempt
	valid := m.valid()
	if valid {
		list = append(list, newAttempt(current))
	}
	for _, f := range m.cfg.APIs[m.api].OperatorFormats() {
		p := current
		p.Kind, p.API, p.Environment = f.Kind, m.api, f.Environment
		p.UserID, p.Scopes = "", m.needed()
		p.Attributes, p.UserAttributes = "", ""
		validScopes := m.explainer.Tables()[m.api].ScopeNames(levelsOf(f.Kind)...)
		invalid := func(scope string) bool { return !slices.Contains(validScopes, scope) }
		switch {
		case slices.ContainsFunc(m.needed(), invalid):
		case m.anonymous:
			list = append(list, newAttempt(p).step(costCredential, corrects, "send a token: "+m.createCommand(f, p, ownWorkspace)))
		case m.hasFormat(f):
			missing := m.missing()
			if valid && len(missing) == 0 {
				continue
			}
			p.UserID, p.Attributes, p.UserAttributes = current.UserID, current.Attributes, current.UserAttributes
			// The token may have scopes that are no longer in the policy.
			p.Scopes = slices.DeleteFunc(slices.Clone(m.heldScopes()), invalid)
			a, instead := newAttempt(p), ""
			if !valid {
				a, instead = a.step(costCredential, restores, m.createCommand(f, p, ownWorkspace)), "instead of that token: "
			}
			if len(missing) > 0 {
				p.Scopes = append(p.Scopes, missing...)
				a = a.step(costCredential, widens, instead+m.createCommand(f, p, ownWorkspace))
				a.principal = p
			}
			list = append(list, a)
		case current.API != m.api:
			list = append(list, newAttempt(p).step(costKind, widens, "the token is for "+current.API+": "+m.createCommand(f, p, ownWorkspace)))
		case current.Kind == authz.KindSession && !m.acceptsSession():
			p.UserID = current.UserID
			cause := "because of apis." + m.api + ".session.console_only, sessions are only for paths below " + authz.ConsolePath
			list = append(list, newAttempt(p).step(costKind, widens, cause+": "+m.createCommand(f, p, ownWorkspace)))
		case f.Kind.OfUser() != current.Kind.OfUser():
			cause := "the route needs another kind of token"
			if m.level() == table.LevelUser {
				cause = "the route is about a user, and a workspace's token has no user"
			}
			list = append(list, newAttempt(p).step(costKind, widens, cause+": "+m.createCommand(f, p, ownWorkspace)))
		}
	}
	return list
}

// levelsOf returns the levels of the scopes that a kind of token may have.
func levelsOf(kind authz.Kind) []table.Level {
	if kind.OfUser() {
		return []table.Level{table.LevelWorkspace, table.LevelUser}
	}
	return []table.Level{table.LevelWorkspace}
}

// hasFormat reports whether the token has this format.
func (m *simulation) hasFormat(f authz.CredentialFormat) bool {
	if m.registry == nil {
		return f == m.format
	}
	return m.token.API == m.api && f.Kind == m.token.Kind && f.Environment == m.token.Environment &&
		strings.HasPrefix(m.token.Prefix, f.Prefix)
}

// createCommand returns the command that creates a token for the principal. Unknown values are placeholders in capitals.
func (m *simulation) createCommand(f authz.CredentialFormat, p authz.Principal, ownWorkspace authz.Membership) string {
	words := []string{m.command("token create"), "--prefix", f.Prefix}
	apisWithPrefix := 0
	for _, api := range m.cfg.APIs {
		if _, ok := api.Format(f.Prefix); ok {
			apisWithPrefix++
		}
	}
	if apisWithPrefix > 1 {
		words = append(words, "--api", shell.Quote(m.api))
	}
	if f.Kind.OfUser() {
		words = append(words, "--user", userOf(p))
	} else {
		words = append(words, "--workspace", nameOf(ownWorkspace))
	}
	words = append(words, "--name="+shell.Quote(cmp.Or(m.token.Name, "NAME")),
		"--scope", cmp.Or(strings.Join(p.Scopes, ","), "SCOPE"))
	if a := p.Attributes.JSON(); a != "{}" {
		words = append(words, "--attributes", shell.Quote(a))
	}
	if m.token.ExpiresAt != nil {
		words = append(words, "--expires-in", lifetime(m.token.ExpiresAt.Sub(m.token.CreatedAt)))
	}
	return strings.Join(words, " ")
}

// command returns the beginning of a command, with the configuration file that the user of explain gave.
func (m *simulation) command(name string) string {
	if m.cfg.ConfigFile == "" {
		return "keywicket " + name
	}
	return "keywicket " + name + " --config " + shell.Quote(m.cfg.ConfigFile)
}

// lifetime formats a duration in whole days, at least one.
func lifetime(d time.Duration) string {
	const day = 24 * time.Hour
	return fmt.Sprintf("%dd", max(1, d.Round(day)/day))
}

// userOf returns the user's id for a command, or the placeholder U if there is no real user.
func userOf(p authz.Principal) string {
	if p.UserID == "" || p.ID == simulatedID {
		return "U"
	}
	return shell.Quote(p.UserID)
}

// nameOf returns the slug of a workspace. If the slug is the placeholder, it returns the id, or W if the id is the placeholder
// too.
func nameOf(w authz.Membership) string {
	if w.Slug == placeholderSlug {
		return shownReference(w.ID)
	}
	return w.Slug
}

// headerAttempts returns copies of the attempt with different workspace headers. The first copy has the current header. For a
// user-level route, one copy has no header. For a workspace's token, one copy has the token's workspace. For a user's token, if the
// request has no header with an existing workspace, there are also copies with the workspaces of the user.
func (m *simulation) headerAttempts(a attempt, memberships []authz.Membership) []attempt {
	list := []attempt{a}
	header := m.cfg.APIs[m.api].Workspace.Header
	addHeader := func(w authz.Membership) {
		value := reference(m.cfg.APIs[m.api], w.ID, w.Slug)
		if value == a.header {
			return
		}
		b := a.step(costHeader, corrects, fmt.Sprintf("send the header %s: %s", header, shownReference(value)))
		b.header, b.workspace = value, w
		list = append(list, b)
	}
	if m.level() == table.LevelUser && a.header != "" {
		b := a.step(costHeader, corrects, "send no "+header+" header: the route is about the user, not about a workspace")
		b.header = ""
		if a.principal.Kind.OfUser() {
			b.workspace = authz.Membership{}
		}
		list = append(list, b)
	}
	switch {
	case !a.principal.Kind.OfUser():
		addHeader(a.workspace)
	case a.chosen.ID != "":
		addHeader(a.chosen)
	case m.headerWorkspace.ID != "":
	case a.principal.UserID == "" || len(memberships) == 0:
		addHeader(authz.Membership{ID: placeholderID, Slug: placeholderSlug})
	default:
		var tried []authz.Membership
		for _, w := range memberships {
			// Another workspace with the same role and attributes has the same result.
			relevant := authz.Membership{Role: w.Role, Attributes: w.Attributes}
			if m.mayUse(a, w.ID) && !slices.Contains(tried, relevant) {
				tried = append(tried, relevant)
				addHeader(w)
			}
		}
	}
	return list
}

// roleAttempts returns copies of the attempt. The first copy has the current role of the user. The others have the roles that imply
// more scopes than the current role, in increasing order of the number of scopes.
func (m *simulation) roleAttempts(a attempt) []attempt {
	list := []attempt{a}
	if !a.principal.Kind.OfUser() || a.workspace.ID == "" {
		return list
	}
	if !m.mayUse(a, a.workspace.ID) {
		return list
	}
	effect := widens
	if a.workspace.Role == "" && a.chosen.ID == "" { // the user is not a member any more
		effect = restores
	}
	roles := m.explainer.Tables()[m.api].Roles
	byReach := slices.SortedFunc(maps.Keys(roles), func(x, y string) int {
		return cmp.Or(m.reach(roles[x])-m.reach(roles[y]), cmp.Compare(y, x))
	})
	for _, role := range byReach {
		if m.reach(roles[role]) > m.reach(roles[a.workspace.Role]) {
			b := a.step(costRole, effect, fmt.Sprintf("%s --workspace %s --user %s --role %s", m.command("member set"),
				nameOf(a.workspace), userOf(a.principal), shell.Quote(role)))
			if a.chosen.ID != "" { // only a member can choose the workspace
				b.steps = append(b.steps[len(a.steps):], a.steps...)
			}
			b.workspace.Role = role
			list = append(list, b)
		}
	}
	return list
}

// reach returns the number of scopes that a role implies. An override of the level workspace (a scope that satisfies every
// workspace-level route) counts as all workspace-level scopes plus one.
func (m *simulation) reach(scopes []string) int {
	t := m.explainer.Tables()[m.api]
	for _, scope := range scopes {
		if t.IsOverride(scope, table.LevelWorkspace) {
			return len(t.ScopeNames(table.LevelWorkspace)) + 1
		}
	}
	reached := make(map[string]bool)
	for _, scope := range scopes {
		for _, implied := range t.Implied(scope) {
			reached[implied] = true
		}
	}
	return len(reached)
}
