package settings

import (
	"context"
	"errors"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// Grant is an app that the caller has authorized, with what the app may do.
type Grant struct {
	console.Grant
	Scopes []Scope
}

func (c Caller) grant(g console.Grant) Grant {
	result := Grant{Grant: g}
	for _, name := range g.Scopes {
		result.Scopes = append(result.Scopes, c.API.Scope(name))
	}
	return result
}

// Grants lists the caller's active grants, newest first.
func (s *Settings) Grants(ctx context.Context, c Caller) ([]Grant, error) {
	if err := c.MayManageApps(); err != nil {
		return nil, err
	}
	list, err := s.store.Grants(ctx, c.User.ID, c.API.Name)
	if err != nil {
		return nil, err
	}
	grants := []Grant{}
	for _, g := range list {
		grants = append(grants, c.grant(g))
	}
	return grants, nil
}

// Grant returns a grant of the caller, whatever its status.
func (s *Settings) Grant(ctx context.Context, c Caller, id string) (Grant, error) {
	if err := c.MayManageApps(); err != nil {
		return Grant{}, err
	}
	g, err := s.store.Grant(ctx, c.User.ID, c.API.Name, id)
	switch {
	case errors.Is(err, database.ErrNotFound):
		return Grant{}, database.NewRefusal(ErrNotFound, "You have authorized no such app.")
	case err != nil:
		return Grant{}, err
	}
	return c.grant(g), nil
}

// RevokeGrant revokes a grant of the caller with all its tokens. If it is already revoked, this is not an error.
func (s *Settings) RevokeGrant(ctx context.Context, c Caller, id string) (Grant, error) {
	if _, err := s.Grant(ctx, c, id); err != nil {
		return Grant{}, err
	}
	err := s.change(ctx, c, func(r *registry.Registry, _ *sqlx.Tx) error {
		_, err := r.RevokeGrant(ctx, id)
		return err
	})
	if err != nil {
		return Grant{}, err
	}
	return s.Grant(ctx, c, id)
}
