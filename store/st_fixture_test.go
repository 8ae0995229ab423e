package store_test

import (
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/record"
	"github.com/keywicket/keywicket/store"
)

// fixture is a migrated database with
//
//	workspaces  acme, globex
//	users       ada: admin in acme, guest in globex; bob: in none
type fixture struct {
	*store.Registry
	url          string
	db           *sqlx.DB // the superuser's
	acme, globex store.Workspace
	ada, bob     store.User
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return fixtureIn(t, copyOf(t, template))
}

// fixtureAt migrates the database and returns a fixture in it.
func fixtureAt(t testing.TB, databaseURL string) *fixture {
	t.Helper()
	must(store.Migrate(t.Context(), openDB(t, databaseURL)))
	return fixtureIn(t, databaseURL)
}

func fixtureIn(t testing.TB, databaseURL string) *fixture {
	t.Helper()
	f := &fixture{url: databaseURL}
	var err error
	if f.Registry, err = store.OpenRegistry(t.Context(), f.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Registry.Close() })
	f.db = openDB(t, f.url)
	f.acme = must(f.CreateWorkspace(t.Context(), store.Workspace{Slug: "acme", Name: "Acme"}))
	f.globex = must(f.CreateWorkspace(t.Context(), store.Workspace{Slug: "globex", Name: "Globex"}))
	f.ada = must(f.CreateUser(t.Context(), store.User{Email: "Ada@example.com"}))
	f.bob = must(f.CreateUser(t.Context(), store.User{ID: "auth0|bob", Email: "bob@example.com"}))
	must(f.SetMember(t.Context(), "acme", f.ada.ID, "admin"))
	must(f.SetMember(t.Context(), "globex", f.ada.ID, "guest"))
	return f
}

func openDB(t testing.TB, databaseURL string) *sqlx.DB {
	t.Helper()
	db, err := store.Open(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func with(databaseURL, key, value string) string {
	u := must(url.Parse(databaseURL))
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

var (
	skLive = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live,
		VisiblePrefix: 16, BodyLength: 40}
	skTest = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_test_", Environment: authz.Sandbox,
		VisiblePrefix: 16, BodyLength: 40}
	vel = authz.CredentialFormat{Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live,
		VisiblePrefix: 12, BodyLength: 38}
	velu = authz.CredentialFormat{Kind: authz.KindPersonalKey, Prefix: "velu_", Environment: authz.Live,
		VisiblePrefix: 13, BodyLength: 38}
)

// workspaceToken creates a token of acme.
func (f *fixture) workspaceToken(t testing.TB, scopes ...string) (store.Token, authz.Secret) {
	t.Helper()
	return f.create(t, store.NewToken{Format: vel, API: "velocity", Name: "t", Scopes: scopes, Workspace: "acme"})
}

// userToken creates a token of ada.
func (f *fixture) userToken(t testing.TB, scopes ...string) (store.Token, authz.Secret) {
	t.Helper()
	return f.create(t, store.NewToken{Format: velu, API: "velocity", Name: "t", Scopes: scopes, User: f.ada.ID})
}

func (f *fixture) create(t testing.TB, n store.NewToken) (store.Token, authz.Secret) {
	t.Helper()
	token, key, err := f.CreateToken(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return token, key
}

func (f *fixture) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := f.db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func value[T any](t testing.TB, db *sqlx.DB, query string, args ...any) T {
	t.Helper()
	var v T
	if err := db.GetContext(t.Context(), &v, query, args...); err != nil {
		t.Fatal(err)
	}
	return v
}

func lookup(key authz.Secret) authz.Lookup {
	return authz.Lookup{Digest: key.Digest(), API: "velocity"}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("timed out waiting until %s", what)
		case <-tick.C:
		}
	}
}

// safeBuffer collects a log. It is safe for concurrent use.
type safeBuffer struct{ record.Log }

func (b *safeBuffer) contains(s string) func() bool {
	return func() bool { return strings.Contains(b.String(), s) }
}

func (b *safeBuffer) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(b, nil)) }
