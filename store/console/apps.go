package console

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/keywicket/keywicket/store/oauthapp"
	"github.com/keywicket/keywicket/store/registry"
)

// App is an app with the number of users whose grants are active.
type App struct {
	registry.App
	Users int `db:"users" json:"users"`
}

const appQuery = `
SELECT ` + registry.AppColumns + `,
       (SELECT count(DISTINCT g.user_id) FROM keywicket.oauth_grants g WHERE g.app_id = a.id AND ` + registry.GrantStatus + ` = 'active') AS users
FROM keywicket.oauth_apps a`

// Apps lists the apps of an API that the user registered: active apps before revoked ones, and newest first.
func (s *Store) Apps(ctx context.Context, owner, api string) ([]App, error) {
	list := []App{}
	err := s.db.SelectContext(ctx, &list, appQuery+`
		WHERE a.owner_id = $1 AND a.api = $2 ORDER BY a.revoked_at IS NOT NULL, a.created_at DESC, a.id`, owner, api)
	if err != nil {
		return nil, fmt.Errorf("list the user's apps: %w", err)
	}
	return list, nil
}

// App returns an app that the user registered. The error is [oauthapp.ErrUnknown] if there is no such app, or if it belongs to another
// user or another API.
func (s *Store) App(ctx context.Context, owner, api, id string) (App, error) {
	if !isText(id) {
		return App{}, oauthapp.ErrUnknown
	}
	var app App
	err := s.db.GetContext(ctx, &app, appQuery+` WHERE a.id = $1 AND a.owner_id = $2 AND a.api = $3`, id, owner, api)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return App{}, oauthapp.ErrUnknown
	case err != nil:
		return App{}, fmt.Errorf("find the user's app: %w", err)
	}
	return app, nil
}
