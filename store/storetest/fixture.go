package storetest

import (
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
)

// Fixture is a migrated database with this test data:
//
//	workspaces  acme, globex
//	users       ada: admin in acme, guest in globex; bob: in no workspace
type Fixture struct {
	*registry.Registry
	URL          string   // connects as the superuser
	DB           *sqlx.DB // connected as the superuser
	Acme, Globex registry.Workspace
	Ada, Bob     registry.User
}

// NewFixture returns a fixture in a new database.
func NewFixture(t testing.TB) *Fixture {
	t.Helper()
	return fixtureIn(t, CopyOf(t, Template))
}

// FixtureAt migrates the database and returns a fixture in it.
func FixtureAt(t testing.TB, databaseURL string) *Fixture {
	t.Helper()
	Must(schema.Migrate(t.Context(), OpenDB(t, databaseURL)))
	return fixtureIn(t, databaseURL)
}

func fixtureIn(t testing.TB, databaseURL string) *Fixture {
	t.Helper()
	f := &Fixture{URL: databaseURL}
	var err error
	if f.Registry, err = registry.Open(t.Context(), f.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Registry.Close() })
	f.DB = OpenDB(t, f.URL)
	f.Acme = Must(f.CreateWorkspace(t.Context(), registry.Workspace{Slug: "acme", Name: "Acme"}))
	f.Globex = Must(f.CreateWorkspace(t.Context(), registry.Workspace{Slug: "globex", Name: "Globex"}))
	f.Ada = Must(f.CreateUser(t.Context(), registry.User{Email: "Ada@example.com"}))
	f.Bob = Must(f.CreateUser(t.Context(), registry.User{ID: "auth0|bob", Email: "bob@example.com"}))
	Must(f.SetMember(t.Context(), "acme", f.Ada.ID, "admin"))
	Must(f.SetMember(t.Context(), "globex", f.Ada.ID, "guest"))
	return f
}

// OpenDB returns a connection pool that is closed when the test ends.
func OpenDB(t testing.TB, databaseURL string) *sqlx.DB {
	t.Helper()
	db, err := database.Open(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// WithOption sets an option of the database URL, and returns the new URL. The parameter `key` is the name of the option.
func WithOption(databaseURL, key, value string) string {
	u := Must(url.Parse(databaseURL))
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// These are the formats of the keys and tokens in tests.
var (
	SkLive = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live,
		VisiblePrefix: 16, BodyLength: 40}
	SkTest = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_test_", Environment: authz.Sandbox,
		VisiblePrefix: 16, BodyLength: 40}
	Vel = authz.CredentialFormat{Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live,
		VisiblePrefix: 12, BodyLength: 38}
	Velu = authz.CredentialFormat{Kind: authz.KindPersonalKey, Prefix: "velu_", Environment: authz.Live,
		VisiblePrefix: 13, BodyLength: 38}
)

// WorkspaceToken creates a token of acme.
func (f *Fixture) WorkspaceToken(t testing.TB, scopes ...string) (registry.Token, authz.Secret) {
	t.Helper()
	return f.Create(t, registry.NewToken{Format: Vel, API: "velocity", Name: "t", Scopes: scopes, Workspace: "acme"})
}

// UserToken creates a token of ada.
func (f *Fixture) UserToken(t testing.TB, scopes ...string) (registry.Token, authz.Secret) {
	t.Helper()
	return f.Create(t, registry.NewToken{Format: Velu, API: "velocity", Name: "t", Scopes: scopes, User: f.Ada.ID})
}

// Create creates a token.
func (f *Fixture) Create(t testing.TB, n registry.NewToken) (registry.Token, authz.Secret) {
	t.Helper()
	token, key, err := f.CreateToken(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return token, key
}

// Exec runs a statement as the superuser.
func (f *Fixture) Exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := f.DB.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// Value runs a query that returns one row with one column, and returns the value.
func Value[T any](t testing.TB, db *sqlx.DB, query string, args ...any) T {
	t.Helper()
	var v T
	if err := db.GetContext(t.Context(), &v, query, args...); err != nil {
		t.Fatal(err)
	}
	return v
}

// Lookup returns a look-up of the key for the API velocity.
func Lookup(key authz.Secret) authz.Lookup {
	return authz.Lookup{Digest: key.Digest(), API: "velocity"}
}

// Must panics if err is not nil.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Eventually waits until the condition is true. After 20 s, the test fails.
func Eventually(t testing.TB, description string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("timed out waiting until %s", description)
		case <-tick.C:
		}
	}
}

// Log collects a log. It is safe for concurrent use.
type Log struct{ syncbuffer.Buffer }

// Contains returns a function that reports whether the log contains the text.
func (b *Log) Contains(s string) func() bool {
	return func() bool { return strings.Contains(b.String(), s) }
}

// Logger returns a logger that writes JSON into the log.
func (b *Log) Logger() *slog.Logger { return slog.New(slog.NewJSONHandler(b, nil)) }
