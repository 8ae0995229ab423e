package pages_test

import (
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/pages"
	"github.com/keywicket/keywicket/console/settings"
	"github.com/keywicket/keywicket/policies/issuance"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/session"
	"github.com/keywicket/keywicket/store/console"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/supabase"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	sessionCookie = "sb-test-auth-token"
	tokensPath    = "/settings/developer/api-tokens" //nolint:gosec // a path
	keysPath      = "/settings/api-keys"
	personalPath  = "/settings/account/personal-api-keys"
)

// fixture is the pages of both APIs, each on a server of its own, as on Envoy's listeners. The database has the data of
// storetest.Fixture. The console's login has the role keywicket_console.
type fixture struct {
	*storetest.Fixture
	velaflows, velocity *httptest.Server
	signIn              *supabase.Issuer
	log                 *storetest.Log
	sessions            authz.Sessions
	// If hold is set, the servers call it before they send the response to a POST request.
	hold atomic.Pointer[func()]
}

func newFixture(t testing.TB, changes ...func(*pages.Config)) *fixture {
	t.Helper()
	f := &fixture{Fixture: storetest.NewFixture(t), signIn: supabase.Start(), log: &storetest.Log{}}
	t.Cleanup(f.signIn.Close)
	var environ []string
	for _, api := range []string{"VELAFLOWS", "VELOCITY"} {
		environ = append(environ, "KEYWICKET_APIS_"+api+"_SESSION_ISSUER="+supabase.IssuerClaim, "KEYWICKET_APIS_"+api+"_SESSION_HS256_SECRET="+f.signIn.Secret)
	}
	cfg := storetest.Must(config.Load("", environ, func(c *config.Config) {
		a := c.APIs["velaflows"]
		a.Session.Scopes = []string{"admin:all", "workspaces:list"}
		c.APIs["velaflows"] = a
	}))
	tables := storetest.Must(cfg.Tables())
	sessions := storetest.Must(session.New(session.Config{APIs: cfg.APIs}, f.log.Logger()))
	t.Cleanup(sessions.Close)
	f.sessions = sessions
	store := storetest.Must(console.Open(storetest.WithOption(f.URL, "role", "keywicket_console")))
	t.Cleanup(func() { _ = store.Close() })

	c := pages.Config{Path: "/settings", Sessions: sessions, APIs: make(map[string]pages.API)}
	var handler http.Handler
	serve := func(api string) *httptest.Server {
		return httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("X-Keywicket-Api", api)
			if hold := f.hold.Load(); hold != nil && r.Method == http.MethodPost {
				recorder := httptest.NewRecorder()
				handler.ServeHTTP(recorder, r)
				(*hold)()
				maps.Copy(w.Header(), recorder.Header())
				w.WriteHeader(recorder.Code)
				_, _ = recorder.Body.WriteTo(w)
				return
			}
			handler.ServeHTTP(w, r)
		}))
	}
	f.velaflows, f.velocity = serve("velaflows"), serve("velocity")
	for name, s := range map[string]*httptest.Server{"velaflows": f.velaflows, "velocity": f.velocity} {
		a := cfg.APIs[name]
		api := pages.API{
			API: settings.API{Name: name, Rules: issuance.Rules{Table: tables[name]}, Formats: a.OperatorFormats(), Sessions: a.Session, HasApps: name == "velocity"},
			URL: "http://" + s.Listener.Addr().String(), Cookie: sessionCookie, SignIn: "https://product.example/login?from=settings",
		}
		titles := cfg.Console.APIs[name].Pages
		api.WorkspaceTokens, api.PersonalKeys, api.Apps = titles.WorkspaceTokens, titles.PersonalKeys, titles.Apps
		c.APIs[name] = api
	}
	for _, change := range changes {
		change(&c)
	}
	handler = storetest.Must(pages.New(c, settings.New(store), store, f.log.Logger())).Handler()
	f.velaflows.Start()
	f.velocity.Start()
	t.Cleanup(f.velaflows.Close)
	t.Cleanup(f.velocity.Close)
	return f
}

// sessionToken returns the token of a session of the user.
func (f *fixture) sessionToken(user string, change supabase.Fields) string {
	return supabase.Sign(jose.HS256, []byte(f.signIn.Secret), "", supabase.Claims(user, change))
}

// userBrowser is the browser of a user at one API. It does not follow redirects, because the tests check the redirect targets.
type userBrowser struct {
	f       *fixture
	base    string
	cookies map[string]string
}

// browser returns a browser in which the user is signed in.
func (f *fixture) browser(at *httptest.Server, user registry.User) *userBrowser {
	b := &userBrowser{f: f, base: at.URL, cookies: map[string]string{}}
	b.signIn(user.ID, nil)
	return b
}

func (b *userBrowser) signIn(user string, change supabase.Fields) {
	b.cookies[sessionCookie] = b.f.sessionToken(user, change)
}

// page is a response to a browser.
type page struct {
	status   int
	header   http.Header
	location string
	text     string
}

var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// do sends a request. Its headers are names and values in turn.
func (b *userBrowser) do(t testing.TB, method, target string, body url.Values, header ...string) page {
	t.Helper()
	var reader io.Reader = http.NoBody
	if body != nil {
		reader = strings.NewReader(body.Encode())
	}
	request := storetest.Must(http.NewRequestWithContext(t.Context(), method, b.base+target, reader))
	if body != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for name, value := range b.cookies {
		request.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for n := 0; n < len(header); n += 2 {
		request.Header.Set(header[n], header[n+1])
	}
	reply, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	for _, c := range reply.Cookies() {
		b.cookies[c.Name] = c.Value
	}
	return page{reply.StatusCode, reply.Header, reply.Header.Get("Location"), string(storetest.Must(io.ReadAll(reply.Body)))}
}

func (b *userBrowser) get(t testing.TB, target string) page {
	t.Helper()
	return b.do(t, http.MethodGet, target, nil)
}

// submit opens the page, changes its form, and sends it. The changes are names and values in turn. A field with the value "" is removed.
func (b *userBrowser) submit(t testing.TB, target string, change ...string) page {
	t.Helper()
	p := b.get(t, target)
	if p.status != http.StatusOK {
		t.Fatalf("%s: %d to %q: %s", target, p.status, p.location, p.text)
	}
	return b.do(t, http.MethodPost, target, p.form(change...))
}

var (
	postForm = regexp.MustCompile(`(?s)<form method="post".*?</form>`)
	input    = regexp.MustCompile(`<input ([^>]*)>`)
	attr     = regexp.MustCompile(`([a-z]+)="([^"]*)"`)
)

// form returns the values of the page's form, as a browser would send them, with changes.
func (p page) form(change ...string) url.Values {
	values := url.Values{}
	for _, m := range input.FindAllStringSubmatch(postForm.FindString(p.text), -1) {
		attributes := map[string]string{}
		for _, a := range attr.FindAllStringSubmatch(m[1], -1) {
			attributes[a[1]] = html.UnescapeString(a[2])
		}
		isChoice := attributes["type"] == "checkbox" || attributes["type"] == "radio"
		if attributes["name"] != "" && (!isChoice || strings.Contains(m[1], " checked")) {
			values.Add(attributes["name"], attributes["value"])
		}
	}
	for n := 0; n < len(change); n += 2 {
		values.Del(change[n])
		for value := range strings.SplitSeq(change[n+1], " ") {
			if value != "" {
				values.Add(change[n], value)
			}
		}
	}
	return values
}

var secretField = regexp.MustCompile(`<input id="secret"[^>]* value="([^"]*)"`)

// secret returns the secret that the page shows; empty if it shows none.
func (p page) secret() string {
	if m := secretField.FindStringSubmatch(p.text); m != nil {
		return m[1]
	}
	return ""
}

// requirePage requires a status and texts.
func requirePage(t testing.TB, p page, status int, texts ...string) {
	t.Helper()
	_, plain, _ := strings.Cut(html.UnescapeString(p.text), "<main")
	if p.status != status {
		t.Errorf("status %d instead of %d, to %q: %s", p.status, status, p.location, plain)
		return
	}
	for _, text := range texts {
		if !strings.Contains(plain, text) {
			t.Errorf("%q is missing in %s", text, plain)
		}
	}
}
