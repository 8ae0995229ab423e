package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/example"
	"github.com/keywicket/keywicket/demo/signin"
	"github.com/keywicket/keywicket/store/registry"
)

// seed fills the database with the demo's keys, and remembers their secrets. It creates the user Ada. With an issuer, it creates an
// app. Ada owns your-workspace, and is a guest in target-workspace.
func (d *Demo) seed(ctx context.Context) error {
	r, err := registry.Open(ctx, d.DatabaseURL())
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	for _, w := range []registry.Workspace{
		{ID: example.WorkspaceID, Slug: example.WorkspaceSlug, Name: "Acme"},
		{Slug: example.YourSlug, Name: "Your workspace"},
		{Slug: example.TargetSlug, Name: "Target workspace"},
	} {
		if _, err := r.CreateWorkspace(ctx, w); err != nil {
			return err
		}
	}
	ada, err := r.CreateUser(ctx, registry.User{Email: example.User})
	if err != nil {
		return err
	}
	members := map[string]string{example.YourSlug: "owner", example.TargetSlug: "guest"}
	if role := d.own.Role(); role != "" {
		members[example.WorkspaceSlug] = role
	}
	for workspace, role := range members {
		if _, err := r.SetMember(ctx, workspace, ada.Email, role); err != nil {
			return err
		}
	}
	d.SignIn.AddUser(ada.ID, ada.Email)
	if d.Issuer != nil {
		_, _, err := r.CreateApp(ctx, registry.NewApp{ID: clientID, API: "velocity", Name: "Planner", RedirectURIs: []string{callback}, Owner: ada.ID})
		if err != nil {
			return err
		}
	}
	if d.Console != nil {
		if err := d.seedPages(ctx, r, ada); err != nil {
			return fmt.Errorf("seed the console's pages: %w", err)
		}
	}
	d.secrets = make(map[string]authz.Secret, len(d.keys))
	for _, k := range d.keys {
		if k.Variable != "" {
			if d.secrets[k.Name], err = session(ctx, r, d.SignIn, ada.ID, k); err != nil {
				return fmt.Errorf("seed %s: %w", k.Name, err)
			}
			continue
		}
		n := registry.NewToken{
			Format: k.Format, API: k.API, Name: k.Name, Scopes: k.Scopes, Workspace: k.Workspace, User: k.User, Key: k.Imported,
		}
		if k.ExpiresIn != 0 {
			n.ExpiresIn = &k.ExpiresIn
		}
		token, secret, err := r.CreateToken(ctx, n)
		if err == nil && k.Revoked {
			_, err = r.RevokeToken(ctx, token.ID)
		}
		if err == nil && k.ExpiresIn != 0 {
			err = awaitExpiry(ctx, r, token.ID)
		}
		if err != nil {
			return fmt.Errorf("seed the key %s: %w", k.Name, err)
		}
		d.secrets[k.Name] = secret
	}
	return nil
}

// session returns the token of a new session. The token is valid for a day. If the key's field revoked is set, session revokes the
// session.
func session(ctx context.Context, r *registry.Registry, sessions *signin.Server, user string, k example.Key) (authz.Secret, error) {
	id := rand.Text()
	token, err := sessions.Token(user, id, 24*time.Hour)
	if err == nil && k.Revoked {
		_, err = r.RevokeSession(ctx, id)
	}
	return authz.Secret(token), err
}

// awaitExpiry waits until the database reports the token as expired.
func awaitExpiry(ctx context.Context, r *registry.Registry, id string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		token, err := r.Token(ctx, id)
		if err != nil || token.Status == registry.Expired {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
