package console_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/internal/race"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/leaked"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// The role of the console has every privilege that the console needs, and no other one: without any of them, an operation fails.
func TestConsolesRoleHasNoPrivilegeTooMany(t *testing.T) {
	engine, err := policies.Load(t.Context(), policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rules := engine.Tables()["velocity"]
	f := storetest.NewGrantFixture(t)
	if err := runConsole(t, f, rules); err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		t.Skip("runs all operations once for each privilege")
	}
	race.Skip(t)
	var privileges []string
	err = f.DB.SelectContext(t.Context(), &privileges, `
		SELECT format('%s (%I) ON keywicket.%I', privilege_type, attname, relname)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN LATERAL aclexplode(attacl)
		WHERE grantee = 'keywicket_console'::regrole
		UNION ALL
		SELECT format('%s ON keywicket.%I', privilege_type, relname) FROM pg_class c CROSS JOIN LATERAL aclexplode(relacl)
		WHERE grantee = 'keywicket_console'::regrole
		UNION ALL
		SELECT format('%s ON FUNCTION %s', privilege_type, p.oid::regprocedure) FROM pg_proc p CROSS JOIN LATERAL aclexplode(proacl)
		WHERE grantee = 'keywicket_console'::regrole
		UNION ALL
		SELECT format('%s ON SCHEMA %I', privilege_type, nspname) FROM pg_namespace n CROSS JOIN LATERAL aclexplode(nspacl)
		WHERE grantee = 'keywicket_console'::regrole
		ORDER BY 1`)
	if err != nil || len(privileges) < 50 {
		t.Fatalf("%d privileges, %v", len(privileges), err)
	}
	for _, privilege := range privileges {
		t.Run(privilege, func(t *testing.T) {
			f := storetest.NewGrantFixture(t)
			f.Exec(t, "REVOKE "+privilege+" FROM keywicket_console")
			switch err := runConsole(t, f, rules); {
			case err == nil:
				t.Error("no operation needs this privilege")
			case !strings.Contains(err.Error(), "permission denied") && !strings.Contains(err.Error(), "lacks privileges"):
				t.Error(err)
			}
		})
	}
}

// runConsole runs what the console does, with the privileges of its role. It stops at the first error.
func runConsole(t *testing.T, f *storetest.GrantFixture, rules table.Table) (err error) {
	t.Helper()
	ctx := t.Context()
	store := storetest.Must(console.Open(storetest.WithOption(f.URL, "role", "keywicket_console")))
	defer func() {
		err = errors.Join(err, store.Close())
		if p := recover(); p != nil {
			failed, ok := p.(error) // of storetest.Must
			if !ok {
				panic(p)
			}
			err = errors.Join(err, failed)
		}
	}()
	c := settings.Caller{
		API:       settings.API{Name: "velocity", Rules: issuance.Rules{Table: rules}, Formats: []authz.CredentialFormat{storetest.Vel, storetest.Velu}, HasApps: true},
		User:      console.User{ID: f.Ada.ID},
		Workspace: console.Membership{ID: f.Acme.ID, Slug: f.Acme.Slug, Role: "admin"},
		Actor:     database.Actor{Kind: database.ActorUser, ID: f.Ada.ID},
		Maker:     issuance.Maker{Kind: authz.KindSession, Scopes: []string{"admin"}, Role: "admin"},
	}
	s := settings.New(store)
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}

	storetest.Must(store.SessionUser(ctx, authz.Session{ID: "s", UserID: f.Ada.ID, StartedAt: time.Now().Unix()}))
	storetest.Must(store.Memberships(ctx, f.Ada.ID))
	var secrets []authz.Secret
	for n, owner := range []settings.Owner{settings.OfWorkspace, settings.OfUser} {
		token := storetest.Must(s.CreateToken(ctx, c, owner, settings.NewToken{Name: "t", Scopes: []string{"issues:read"}, IdempotencyKey: fmt.Sprint(n)}))
		storetest.Must(s.CreateToken(ctx, c, owner, settings.NewToken{Name: "t", Scopes: []string{"issues:read"}, IdempotencyKey: fmt.Sprint(n)}))
		secrets = append(secrets, token.Secret)
		for _, status := range []console.Status{"", registry.Active, registry.Expired, registry.Revoked, console.Expiring, console.Unused} {
			storetest.Must(s.Tokens(ctx, c, owner, settings.Query{Status: status, Limit: 10}))
		}
		storetest.Must(s.Tokens(ctx, c, owner, settings.Query{Search: "t", Environment: authz.Live, Limit: 10}))
		storetest.Must(s.Use(ctx, c, owner, token.Object.ID, 30))
		rotated := storetest.Must(s.RotateToken(ctx, c, owner, token.Object.ID, time.Hour, "")).Object
		storetest.Must(s.RevokeToken(ctx, c, owner, rotated.ID))
	}
	created := storetest.Must(s.RegisterApp(ctx, c, settings.NewApp{Name: "App", RedirectURIs: []string{"https://planner.example/cb"}, Scopes: []string{"issues:read"}}))
	f.App = created.Object.App
	f.NewCode(t, f.Acme.ID)
	for _, g := range storetest.Must(s.Grants(ctx, c)) {
		storetest.Must(s.RevokeGrant(ctx, c, g.ID))
	}
	storetest.Must(s.Apps(ctx, c))
	app, _, err := s.RotateAppSecret(ctx, c, f.App.ID)
	must(err)
	storetest.Must(s.RevokeApp(ctx, c, app.ID))
	must(s.SetLeaverRule(ctx, c, registry.LeaversKeep))
	storetest.Must(s.WorkspaceActivity(ctx, c, settings.ActivityFilter{Actor: f.Ada.Email}))
	storetest.Must(s.AccountActivity(ctx, c, settings.ActivityFilter{}))
	storetest.Must(store.Registry.Notices(ctx))
	storetest.Must(leaked.Revoke(ctx, store.Registry, c.Actor, secrets))
	must(store.DeleteOldKeys(ctx))
	return store.Ready(ctx)
}
