package pages

import (
	"log/slog"

	"github.com/keywicket/keywicket/store/registry"
)

// leavers is the data of the template leavers.html.
type leavers struct {
	*tokenPages
	Rule  registry.LeaverRule
	Rules []registry.LeaverRule
}

// showLeavers asks what happens to the workspace's tokens whose creator leaves.
func (t *tokenPages) showLeavers(v *visit) error {
	rule, err := t.settings.LeaverRule(v.Context(), v.Caller)
	if err != nil {
		return err
	}
	if v.PostForm.Has("leaver_rule") {
		rule = registry.LeaverRule(v.PostForm.Get("leaver_rule"))
	}
	return v.render("leavers.html", leavers{t, rule, []registry.LeaverRule{registry.LeaversKeep, registry.LeaversMark, registry.LeaversEnd}})
}

func (t *tokenPages) setLeavers(v *visit) error {
	rule := registry.LeaverRule(v.PostForm.Get("leaver_rule"))
	if err := t.settings.SetLeaverRule(v.Context(), v.Caller, rule); err != nil {
		return err
	}
	t.log.LogAttrs(v.Context(), slog.LevelInfo, "a user has changed the leaver rule of a workspace", slog.String("workspace_id", v.Caller.Workspace.ID),
		slog.String("leaver_rule", string(rule)), slog.String("user_id", v.User.ID))
	return v.redirect(v.Link(""))
}
