package registry

import (
	"context"
	"fmt"

	"github.com/keywicket/keywicket/store/database"
)

// LeaverRule is what happens to a workspace's active tokens whose creator leaves the workspace. A change of the rule has no effect on
// the tokens of those who have already left.
type LeaverRule string

// The values of LeaverRule.
const (
	LeaversKeep LeaverRule = "keep" // nothing: the tokens stay as they are
	LeaversMark LeaverRule = "mark" // lists and the metric mark the tokens; the default
	LeaversEnd  LeaverRule = "end"  // the database revokes the tokens
)

// errCreatorLeft is the error for a token of a workspace with the rule LeaversEnd whose creator is not a member of the workspace.
var errCreatorLeft = database.NewRefusal(database.ErrInvalid,
	"the token's creator is not a member of the workspace, whose leaver rule is end: add the member first")

// SetLeaverRule sets the leaver rule of a workspace.
func (r *Registry) SetLeaverRule(ctx context.Context, ref string, rule LeaverRule) (Workspace, error) {
	switch rule {
	case LeaversKeep, LeaversMark, LeaversEnd:
	default:
		return Workspace{}, database.NewRefusal(database.ErrInvalid, "the leaver rule %q is not valid: write keep, mark or end", rule)
	}
	w, err := r.Workspace(ctx, ref)
	if err != nil {
		return Workspace{}, err
	}
	if _, err = r.db.ExecContext(ctx, `UPDATE keywicket.workspaces SET leaver_rule = $2 WHERE id = $1`, w.ID, rule); err != nil {
		return Workspace{}, fmt.Errorf("set the leaver rule: %w", err)
	}
	if w, err = r.Workspace(ctx, w.ID); err != nil {
		return Workspace{}, err
	}
	return w, database.ConfirmRow(w.LeaverRule == rule, "set the leaver rule")
}
