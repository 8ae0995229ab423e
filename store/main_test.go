package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/store"
)

// The tests share one server. Each test has its own database, a copy of a migrated template.
var (
	server    *postgres.Server
	serverLog safeBuffer
	databases atomic.Int64
)

const template = "template_keywicket"

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	server, err = postgres.Start(ctx, postgres.Config{Log: &serverLog, Settings: map[string]string{
		"max_connections": "200",
	}})
	if err != nil {
		return 0, err
	}
	defer func() {
		if stop := server.Close(); err == nil {
			err = stop
		}
	}()
	if err := isVersion(ctx, os.Getenv("KEYWICKET_TEST_POSTGRES")); err != nil {
		return 0, err
	}
	if err := migrateTemplate(ctx); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// isVersion returns an error unless the server has the major version that make test-postgres requires. Empty: any version.
func isVersion(ctx context.Context, major string) error {
	db, err := store.Open(server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var version string
	if err := db.GetContext(ctx, &version, `SHOW server_version`); err != nil {
		return err
	}
	if major != "" && !strings.HasPrefix(version, major+".") {
		return fmt.Errorf("the server is Postgres %s, not %s", version, major)
	}
	fmt.Println("Postgres", version)
	return nil
}

func migrateTemplate(ctx context.Context) error {
	if err := administer(ctx, "CREATE DATABASE "+template); err != nil {
		return err
	}
	db, err := store.Open(server.URL(template))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	_, err = store.Migrate(ctx, db)
	return err
}

// administer runs a statement in the database postgres.
func administer(ctx context.Context, statement string) error {
	db, err := store.Open(server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// emptyDatabase creates a database without the schema and returns its URL.
func emptyDatabase(t testing.TB) string { return copyOf(t, "template0") }

func copyOf(t testing.TB, original string) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	if err := administer(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+original); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := administer(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return server.URL(name)
}

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

// sidecarURL returns the URL of a login with exactly the privileges of the role keywicket_sidecar.
func sidecarURL(databaseURL string) string { return with(databaseURL, "role", "keywicket_sidecar") }

func with(databaseURL, key, value string) string {
	u := must(url.Parse(databaseURL))
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// directory opens a directory without a cache and with a timeout that is long enough for a test machine. The test closes it at its
// end.
func (f *fixture) directory(t testing.TB, change func(*store.Config)) *store.Directory {
	t.Helper()
	c := store.Config{URL: sidecarURL(f.url), LookupTimeout: 10 * time.Second, UsageInterval: time.Hour, NoCache: true}
	if change != nil {
		change(&c)
	}
	d, err := store.OpenDirectory(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
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
type safeBuffer struct{ syncbuffer.Buffer }

func (b *safeBuffer) contains(s string) func() bool {
	return func() bool { return strings.Contains(b.String(), s) }
}

func (b *safeBuffer) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(b, nil)) }
