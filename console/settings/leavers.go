package settings

import (
	"context"
	"errors"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Workspace returns the caller's workspace. The caller must be allowed to manage its tokens.
func (s *Settings) Workspace(ctx context.Context, c Caller) (registry.Workspace, error) {
	if err := c.mayManage(OfWorkspace); err != nil {
		return registry.Workspace{}, err
	}
	w, err := s.store.Registry.Workspace(ctx, c.Workspace.ID)
	if errors.Is(err, database.ErrNotFound) {
		err = database.NewRefusal(ErrNotFound, "The workspace no longer exists.")
	}
	return w, err
}

// LeaverRule returns what happens to the tokens of the caller's workspace when their creator leaves it.
func (s *Settings) LeaverRule(ctx context.Context, c Caller) (registry.LeaverRule, error) {
	w, err := s.Workspace(ctx, c)
	return w.LeaverRule, err
}

// SetLeaverRule changes what happens to the tokens of the caller's workspace when their creator leaves it.
func (s *Settings) SetLeaverRule(ctx context.Context, c Caller, rule registry.LeaverRule) error {
	if _, err := s.LeaverRule(ctx, c); err != nil {
		return err
	}
	err := s.change(ctx, c, func(r *registry.Registry, _ *sqlx.Tx) error {
		_, err := r.SetLeaverRule(ctx, c.Workspace.ID, rule)
		return err
	})
	if errors.Is(err, database.ErrInvalid) {
		return &FieldError{Field: "leaver_rule", Text: "Choose what happens to the tokens of people who leave."}
	}
	return err
}
