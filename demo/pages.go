package demo

import (
	"context"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// pageToken is a token that the console's pages show. Nobody knows its secret.
type pageToken struct {
	api, prefix, name string
	scopes            []string
	expiresIn         time.Duration // 0: no expiry
	perDay            int           // requests per day in the last 30 days; 0: never used
	revoked           bool
}

var pageTokens = []pageToken{
	{"velaflows", "sk_live_", "Zapier Integration", []string{"crm:create", "crm:read"}, 0, 0, true},
	{"velaflows", "sk_test_", "Sandbox", []string{"inbox:read"}, 5 * 24 * time.Hour, 20, false},
	{"velaflows", "sk_live_", "Production API", []string{"analytics:read", "contacts:read", "crm:read", "inbox:read"}, 0, 900, false},
	{"velocity", "vel_", "Nightly export", []string{"documents:read", "issues:read"}, 90 * 24 * time.Hour, 140, false},
	{"velocity", "vel_", "CI", []string{"issues:read", "issues:write"}, 10 * 24 * time.Hour, 400, false},
	{"velocity", "velu_", "Laptop", []string{"user:read", "workspaces:list"}, 0, 30, false},
}

// seedPages creates tokens for the console's pages, with their use in the last 30 days. The user is the actor of these changes.
func (d *Demo) seedPages(ctx context.Context, r *registry.Registry, user registry.User) error {
	return r.Acting(ctx, database.Actor{Kind: database.ActorUser, ID: user.ID}, func(r *registry.Registry, tx *sqlx.Tx) error {
		for _, p := range pageTokens {
			n := registry.NewToken{API: p.api, Name: p.name, Scopes: p.scopes, Workspace: example.YourSlug}
			for _, k := range example.Keys {
				if k.API == p.api && k.Format.Prefix == p.prefix {
					n.Format = k.Format
				}
			}
			if n.Format.Kind.OfUser() {
				n.Workspace, n.User = "", user.ID
			}
			if p.expiresIn > 0 {
				n.ExpiresIn = &p.expiresIn
			}
			token, _, err := r.CreateToken(ctx, n)
			if err == nil && p.revoked {
				_, err = r.RevokeToken(ctx, token.ID)
			}
			if err == nil && p.perDay > 0 {
				err = use(ctx, tx, token.ID, p.perDay)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// use writes the use of a token in the last 30 days: fewer requests at weekends, and some denied ones.
func use(ctx context.Context, tx *sqlx.Tx, id string, perDay int) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO keywicket.token_use (token_id, day, allowed, denied)
		SELECT $1, day, CASE WHEN extract(isodow FROM day) > 5 THEN $2 / 5 ELSE $2 END + (extract(doy FROM day)::int * 7919 + $2) % (1 + $2 / 3), extract(doy FROM day)::int * 31 % 7
		FROM (SELECT (now() AT TIME ZONE 'UTC')::date - n AS day FROM generate_series(0, 29) AS n) AS days`, id, perDay)
	_, usedErr := tx.ExecContext(ctx, `INSERT INTO keywicket.token_usage (token_id, last_used_at) VALUES ($1, now() - interval '3 minutes')`, id)
	return errors.Join(err, usedErr)
}
