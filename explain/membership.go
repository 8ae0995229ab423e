package explain

import (
	"cmp"
	"context"
	"slices"

	"github.com/keywicket/keywicket/authz"
)

// isGranted reports whether the user has granted the app access to the workspace.
func (m *simulation) isGranted(workspace string) bool { return slices.Contains(m.granted, workspace) }

// memberships returns the memberships of the token's user. For an app's access token, it also returns the granted workspaces that the
// user has left, with an empty role.
func (m *simulation) memberships(ctx context.Context) ([]authz.Membership, error) {
	user := m.principal().UserID
	switch {
	case user == "":
		return nil, nil
	case m.registry == nil:
		simulated := authz.Membership{ID: placeholderID, Slug: placeholderSlug, Role: "owner"}
		return []authz.Membership{cmp.Or(m.headerWorkspace, simulated)}, nil
	}
	workspaces, err := m.registry.Workspaces(ctx)
	if err != nil {
		return nil, err
	}
	members, err := m.registry.Members(ctx, "")
	roles := make(map[string]string)
	for _, member := range members {
		if member.UserID == user {
			roles[member.WorkspaceID] = member.Role
		}
	}
	var list []authz.Membership
	for _, w := range workspaces {
		if roles[w.ID] != "" || m.isGranted(w.ID) {
			list = append(list, authz.Membership{ID: w.ID, Slug: w.Slug, Role: roles[w.ID], Attributes: w.Attributes})
		}
	}
	return list, err
}

// hasSoleWorkspace reports whether the token is an app's token with only one granted workspace, and the request does not name a
// workspace. The look-up then uses this workspace.
func (m *simulation) hasSoleWorkspace() bool {
	return m.token.Kind == authz.KindOAuthToken && m.workspace == "" && len(m.granted) == 1
}

// ownWorkspace returns the workspace of a workspace's token, or the sole workspace of an app's token. For other tokens, it returns the workspace for which an operator would
// create a new token: the workspace of the request, or the placeholder.
func (m *simulation) ownWorkspace(ctx context.Context) (authz.Membership, error) {
	workspaceID := m.token.WorkspaceID
	if m.hasSoleWorkspace() {
		workspaceID = &m.granted[0]
	}
	if workspaceID == nil {
		return cmp.Or(authz.Membership{ID: m.headerWorkspace.ID, Slug: m.headerWorkspace.Slug, Attributes: m.headerWorkspace.Attributes}, authz.Membership{ID: placeholderID, Slug: placeholderSlug}), nil
	}
	w, err := m.registry.Workspace(ctx, *workspaceID)
	return authz.Membership{ID: w.ID, Slug: w.Slug, Attributes: w.Attributes}, err
}
