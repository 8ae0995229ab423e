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
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/oauth2"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/postgres"
	"github.com/keywicket/keywicket/internal/record"
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
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const callback = "https://planner.example/cb"

// fixture is a server on a database of its own, with the user Ada, two of their workspaces, and an app of each kind.
type fixture struct {
	*httptest.Server
	*issuer.Issuer
	signIn                           *supabase.Issuer
	registry                         *registry.Registry
	ada                              registry.User
	acme, globex                     registry.Workspace
	public, confidential             registry.App
	publicSecret, confidentialSecret authz.Secret
	log                              *record.Log
	db                               *sqlx.DB // with all privileges
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

	i := &fixture{registry: must(registry.Open(t.Context(), databaseURL)), log: &record.Log{}, db: db}
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
		Issuer: supabase.Name, HS256Secret: authz.Secret(signIn.Secret)}}}}, slog.New(slog.DiscardHandler)))
	t.Cleanup(sessions.Close)
	i.sessions = sessions
	c := oauth.Config{
		Issuer: "https://velocity.quest", API: "velocity", Verifier: sessions, Cookie: "sb-velocity-auth-token",
		SignIn: "https://velocity.quest/login?from=oauth",
		Format: authz.CredentialFormat{Kind: authz.KindOAuthToken, Prefix: "velo_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38},
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

// foreign creates an app of another API in the same database.
func (i *fixture) foreign(t *testing.T) registry.App {
	t.Helper()
	app, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "other", Name: "Other", RedirectURIs: []string{callback}})
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func (i *fixture) appAt(t *testing.T, redirectURI string) registry.App {
	t.Helper()
	app, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Native", RedirectURIs: []string{redirectURI}})
	if err != nil {
		t.Fatal(err)
	}
	return app
}

const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" // RFC 7636, appendix B

// code returns a code for the app, as after an approval on the consent page.
func (i *fixture) code(t *testing.T, app registry.App) string {
	t.Helper()
	sum := sha256.Sum256([]byte(verifier))
	return must(i.Approve(t.Context(), issuer.Approval{
		Client: app.ID, User: i.ada.ID, Workspaces: []string{i.acme.ID}, Scopes: []string{"issues:read", "issues:write"},
		RedirectURI: callback, Challenge: base64.RawURLEncoding.EncodeToString(sum[:]),
	})).Code.Reveal()
}

// response of an endpoint.
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
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	r := response{status: answer.StatusCode, header: answer.Header}
	if err := json.NewDecoder(answer.Body).Decode(&r.body); err != nil {
		t.Fatalf("%s: %d: %v", path, r.status, err)
	}
	if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Pragma") != "no-cache" || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %v", path, r.header)
	}
	if (r.status == http.StatusOK) != (r.body["error"] == nil) {
		t.Errorf("%s: %d %v", path, r.status, r.body)
	}
	for _, name := range []string{"error", "error_description"} {
		if value, told := r.body[name]; told && !sayable.MatchString(fmt.Sprint(value)) {
			t.Errorf("%s: %s is %v", path, name, value)
		}
	}
	return r
}

// sayable matches the characters that an error and its description may contain (RFC 6749, sections 4.1.2.1 and 5.2).
var sayable = regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]+$`)

type form map[string]string

// with returns a copy with a changed value. The server treats an empty value like an absent one.
func (f form) with(name, value string) form {
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

func (i *fixture) exchange(t *testing.T, app registry.App) form {
	t.Helper()
	return form{"grant_type": "authorization_code", "code": i.code(t, app), "redirect_uri": callback, "client_id": app.ID, "code_verifier": verifier}
}

// tokens returns new tokens of the public app.
func (i *fixture) tokens(t *testing.T) response {
	t.Helper()
	r := i.send(t, "/api/oauth/token", i.exchange(t, i.public))
	if r.status != http.StatusOK {
		t.Fatalf("%+v", r)
	}
	return r
}

// The example of the seed, in JSON.
func TestExchangeAsTheDocumentHasIt(t *testing.T) {
	i := newFixture(t)
	body := string(must(json.Marshal(i.exchange(t, i.public))))
	r := i.post(t, "/api/oauth/token", "application/json", body)
	if r.status != http.StatusOK || !strings.HasPrefix(r.text("access_token"), "velo_") || r.text("token_type") != "Bearer" ||
		r.body["expires_in"] != 3600.0 || r.text("refresh_token") == "" || r.text("scope") != "issues:read issues:write" {
		t.Fatalf("%+v", r)
	}
	refresh := fmt.Sprintf(`{"grant_type": "refresh_token", "refresh_token": %q, "client_id": %q}`, r.text("refresh_token"), i.public.ID)
	again := i.post(t, "/api/oauth/token", "application/json; charset=utf-8", refresh)
	if again.status != http.StatusOK || again.text("refresh_token") == r.text("refresh_token") || again.text("access_token") == r.text("access_token") {
		t.Fatalf("%+v", again)
	}
}

// An unmodified client library works for an app of either kind (RFC 6749, sections 4.1.3 and 6; RFC 7636, section 4.5).
func TestStockClient(t *testing.T) {
	i := newFixture(t)
	for name, c := range map[string]oauth2.Config{
		"public":              {ClientID: i.public.ID, Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInParams}},
		"public, with secret": {ClientID: i.public.ID, ClientSecret: i.publicSecret.Reveal(), Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInParams}},
		"confidential":        {ClientID: i.confidential.ID, ClientSecret: i.confidentialSecret.Reveal(), Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInHeader}},
		"confidential, body":  {ClientID: i.confidential.ID, ClientSecret: i.confidentialSecret.Reveal(), Endpoint: oauth2.Endpoint{AuthStyle: oauth2.AuthStyleInParams}},
	} {
		t.Run(name, func(t *testing.T) {
			app := i.public
			if c.ClientID == i.confidential.ID {
				app = i.confidential
			}
			c.RedirectURL, c.Endpoint.TokenURL = callback, i.URL+"/api/oauth/token"
			token, err := c.Exchange(t.Context(), i.code(t, app), oauth2.VerifierOption(verifier))
			if err != nil || !token.Valid() || time.Until(token.Expiry) > time.Hour {
				t.Fatalf("%+v, %v", token, err)
			}
			token.Expiry = time.Now().Add(-time.Minute)
			again, err := c.TokenSource(t.Context(), token).Token()
			if err != nil || again.AccessToken == token.AccessToken || again.RefreshToken == token.RefreshToken {
				t.Fatalf("%+v, %v", again, err)
			}
			_, err = c.TokenSource(t.Context(), token).Token() // with the refresh token of before
			if refused, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || refused.ErrorCode != "invalid_grant" {
				t.Errorf("%v", err)
			}
		})
	}
}

// What is wrong with a request is told in the words of RFC 6749, section 5.2, and gives nobody a token.
func TestTokenRequestsAreRefused(t *testing.T) {
	i := newFixture(t)
	stranger, _ := i.app(t, false)
	exchange := func(name, value string) form { return i.exchange(t, i.public).with(name, value) }
	refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": i.tokens(t).text("refresh_token")}
	confidential := i.exchange(t, i.confidential)
	theirs := i.send(t, "/api/oauth/token", i.exchange(t, i.confidential).with("client_secret", i.confidentialSecret.Reveal()))
	refreshTheirs := form{"grant_type": "refresh_token", "client_id": i.confidential.ID, "refresh_token": theirs.text("refresh_token")}
	for name, c := range map[string]struct {
		request form
		want    string
		status  int
	}{
		"no grant type":                                  {exchange("grant_type", ""), "invalid_request", 400},
		"another grant type":                             {exchange("grant_type", "password"), "unsupported_grant_type", 400},
		"no client":                                      {exchange("client_id", ""), "invalid_request", 400},
		"an unknown client":                              {exchange("client_id", "nobody"), "invalid_client", 401},
		"a wrong secret":                                 {exchange("client_secret", "guessed"), "invalid_client", 401},
		"confidential, without a secret":                 {confidential, "invalid_client", 401},
		"an app of another API":                          {exchange("client_id", i.foreign(t).ID), "invalid_client", 401},
		"another's secret":                               {confidential.with("client_secret", i.publicSecret.Reveal()), "invalid_client", 401},
		"no code":                                        {exchange("code", ""), "invalid_request", 400},
		"a code made up":                                 {exchange("code", "made-up"), "invalid_grant", 400},
		"another's code":                                 {exchange("client_id", stranger.ID), "invalid_grant", 400},
		"no redirect URI":                                {exchange("redirect_uri", ""), "invalid_request", 400},
		"another redirect URI":                           {exchange("redirect_uri", callback+"/"), "invalid_grant", 400},
		"no verifier":                                    {exchange("code_verifier", ""), "invalid_request", 400},
		"another verifier":                               {exchange("code_verifier", strings.Repeat("v", 43)), "invalid_grant", 400},
		"a short verifier":                               {exchange("code_verifier", verifier[:42]), "invalid_grant", 400},
		"the challenge as the verifier":                  {exchange("code_verifier", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"), "invalid_grant", 400},
		"a control character":                            {exchange("code", "a\x00b"), "invalid_request", 400},
		"no refresh token":                               {refresh.with("refresh_token", ""), "invalid_request", 400},
		"a refresh token made up":                        {refresh.with("refresh_token", "made-up"), "invalid_grant", 400},
		"another's refresh token":                        {refresh.with("client_id", stranger.ID), "invalid_grant", 400},
		"an access token":                                {refresh.with("refresh_token", i.tokens(t).text("access_token")), "invalid_grant", 400},
		"more than was granted":                          {refresh.with("scope", "issues:read documents:read"), "invalid_scope", 400},
		"a scope in another case":                        {refresh.with("scope", "Issues:read"), "invalid_scope", 400},
		"refreshing, with a wrong secret":                {refresh.with("client_secret", "guessed"), "invalid_client", 401},
		"confidential, refreshing, without a secret":     {refreshTheirs, "invalid_client", 401},
		"confidential, refreshing, with a wrong secret":  {refreshTheirs.with("client_secret", "guessed"), "invalid_client", 401},
		"confidential, refreshing, with another's token": {refreshTheirs.with("refresh_token", refresh["refresh_token"]).with("client_secret", i.confidentialSecret.Reveal()), "invalid_grant", 400},
	} {
		r := i.send(t, "/api/oauth/token", c.request)
		if r.status != c.status || r.text("error") != c.want || r.body["access_token"] != nil {
			t.Errorf("%s: %+v", name, r)
		}
		if challenged := r.header.Get("WWW-Authenticate") == `Basic realm="keywicket"`; challenged != (c.status == 401) {
			t.Errorf("%s: the challenge %q", name, r.header.Get("WWW-Authenticate"))
		}
	}
	if r := i.send(t, "/api/oauth/token", refresh); r.status != http.StatusOK { // none of that has used it up
		t.Errorf("%+v", r)
	}
	text := "grant_type=authorization_code&client_id=" + i.public.ID
	const formType, jsonType = "application/x-www-form-urlencoded", "application/json"
	for name, c := range map[string]struct{ contentType, body string }{
		"twice":            {formType, text + "&client_id=" + i.public.ID},
		"twice, in JSON":   {jsonType, `{"client_id": "a", "client_id": "b"}`},
		"no form":          {formType, text + "&code=%zz"},
		"a semicolon":      {formType, text + ";code=x"},
		"no JSON":          {jsonType, `{`},
		"a list":           {jsonType, `["client_id"]`},
		"a number":         {jsonType, `{"client_id": 1}`},
		"an object":        {jsonType, `{"client_id": {"$ne": ""}}`},
		"no UTF-8":         {formType, text + "&code=%ff"},
		"too long":         {formType, text + "&code=" + strings.Repeat("x", 17<<10)},
		"of another type":  {"text/plain", text},
		"of no type":       {"", text},
		"of a broken type": {"application/", text},
	} {
		if r := i.post(t, "/api/oauth/token", c.contentType, c.body); r.status != 400 || r.text("error") != "invalid_request" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, header := range map[string][]string{
		"wrong":         {"Authorization", basic(i.confidential.ID, "guessed")},
		"zeros":         {"Authorization", basic("%00", "x")},
		"no text":       {"Authorization", basic("%ff", "x")},
		"unknown":       {"Authorization", basic("nobody", "x")},
		"empty":         {"Authorization", basic(i.public.ID, "")},
		"not Basic":     {"Authorization", "Bearer x"},
		"not decodable": {"Authorization", basic("%zz", "x")},
		"twice":         {"Authorization", basic(i.confidential.ID, i.confidentialSecret.Reveal()), "Authorization", basic(i.confidential.ID, i.confidentialSecret.Reveal())},
	} {
		r := i.send(t, "/api/oauth/token", i.exchange(t, i.confidential).with("client_id", ""), header...)
		if r.status != 401 || r.text("error") != "invalid_client" || !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("Basic, %s: %+v", name, r)
		}
	}
	right := basic(i.confidential.ID, i.confidentialSecret.Reveal())
	for name, request := range map[string]form{
		"two secrets": i.exchange(t, i.confidential).with("client_secret", i.confidentialSecret.Reveal()),
		"two clients": i.exchange(t, i.confidential).with("client_id", i.public.ID),
	} {
		if r := i.send(t, "/api/oauth/token", request, "Authorization", right); r.status != 400 || r.text("error") != "invalid_request" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if text := i.log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") {
		t.Errorf("nothing of this is an operator's business: %s", text)
	}
}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

// A narrower scope applies only to the new access token (RFC 6749, section 6).
func TestRefreshCanNarrow(t *testing.T) {
	i := newFixture(t)
	first := i.tokens(t)
	refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": first.text("refresh_token"), "scope": "issues:read issues:read"}
	narrow := i.send(t, "/api/oauth/token", refresh)
	if narrow.status != http.StatusOK || narrow.text("scope") != "issues:read" {
		t.Fatalf("%+v", narrow)
	}
	whole := i.send(t, "/api/oauth/token", refresh.with("refresh_token", narrow.text("refresh_token")).with("scope", ""))
	if whole.text("scope") != "issues:read issues:write" {
		t.Errorf("%+v", whole)
	}
}

// Of twenty concurrent requests, one succeeds. The other requests end the tokens that it received (RFC 6749, section 4.1.2; RFC 9700, 4.14.2).
func TestRacesHaveOneWinner(t *testing.T) {
	i := newFixture(t)
	for name, request := range map[string]form{
		"code":          i.exchange(t, i.public),
		"refresh token": {"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": i.tokens(t).text("refresh_token")},
	} {
		var won atomic.Int64
		var access atomic.Value
		var racing sync.WaitGroup
		for range 20 {
			racing.Go(func() {
				switch r := i.send(t, "/api/oauth/token", request); {
				case r.status == http.StatusOK:
					won.Add(1)
					access.Store(r.text("access_token"))
				case r.text("error") != "invalid_grant":
					t.Errorf("%+v", r)
				}
			})
		}
		racing.Wait()
		if won.Load() != 1 {
			t.Errorf("a %s was good %d times", name, won.Load())
		}
		if _, err := i.Introspect(t.Context(), authz.Secret(access.Load().(string))); !errors.Is(err, issuer.ErrGrant) {
			t.Errorf("%s: what was won is still good: %v", name, err)
		}
	}
}

// A client that hangs up does not undo the effect of its request: a refresh token that is used a second time ends the grant.
func TestHangingUpUndoesNothing(t *testing.T) {
	i := newFixture(t)
	for range 5 {
		first := i.tokens(t)
		refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": first.text("refresh_token")}
		second := i.send(t, "/api/oauth/token", refresh)
		conn := must(net.Dial("tcp", i.Listener.Addr().String()))
		body := url.Values{"grant_type": {"refresh_token"}, "client_id": {i.public.ID}, "refresh_token": {first.text("refresh_token")}}.Encode()
		_, err := fmt.Fprintf(conn, "POST /api/oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		if err := errors.Join(err, conn.(*net.TCPConn).SetLinger(0), conn.Close()); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			if _, err := i.Introspect(t.Context(), authz.Secret(second.text("access_token"))); errors.Is(err, issuer.ErrGrant) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the grant goes on")
			}
		}
	}
}

// RFC 7009: a refresh token ends the grant, an access token ends only itself. The token of another app stays valid. An unknown
// token is no error.
func TestRevocation(t *testing.T) {
	i := newFixture(t)
	good := func(r response) bool {
		_, err := i.Introspect(t.Context(), authz.Secret(r.text("access_token")))
		return err == nil
	}
	revoke := func(token string, more ...string) response {
		f := form{"client_id": i.public.ID, "token": token}
		for n := 0; n < len(more); n += 2 {
			f = f.with(more[n], more[n+1])
		}
		return i.send(t, "/api/oauth/revoke", f)
	}
	one := i.tokens(t)
	if r := revoke(one.text("access_token"), "token_type_hint", "refresh_token"); r.status != http.StatusOK || good(one) {
		t.Errorf("an access token: %+v, good: %t", r, good(one))
	}
	again := i.send(t, "/api/oauth/token", form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": one.text("refresh_token")})
	if again.status != http.StatusOK {
		t.Errorf("the grant went on: %+v", again)
	}
	if r := revoke(again.text("refresh_token"), "token_type_hint", "nonsense"); r.status != http.StatusOK || good(again) {
		t.Errorf("a refresh token: %+v, good: %t", r, good(again))
	}
	if r := i.send(t, "/api/oauth/token", form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": again.text("refresh_token")}); r.text("error") != "invalid_grant" {
		t.Errorf("a refresh token that was revoked: %+v", r)
	}
	if r := revoke("made-up"); r.status != http.StatusOK {
		t.Errorf("one that is not there: %+v", r)
	}
	if r := revoke(""); r.status != 400 || r.text("error") != "invalid_request" {
		t.Errorf("none: %+v", r)
	}
	for _, token := range []string{"access_token", "refresh_token"} {
		theirs := i.tokens(t)
		r := i.send(t, "/api/oauth/revoke", form{"token": theirs.text(token), "client_id": i.confidential.ID, "client_secret": i.confidentialSecret.Reveal()})
		if r.status != 400 || r.text("error") != "invalid_grant" || !good(theirs) {
			t.Errorf("another app's %s: %+v, good: %t", token, r, good(theirs))
		}
	}
	if r := i.send(t, "/api/oauth/revoke", form{"token": "x", "client_id": i.confidential.ID}); r.status != 401 {
		t.Errorf("without its secret: %+v", r)
	}
}

// RFC 7662: a client with a secret can introspect its own tokens, and no others.
func TestIntrospection(t *testing.T) {
	i := newFixture(t)
	ask := func(token string, header ...string) response {
		return i.send(t, "/api/oauth/introspect", form{"token": token}, header...)
	}
	tokens := i.tokens(t)
	access, own := tokens.text("access_token"), basic(i.public.ID, i.publicSecret.Reveal())
	r := ask(access, "Authorization", own)
	exp, _ := r.body["exp"].(float64)
	if r.status != 200 || r.body["active"] != true || r.text("scope") != "issues:read issues:write" || r.text("client_id") != i.public.ID ||
		r.text("sub") != i.ada.ID || r.text("iss") != "https://velocity.quest" || time.Until(time.Unix(int64(exp), 0)).Round(time.Minute) != time.Hour {
		t.Errorf("%+v", r)
	}
	for name, r := range map[string]response{
		"another app":     ask(access, "Authorization", basic(i.confidential.ID, i.confidentialSecret.Reveal())),
		"a refresh token": ask(tokens.text("refresh_token"), "Authorization", own),
		"made up":         ask("made-up", "Authorization", own),
	} {
		if r.status != 200 || r.body["active"] != false || len(r.body) != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := i.send(t, "/api/oauth/introspect", form{"token": access, "client_id": i.public.ID}); r.status != 401 || r.text("error") != "invalid_client" {
		t.Errorf("without a secret: %+v", r)
	}
	must(i.registry.RevokeApp(t.Context(), i.public.ID))
	if r := ask(access, "Authorization", own); r.status != 401 {
		t.Errorf("a revoked app: %+v", r)
	}
}

// RFC 8414, section 3.2.
func TestMetadata(t *testing.T) {
	i := newFixture(t)
	answer, err := http.Get(i.URL + "/.well-known/oauth-authorization-server")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	var m map[string]any
	if err := json.NewDecoder(answer.Body).Decode(&m); err != nil || answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/json" {
		t.Fatal(answer.Status, err)
	}
	for name, want := range map[string]string{
		"issuer": "https://velocity.quest", "authorization_endpoint": "https://velocity.quest/oauth/consent",
		"token_endpoint": "https://velocity.quest/api/oauth/token", "code_challenge_methods_supported": "[S256]",
		"response_types_supported": "[code]", "grant_types_supported": "[authorization_code refresh_token]",
		"authorization_response_iss_parameter_supported": "true",
	} {
		if got := fmt.Sprint(m[name]); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
}

// An internal error is a 503. It is logged, and the answer has no details.
func TestDatabaseThatIsAway(t *testing.T) {
	i := newFixture(t)
	request := i.exchange(t, i.public)
	if err := i.Issuer.Close(); err != nil {
		t.Fatal(err)
	}
	r := i.send(t, "/api/oauth/token", request)
	if r.status != 503 || r.text("error") != "temporarily_unavailable" || r.header.Get("Retry-After") == "" || len(r.body) != 1 {
		t.Errorf("%+v", r)
	}
	if text := i.log.String(); !strings.Contains(text, "could not answer") || strings.Contains(text, request["code"]) || strings.Contains(text, verifier) {
		t.Errorf("the log: %s", text)
	}
}
