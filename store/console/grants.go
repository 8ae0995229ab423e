package console

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Grant is a user's grant to an app.
type Grant struct {
	ID         string          `db:"id"`
	AppID      string          `db:"app_id"`
	AppName    string          `db:"app_name"`
	Scopes     pq.StringArray  `db:"scopes"`
	Workspaces GrantWorkspaces `db:"workspaces"` // those of which the user is a member now
	CreatedAt  time.Time       `db:"created_at"`
	LastUsedAt *time.Time      `db:"last_used_at"` // at most two minutes too early; nil if never used
	RevokedAt  *time.Time      `db:"revoked_at"`
	Status     registry.Status `db:"status"`
}

// GrantWorkspaces are the workspaces of a grant, sorted by name.
type GrantWorkspaces []GrantWorkspace

// GrantWorkspace is a workspace of a grant.
type GrantWorkspace struct {
	Slug string `json:"slug"`
	Name string `json:"name"`
}

// Scan reads a JSON array.
func (w *GrantWorkspaces) Scan(value any) error {
	text, ok := value.([]byte)
	if !ok {
		return fmt.Errorf("the workspaces of a grant have the type %T", value)
	}
	return json.Unmarshal(text, w)
}

const grantQuery = `
SELECT g.id, g.app_id, a.name AS app_name, g.scopes, g.created_at, use.last_used_at, LEAST(g.revoked_at, a.revoked_at) AS revoked_at,
       ` + registry.GrantStatus + ` AS status,
       COALESCE((SELECT json_agg(json_build_object('slug', w.slug, 'name', w.name) ORDER BY lower(w.name), w.slug)
                 FROM keywicket.oauth_grant_workspaces gw
                 JOIN keywicket.workspaces w ON w.id = gw.workspace_id
                 JOIN keywicket.members m ON m.workspace_id = w.id AND m.user_id = g.user_id
                 WHERE gw.grant_id = g.id), '[]') AS workspaces
FROM keywicket.oauth_grants g
JOIN keywicket.oauth_apps a ON a.id = g.app_id
LEFT JOIN keywicket.grant_usage use ON use.grant_id = g.id`

// Grants lists the user's active grants to apps of an API, newest first.
func (s *Store) Grants(ctx context.Context, user, api string) ([]Grant, error) {
	list := []Grant{}
	err := s.db.SelectContext(ctx, &list, `SELECT * FROM (`+grantQuery+` WHERE g.user_id = $1 AND a.api = $2) AS mine
		WHERE status = 'active' ORDER BY created_at DESC, id`, user, api)
	if err != nil {
		return nil, fmt.Errorf("list the user's grants: %w", err)
	}
	return list, nil
}

// Grant returns one of the user's grants, whatever its status. The error is [database.ErrNotFound] if the user has no such grant.
func (s *Store) Grant(ctx context.Context, user, api, id string) (Grant, error) {
	var g Grant
	if !isText(id) {
		return Grant{}, errNoGrant
	}
	err := s.db.GetContext(ctx, &g, grantQuery+` WHERE g.id = $3 AND g.user_id = $1 AND a.api = $2`, user, api, id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Grant{}, errNoGrant
	case err != nil:
		return Grant{}, fmt.Errorf("find the user's grant: %w", err)
	}
	return g, nil
}

var errNoGrant = database.NewRefusal(database.ErrNotFound, "the user has no such grant")
