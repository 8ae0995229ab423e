package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/keywicket/keywicket/store/database"
)

// SetMember makes the user a member of the workspace, or changes the role of a member. It checks only the form of the role,
// because an API's policy defines which roles exist.
func (r *Registry) SetMember(ctx context.Context, workspaceRef, userRef, role string) (Member, error) {
	w, u, err := r.workspaceAndUser(ctx, workspaceRef, userRef)
	if err != nil {
		return Member{}, err
	}
	m := Member{WorkspaceSlug: w.Slug, Email: u.Email}
	err = r.db.GetContext(ctx, &m, `
		WITH changed AS (
			INSERT INTO keywicket.members (workspace_id, user_id, role) VALUES ($1, $2, $3)
			ON CONFLICT (workspace_id, user_id) DO UPDATE SET role = excluded.role WHERE members.role <> excluded.role
			RETURNING workspace_id, user_id, role)
		SELECT * FROM changed UNION ALL
		SELECT workspace_id, user_id, role FROM keywicket.members
		WHERE workspace_id = $1 AND user_id = $2 AND NOT EXISTS (SELECT FROM changed)`, w.ID, u.ID, role)
	if err != nil {
		return Member{}, database.ConstraintError(err, "set the member", map[string]error{
			"members_role_form": database.NewRefusal(database.ErrInvalid,
				"the role %q is not valid: write 1 to 63 characters of a-z, 0-9, _ and -, starting with a letter", role),
		})
	}
	return m, database.ConfirmRow(m.WorkspaceID == w.ID && m.UserID == u.ID && m.Role == role, "set the member")
}

// RemoveMember ends a membership. The error is [database.ErrNotFound] if the workspace or the user does not exist, or if the user
// is not a member.
func (r *Registry) RemoveMember(ctx context.Context, workspaceRef, userRef string) error {
	w, u, err := r.workspaceAndUser(ctx, workspaceRef, userRef)
	if err != nil {
		return err
	}
	var removed Member
	err = r.db.GetContext(ctx, &removed, `
		DELETE FROM keywicket.members WHERE workspace_id = $1 AND user_id = $2 RETURNING workspace_id, user_id`, w.ID, u.ID)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return database.NewRefusal(database.ErrNotFound, "%s is not a member of the workspace %q", u.Email, w.Slug)
	case err != nil:
		return fmt.Errorf("remove the member: %w", err)
	}
	return database.ConfirmRow(removed.WorkspaceID == w.ID && removed.UserID == u.ID, "remove the member")
}

// Members lists the members of a workspace, sorted by email. If workspaceRef is empty, Members lists the members of all workspaces,
// sorted by slug and email.
func (r *Registry) Members(ctx context.Context, workspaceRef string) ([]Member, error) {
	id := ""
	if workspaceRef != "" {
		w, err := r.Workspace(ctx, workspaceRef)
		if err != nil {
			return nil, err
		}
		id = w.ID
	}
	list := []Member{}
	err := r.db.SelectContext(ctx, &list, `
		SELECT m.workspace_id, w.slug AS workspace_slug, m.user_id, u.email, m.role
		FROM keywicket.members m
		JOIN keywicket.workspaces w ON w.id = m.workspace_id
		JOIN keywicket.users u ON u.id = m.user_id
		WHERE $1 = '' OR m.workspace_id = $1
		ORDER BY w.slug, lower(u.email)`, id)
	if err != nil {
		return nil, fmt.Errorf("list the members: %w", err)
	}
	return list, nil
}

func (r *Registry) workspaceAndUser(ctx context.Context, workspaceRef, userRef string) (Workspace, User, error) {
	w, err := r.Workspace(ctx, workspaceRef)
	if err != nil {
		return Workspace{}, User{}, err
	}
	u, err := r.User(ctx, userRef)
	if err != nil {
		return Workspace{}, User{}, err
	}
	return w, u, nil
}
