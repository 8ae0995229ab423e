package settings_test

import (
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// account has the operations on accounts, and an issuer for the grants to apps.
type account struct {
	*storetest.GrantFixture
	Settings *settings.Settings
	apis     map[string]settings.API
}

func newAccount(t *testing.T) *account {
	t.Helper()
	f := &account{GrantFixture: storetest.NewGrantFixture(t), apis: map[string]settings.API{}}
	store := storetest.Must(console.Open(storetest.WithOption(f.URL, "role", "keywicket_console")))
	t.Cleanup(func() { _ = store.Close() })
	f.Settings = settings.New(store)
	cfg := storetest.Must(config.Load("", nil, nil))
	tables := storetest.Must(cfg.Tables())
	for name, a := range cfg.APIs {
		f.apis[name] = settings.API{
			Name: name, Rules: issuance.Rules{Table: tables[name], Limits: a.TokenLimits}, Formats: a.OperatorFormats(), Sessions: a.Session,
			HasApps: name == "velocity",
		}
	}
	return f
}

// session returns a user with a session of Velocity, in the workspace acme if the user has a role there.
func (f *account) session(u registry.User, role string) settings.Caller {
	c := settings.Caller{
		API: f.apis["velocity"], User: console.User{ID: u.ID, Email: u.Email},
		Actor: database.Actor{Kind: database.ActorUser, ID: u.ID, Source: "203.0.113.9", RequestID: "request-1"},
		Maker: issuance.Maker{Kind: authz.KindSession, Scopes: f.apis["velocity"].Sessions.Scopes, Role: role},
	}
	if role != "" {
		c.Workspace = console.Membership{ID: f.Acme.ID, Slug: f.Acme.Slug, Name: f.Acme.Name, Role: role}
	}
	return c
}
