package oauth_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/internal/testmain"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/test/supabase"
)

var (
	server    *postgres.Server
	databases atomic.Int64
)

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	code := 1
	if server, err = postgres.Start(ctx, postgres.Config{Log: io.Discard}); err == nil {
		code = m.Run()
		err = server.Close()
	}
	testmain.Exit(code, err)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const callback = "https://planner.example/cb"

// fixture is an authorization server with its own database. The database contains the user Ada, Ada's two workspaces, a public
// app and a confidential app.
type fixture struct {
	*httptest.Server
	*issuer.Issuer
	signIn                           *supabase.Issuer
	registry                         *registry.Registry
	ada                              registry.User
	acme, globex                     registry.Workspace
	public, confidential             registry.App
	publicSecret, confidentialSecret authz.Secret
	log                              *syncbuffer.Buffer
	db                               *sqlx.DB // connection with all privileges
	sessions                         authz.Sessions
}

func newFixture(t testing.TB, changes ...func(*oauth.Config)) *fixture {
	t.Helper()
	name := fmt.Sprintf("oauth_%d", databases.Add(1))
	admin := must(database.Open(server.URL("postgres")))
	must(admin.Exec(`CREATE DATABASE ` + name))
	_ = admin.Close()
	databaseURL := server.URL(name)
	db := must(database.Open(databaseURL))
	must(schema.Migrate(t.Context(), db))

	i := &fixture{registry: must(registry.Open(t.Context(), databaseURL)), log: &syncbuffer.Buffer{}, db: db}
	i.acme = must(i.registry.CreateWorkspace(t.Context(), registry.Workspace{Slug: "acme", Name: "Acme"}))
	i.globex = must(i.registry.CreateWorkspace(t.Context(), registry.Workspace{Slug: "globex", Name: "Globex"}))
	i.ada = must(i.registry.CreateUser(t.Context(), registry.User{Email: "ada@example.com"}))
	for _, w := range []string{"acme", "globex"} {
		must(i.registry.SetMember(t.Context(), w, i.ada.ID, "member"))
	}
	i.public, i.publicSecret = i.app(t, false)
	i.confidential, i.confidentialSecret = i.app(t, true)

	u := must(url.Parse(databaseURL))
	q := u.Query()
	q.Set("role", "keywicket_issuer")
	u.RawQuery = q.Encode()
	i.Issuer = must(issuer.Open(u.String()))
	signIn := supabase.Start()
	t.Cleanup(signIn.Close)
	i.signIn = signIn
	sessions := must(session.New(session.Config{APIs: map[string]authz.API{"velocity": {Session: authz.SessionFormat{
		Issuer: supabase.IssuerClaim, HS256Secret: authz.Secret(signIn.Secret)}}}}, slog.New(slog.DiscardHandler)))
	t.Cleanup(sessions.Close)
	i.sessions = sessions
	c := oauth.Config{
		Issuer: "https://velocity.quest", API: "velocity", Verifier: sessions, Cookie: "sb-velocity-auth-token",
		SignInURL: "https://velocity.quest/login?from=oauth",
		Format:    authz.CredentialFormat{Kind: authz.KindOAuthToken, Prefix: "velo_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
		Scopes: []oauth.Scope{
			{Name: "issues:read", Description: "Read issues and comments", Workspace: true},
			{Name: "issues:write", Description: "Create, update, delete issues", Workspace: true},
			{Name: "user:read", Description: "Read your own profile"},
		},
	}
	for _, change := range changes {
		change(&c)
	}
	s := must(oauth.NewServer(c, i.Issuer, slog.New(slog.NewTextHandler(i.log, nil))))
	i.Server = httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		i.Server.Close()
		_ = errors.Join(i.Issuer.Close(), i.registry.Close(), i.db.Close())
	})
	return i
}

func (i *fixture) app(t testing.TB, confidential bool) (registry.App, authz.Secret) {
	t.Helper()
	app, secret, err := i.registry.CreateApp(t.Context(), registry.NewApp{
		API: "velocity", Name: "Planner", RedirectURIs: []string{callback}, Confidential: confidential})
	if err != nil {
		t.Fatal(err)
	}
	return app, secret
}

// appOfOtherAPI creates an app of another API in the same database.
func (i *fixture) appOfOtherAPI(t *testing.T) registry.App {
	t.Helper()
	app, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "other", Name: "Other", RedirectURIs: []string{callback}})
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func (i *fixture) appWithRedirectURI(t *testing.T, redirectURI string) registry.App {
	t.Helper()
	app, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Native", RedirectURIs: []string{redirectURI}})
	if err != nil {
		t.Fatal(err)
	}
	return app
}

const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" // RFC 7636, appendix B

// code returns a code for the app, as if Ada had approved the app on the consent page.
func (i *fixture) code(t *testing.T, app registry.App) string {
	t.Helper()
	sum := sha256.Sum256([]byte(verifier))
	return must(i.Approve(t.Context(), issuer.Approval{
		Client: app.ID, User: i.ada.ID, Workspaces: []string{i.acme.ID}, Scopes: []string{"issues:read", "issues:write"},
		RedirectURI: callback, Challenge: base64.RawURLEncoding.EncodeToString(sum[:]),
	})).Code.Reveal()
}

type response struct {
	status int
	header http.Header
	body   map[string]any
}

func (r response) text(name string) string { s, _ := r.body[name].(string); return s }

func (i *fixture) post(t *testing.T, path, contentType, body string, header ...string) response {
	t.Helper()
	request := must(http.NewRequestWithContext(t.Context(), http.MethodPost, i.URL+path, strings.NewReader(body)))
	request.Header.Set("Content-Type", contentType)
	for n := 0; n < len(header); n += 2 {
		request.Header.Add(header[n], header[n+1])
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	r := response{status: reply.StatusCode, header: reply.Header}
	if err := json.NewDecoder(reply.Body).Decode(&r.body); err != nil {
		t.Fatalf("%s: %d: %v", path, r.status, err)
	}
	if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Pragma") != "no-cache" || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %v", path, r.header)
	}
	if (r.status == http.StatusOK) != (r.body["error"] == nil) {
		t.Errorf("%s: %d %v", path, r.status, r.body)
	}
	for _, name := range []string{"error", "error_description"} {
		if value, ok := r.body[name]; ok && !errorText.MatchString(fmt.Sprint(value)) {
			t.Errorf("%s: %s is %v", path, name, value)
		}
	}
	return r
}

// errorText matches the characters that an error and its description may contain (RFC 6749, sections 4.1.2.1 and 5.2).
var errorText = regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]+$`)

type form map[string]string

// withValue returns a copy of the form in which one value is changed. An empty value has the same effect as an absent parameter.
func (f form) withValue(name, value string) form {
	f = maps.Clone(f)
	f[name] = value
	return f
}

func (i *fixture) send(t *testing.T, path string, f form, header ...string) response {
	t.Helper()
	values := url.Values{}
	for name, value := range f {
		values.Set(name, value)
	}
	return i.post(t, path, "application/x-www-form-urlencoded", values.Encode(), header...)
}

func (i *fixture) exchangeForm(t *testing.T, app registry.App) form {
	t.Helper()
	return form{"grant_type": "authorization_code", "code": i.code(t, app), "redirect_uri": callback, "client_id": app.ID, "code_verifier": verifier}
}

// tokens returns the response with new tokens of the public app.
func (i *fixture) tokens(t *testing.T) response {
	t.Helper()
	r := i.send(t, "/api/oauth/token", i.exchangeForm(t, i.public))
	if r.status != http.StatusOK {
		t.Fatalf("%+v", r)
	}
	return r
}
