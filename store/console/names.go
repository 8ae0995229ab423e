package console

import (
	"context"
	"fmt"

	"github.com/lib/pq"
)

// References are the ids of objects whose names a page shows.
type References struct {
	Users, Tokens, Apps, Grants, Workspaces []string
}

// Names are the names of objects by their ids. Objects that no longer exist have no name.
type Names struct {
	Users      map[string]string // email addresses
	Tokens     map[string]TokenName
	Apps       map[string]string
	Grants     map[string]string // the names of the grants' apps
	Workspaces map[string]string
}

// TokenName is what people see of a token.
type TokenName struct{ Kind, Name, Prefix string }

// Names returns the names of objects, with one query.
func (s *Store) Names(ctx context.Context, r References) (Names, error) {
	var rows []struct {
		Object string `db:"object"`
		ID     string `db:"id"`
		Name   string `db:"name"`
		Kind   string `db:"kind"`
		Prefix string `db:"prefix"`
	}
	err := s.db.SelectContext(ctx, &rows, `
		SELECT 'user' AS object, id, email AS name, '' AS kind, '' AS prefix FROM keywicket.users WHERE id = ANY ($1)
		UNION ALL SELECT 'token', id, name, kind, visible_prefix FROM keywicket.tokens WHERE id = ANY ($2)
		UNION ALL SELECT 'app', id, name, '', '' FROM keywicket.oauth_apps WHERE id = ANY ($3)
		UNION ALL SELECT 'grant', g.id, a.name, '', '' FROM keywicket.oauth_grants g JOIN keywicket.oauth_apps a ON a.id = g.app_id WHERE g.id = ANY ($4)
		UNION ALL SELECT 'workspace', id, name, '', '' FROM keywicket.workspaces WHERE id = ANY ($5)`,
		pq.StringArray(r.Users), pq.StringArray(r.Tokens), pq.StringArray(r.Apps), pq.StringArray(r.Grants), pq.StringArray(r.Workspaces))
	if err != nil {
		return Names{}, fmt.Errorf("find the names of objects: %w", err)
	}
	n := Names{map[string]string{}, map[string]TokenName{}, map[string]string{}, map[string]string{}, map[string]string{}}
	for _, row := range rows {
		switch row.Object {
		case "user":
			n.Users[row.ID] = row.Name
		case "token":
			n.Tokens[row.ID] = TokenName{row.Kind, row.Name, row.Prefix}
		case "app":
			n.Apps[row.ID] = row.Name
		case "grant":
			n.Grants[row.ID] = row.Name
		case "workspace":
			n.Workspaces[row.ID] = row.Name
		}
	}
	return n, nil
}
