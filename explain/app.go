package explain

import (
	"strings"

	"github.com/keywicket/keywicket/policies/table"
)

// appTokenAttempts returns attempts with an app's access token: the current token if it is valid, and a token with the missing scopes.
// An operator cannot create such a token, so the steps are for the app or the user.
func (m *simulation) appTokenAttempts(newAttempt func() attempt) []attempt {
	var list []attempt
	if m.token.API != m.api {
		return nil
	}
	a := newAttempt()
	for _, s := range m.restoreAppToken() {
		a = a.step(costCredential, s.effect, s.text)
	}
	missing := m.missing()
	if len(missing) == 0 || m.valid() {
		list = append(list, a)
	}
	if len(missing) > 0 {
		a = a.step(costCredential, widens, consent(missing, ""))
		a.principal.Scopes = append(m.heldScopes(), missing...)
		list = append(list, a)
	}
	return list
}

// restoreAppToken returns the step for an app's token that is not valid.
func (m *simulation) restoreAppToken() []step {
	switch {
	case m.valid() || m.token.API != m.api:
		return nil
	case m.expired():
		return []step{{restores, "the app has to refresh the token"}}
	}
	return []step{{restores, consent(nil, "") + ", unless the app itself was revoked"}}
}

// consentSteps returns the steps for an app's token if no attempt succeeds, for example because the user has not chosen the workspace.
func (m *simulation) consentSteps() []step {
	workspace := ""
	switch w := m.headerWorkspace; {
	case w.ID != "" && !m.isGranted(w.ID):
		workspace = "the workspace " + w.Slug + ", and must be a member of that workspace"
	case w.ID == "" && len(m.granted) == 0 && m.level() == table.LevelWorkspace:
		workspace = "a workspace"
	}
	if workspace == "" && len(m.missing()) == 0 {
		return []step{{corrects, m.noFix()}}
	}
	return append(m.restoreAppToken(), step{widens, consent(m.missing(), workspace)})
}

// consent returns the instruction to consent to more scopes and to a workspace.
func consent(missing []string, workspace string) string {
	text := "the user has to consent again, in the app"
	if len(missing) > 0 {
		text += "; the app has to request " + strings.Join(missing, " ")
	}
	if workspace != "" {
		text += "; the user has to choose " + workspace
	}
	return text
}
