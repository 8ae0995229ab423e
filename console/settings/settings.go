package settings

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

// ErrForbidden means that the caller may not do this. ErrNotFound means that the object does not exist, or that the caller may not
// see it. ErrInvalid means that a value has the wrong form. ErrConflict means that the idempotency key belongs to another request. An error of
// these kinds has a text for the caller. An error of no such kind is a failure of the server, and its text must not be shown.
var (
	ErrForbidden = errors.New("forbidden")
	ErrNotFound  = database.ErrNotFound
	ErrInvalid   = database.ErrInvalid
	ErrConflict  = console.ErrOtherRequest
)

// API is the configuration of an API whose tokens the console manages.
type API struct {
	Name     string
	Rules    issuance.Rules
	Formats  []authz.CredentialFormat // of the keys that users can create
	Sessions authz.SessionFormat
	HasApps  bool // the API accepts access tokens of apps
}

// Owner is the kind of owner of a token.
type Owner string

// The kinds of owners.
const (
	OfWorkspace Owner = "workspace"
	OfUser      Owner = "user"
)

// FormatsOf returns the formats of the keys that this kind of owner can have.
func (a API) FormatsOf(o Owner) []authz.CredentialFormat {
	return slices.DeleteFunc(slices.Clone(a.Formats), func(f authz.CredentialFormat) bool { return f.Kind.OfUser() != (o == OfUser) })
}

// Caller is the user or the token for which an operation acts. The caller has been authenticated.
type Caller struct {
	API   API
	Actor database.Actor
	Maker issuance.Maker
	// User is the user of the caller's credential; zero for a workspace's token.
	User console.User
	// Session is the session of the user; zero if the caller has another credential, and if the sidecar has verified the session.
	Session authz.Session
	// Workspace is the workspace in which the caller acts; zero outside of workspaces.
	Workspace console.Membership
}

// Settings runs the operations. It is safe for concurrent use.
type Settings struct {
	store *console.Store
	now   func() time.Time
}

// New returns the operations on a store.
func New(store *console.Store) *Settings { return &Settings{store: store, now: time.Now} }

// change runs the function in a transaction on behalf of the caller, if the caller still has the access and the role that they had when
// they were identified.
func (s *Settings) change(ctx context.Context, c Caller, f func(*registry.Registry, *sqlx.Tx) error) error {
	now := console.Caller{User: c.User.ID, Session: c.Session, Workspace: c.Workspace.ID, Role: c.Maker.Role}
	if c.Actor.Kind == database.ActorToken {
		now.Token = c.Actor.ID
	}
	return s.store.Registry.Acting(ctx, c.Actor, func(r *registry.Registry, tx *sqlx.Tx) error {
		err := console.Check(ctx, tx, now)
		switch {
		case errors.Is(err, console.ErrOutdated):
			return database.NewRefusal(ErrForbidden, "Your access or your role has changed. Nothing was changed.")
		case err != nil:
			return err
		}
		return f(r, tx)
	})
}
