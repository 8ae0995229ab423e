package api

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/internal/ratelimit"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

var errNoCaller = errors.New("the sidecar's headers are missing or do not match: only Envoy may send requests to the console, after a check by the sidecar")

// caller returns the caller that the sidecar's headers name. The token of the caller must still be valid.
func (a *API) caller(r *http.Request) (settings.Caller, error) {
	header := func(name string) string {
		if values := r.Header.Values("X-Keywicket-" + name); len(values) == 1 {
			return values[0]
		}
		return ""
	}
	api, ok := a.apis[header("Api")]
	kind, subject := authz.Kind(header("Kind")), header("Subject")
	if !ok || kind == "" || subject == "" {
		return settings.Caller{}, errNoCaller
	}
	c := settings.Caller{
		API:   api,
		Actor: database.Actor{Kind: database.ActorToken, ID: subject, Source: ratelimit.Address(r), RequestID: header("Decision-Id")},
		Maker: issuance.Maker{Kind: kind, Scopes: strings.Fields(header("Scopes"))},
	}
	user := header("User-Id")
	switch kind {
	case authz.KindSession:
		c.Actor.Kind = database.ActorUser
	case authz.KindOAuthToken: // an app changes nothing here, so its token has no row in the audit log and no expiry to pass on
	default:
		t, err := a.store.Registry.Token(r.Context(), subject)
		switch {
		case errors.Is(err, database.ErrNotFound):
			return c, errNoCaller
		case err != nil:
			return c, err
		case t.Status != registry.Active || t.API != api.Name || t.Kind != kind:
			return c, errNoCaller
		}
		c.Maker.Expires, c.Maker.Environment, c.Maker.Attributes = t.ExpiresAt, t.Environment, t.Attributes
	}
	return c, a.place(r.Context(), &c, user, header("Workspace-Id"), header("Workspace-Slug"))
}

// place adds the caller's user, and the workspace in which the caller acts.
func (a *API) place(ctx context.Context, c *settings.Caller, user, workspace, slug string) error {
	if user == "" {
		c.Workspace = console.Membership{ID: workspace, Slug: slug}
		return nil
	}
	c.User.ID = user
	if workspace == "" {
		return nil
	}
	memberships, err := a.store.Memberships(ctx, user)
	if err != nil {
		return err
	}
	for _, m := range memberships {
		if m.ID == workspace {
			c.Workspace, c.Maker.Role = m, m.Role
			return nil
		}
	}
	return errNoCaller
}
