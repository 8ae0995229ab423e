package explain

import (
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/table"
)

// appTokenAttempts returns attempts with an app's access token: the current token if it is valid, a token with the missing scopes, and
// a token for another workspace. An operator cannot create such a token, so the steps are for the app or the user.
func (m *simulation) appTokenAttempts(newAttempt func() attempt, memberships []authz.Membership) []attempt {
	var list []attempt
	current := newAttempt()
	for _, s := range m.restoreAppToken() {
		current = current.step(costCredential, s.effect, s.text)
	}
	missing := m.missing()
	if len(missing) == 0 || m.valid() {
		list = append(list, current)
	}
	again := func(workspace string) attempt {
		a := current.step(costCredential, widens, consent(missing, workspace))
		a.principal.Scopes = append(m.heldScopes(), missing...)
		return a
	}
	if len(missing) > 0 {
		list = append(list, again(""))
	}
	for _, w := range m.choices(memberships) {
		a := again(nameOf(w))
		if a.chosen = w; m.workspace == "" || m.headerWorkspace.ID == w.ID {
			a.workspace = w
		}
		list = append(list, a)
	}
	return list
}

// choices returns the workspaces that the user may have to choose for the app: the workspace of the header, or any if the user has
// chosen none.
func (m *simulation) choices(memberships []authz.Membership) []authz.Membership {
	switch w := m.headerWorkspace; {
	case m.isGranted(w.ID) || w.ID == "" && len(m.granted) > 0 || m.level() == table.LevelUser:
		return nil
	case w.ID == "" && len(memberships) == 0:
		return []authz.Membership{{ID: placeholderID, Slug: placeholderSlug}}
	case w.ID == "":
		return memberships
	default:
		if i := slices.IndexFunc(memberships, func(other authz.Membership) bool { return other.ID == w.ID }); i >= 0 {
			w = memberships[i]
		}
		return []authz.Membership{w}
	}
}

// mayUse reports whether the credential of the attempt may be used in the workspace: for an app, the user has to choose it.
func (m *simulation) mayUse(a attempt, workspace string) bool {
	return a.principal.Kind != authz.KindOAuthToken || m.isGranted(workspace) || a.chosen.ID == workspace
}

// restoreAppToken returns the step for an app's token that is not valid.
func (m *simulation) restoreAppToken() []step {
	switch {
	case m.valid():
		return nil
	case m.expired():
		return []step{{restores, "the app has to refresh the token"}}
	}
	return []step{{restores, consent(nil, "") + ", unless the app itself was revoked"}}
}

// consent returns the instruction to consent to more scopes and to a workspace.
func consent(missing []string, workspace string) string {
	text := "the user has to consent again, in the app"
	if len(missing) > 0 {
		text += "; the app has to request " + strings.Join(missing, " ")
	}
	if workspace != "" {
		text += "; the user has to choose the workspace " + workspace
	}
	return text
}
