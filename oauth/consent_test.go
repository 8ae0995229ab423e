package oauth_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/supabase"
)

const challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" // RFC 7636, appendix B

// browser is the browser of a user. It follows no redirects, because the tests check their targets.
type browser struct {
	*http.Client
	i       *fixture
	session string // session cookies of the product
	cookies map[string]string
}

func (i *fixture) browser() *browser {
	return &browser{i: i, cookies: map[string]string{}, Client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

// adas returns a browser in which Ada is signed in.
func (i *fixture) adas() *browser {
	b := i.browser()
	b.signIn(i.ada.ID, nil)
	return b
}

func (b *browser) signIn(user string, change supabase.Fields) {
	text, _ := json.Marshal(map[string]string{"access_token": b.token(user, change), "refresh_token": "r"})
	b.session = "sb-velocity-auth-token=base64-" + base64.RawURLEncoding.EncodeToString(text)
}

func (b *browser) token(user string, change supabase.Fields) string {
	return supabase.Sign(jose.HS256, []byte(b.i.signIn.Secret), "", supabase.Claims(user, change))
}

// page is a response to a browser.
type page struct {
	status   int
	header   http.Header
	location *url.URL
	text     string
}

func (b *browser) do(t *testing.T, method, query string, body url.Values, header ...string) page {
	t.Helper()
	var reader io.Reader = http.NoBody
	if body != nil {
		reader = strings.NewReader(body.Encode())
	}
	request := must(http.NewRequestWithContext(t.Context(), method, b.i.URL+"/oauth/consent?"+query, reader))
	if body != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	cookies := []string{b.session}
	for name, value := range b.cookies {
		cookies = append(cookies, name+"="+value)
	}
	request.Header.Set("Cookie", strings.Join(cookies, "; "))
	for n := 0; n < len(header); n += 2 {
		request.Header.Set(header[n], header[n+1])
	}
	answer, err := b.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	for _, c := range answer.Cookies() {
		b.cookies[c.Name] = c.Value
		if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || !strings.HasPrefix(c.Name, "__Host-") {
			t.Errorf("the cookie %+v", c)
		}
	}
	p := page{status: answer.StatusCode, header: answer.Header, text: string(must(io.ReadAll(answer.Body)))}
	p.location, _ = answer.Location()
	return p
}

var hidden = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)

// form returns the form of the page, with the user's answer.
func (p page) form(decision string, workspaces ...string) url.Values {
	f := url.Values{"decision": {decision}, "workspace": workspaces}
	for _, m := range hidden.FindAllStringSubmatch(p.text, -1) {
		f.Set(m[1], html.UnescapeString(m[2]))
	}
	return f
}

// request returns the query of the authorization request in the seed, with changes.
func (i *fixture) request(change ...string) string {
	q := url.Values{
		"client_id": {i.public.ID}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"issues:read issues:write"},
		"state": {"random_state"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	for n := 0; n < len(change); n += 2 {
		q.Set(change[n], change[n+1])
		if change[n+1] == "" {
			q.Del(change[n])
		}
	}
	return q.Encode()
}

// answered returns the query of the redirect to the app. It checks the redirect URI, the issuer (RFC 9207) and the state.
func answered(t *testing.T, p page) url.Values {
	t.Helper()
	if p.status != http.StatusSeeOther || p.location == nil || p.location.Scheme+"://"+p.location.Host+p.location.Path != callback {
		t.Fatalf("%d to %v: %s", p.status, p.location, p.text)
	}
	q := p.location.Query()
	if q.Get("iss") != "https://velocity.quest" || q.Get("state") != "random_state" || q.Has("code") == q.Has("error") {
		t.Errorf("the app is told %v", q)
	}
	for name, values := range q {
		if len(values) != 1 || values[0] == "" || strings.HasPrefix(name, "error") && !sayable.MatchString(values[0]) || strings.Contains(values[0], challenge) {
			t.Errorf("%s is %q", name, values)
		}
	}
	return q
}

// The complete flow: a page with the app and its scopes, an approval, a code, tokens (RFC 6749, section 4.1).
func TestUserApproves(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	p := b.do(t, "GET", i.request(), nil)
	for _, want := range []string{
		"Allow <bdi>Planner</bdi> to act for you?", "ada@example.com", "planner.example", "Read issues and comments", "Create, update, delete issues",
		"Acme", "Globex", i.acme.ID, `name="viewport"`, "<html lang=",
	} {
		if p.status != http.StatusOK || !strings.Contains(p.text, want) {
			t.Errorf("%d, and nothing of %q in %s", p.status, want, p.text)
		}
	}
	if strings.Contains(p.text, "Read your own profile") || strings.Contains(p.text, "<script") {
		t.Errorf("there is more than was asked for: %s", p.text)
	}
	none := b.do(t, "POST", i.request(), p.form("approve"))
	if none.status != http.StatusUnprocessableEntity || !strings.Contains(none.text, "Choose at least one workspace") {
		t.Errorf("without a workspace: %d %s", none.status, none.text)
	}
	q := answered(t, b.do(t, "POST", i.request(), none.form("approve", i.globex.ID, i.acme.ID, i.acme.ID)))
	r := i.send(t, "/api/oauth/token", i.exchange(t, i.public).with("code", q.Get("code")))
	if q.Get("error") != "" || r.status != http.StatusOK || r.text("scope") != "issues:read issues:write" {
		t.Fatalf("%v: %+v", q, r)
	}
	grants := must(i.registry.Grants(t.Context(), i.public.ID, i.ada.ID))
	if len(grants) != 2 || strings.Join(grants[1].Workspaces, " ") != "acme globex" { // exchange created the newer one
		t.Errorf("%+v", grants)
	}
	// The page separates scopes in the chosen workspaces from scopes of the whole account.
	both := b.do(t, "GET", i.request("scope", "user:read issues:read"), nil).text
	account, within := strings.Index(both, "for your whole account"), strings.Index(both, "in the workspaces that you choose")
	if profile, issues := strings.Index(both, "Read your own profile"), strings.Index(both, "Read issues"); account < 0 || account > profile || profile > within || within > issues {
		t.Error(both)
	}
	// With scopes of the user alone, there is no workspace to choose.
	profile := i.request("scope", "user:read")
	p = b.do(t, "GET", profile, nil)
	if strings.Contains(p.text, "Acme") || strings.Contains(p.text, "that you choose") || answered(t, b.do(t, "POST", profile, p.form("approve"))).Get("code") == "" {
		t.Error(p.text)
	}
	// A native app learns its port when it runs (RFC 8252, section 7.3).
	native, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Native", RedirectURIs: []string{"http://127.0.0.1/cb?x=1"}})
	if err != nil {
		t.Fatal(err)
	}
	loopback := i.request("client_id", native.ID, "redirect_uri", "http://127.0.0.1:51004/cb?x=1", "state", "")
	p = b.do(t, "GET", loopback, nil)
	p = b.do(t, "POST", loopback, p.form("approve", i.acme.ID))
	if p.location == nil || !regexp.MustCompile(`^http://127\.0\.0\.1:51004/cb\?x=1&code=\w{52}&iss=https%3A%2F%2Fvelocity\.quest$`).MatchString(p.location.String()) {
		t.Errorf("%d %v", p.status, p.location)
	}
}

// The forms of several tabs are all valid, also one that was shown before another.
func TestUserHasTwoTabs(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	first := b.do(t, "GET", i.request(), nil)
	second := b.do(t, "GET", i.request("client_id", i.confidential.ID), nil)
	for client, p := range map[string]page{i.public.ID: first, i.confidential.ID: second} {
		if q := answered(t, b.do(t, "POST", i.request("client_id", client), p.form("approve", i.acme.ID))); q.Get("code") == "" {
			t.Errorf("%v", q)
		}
	}
	// In another browser, the form is refused.
	if p := i.adas().do(t, "POST", i.request(), first.form("approve", i.acme.ID)); p.status != http.StatusForbidden {
		t.Errorf("%d to %v", p.status, p.location)
	}
}

// A user without a workspace can deny the request, and the app receives access_denied.
func TestUserWithoutAWorkspace(t *testing.T) {
	i := newFixture(t)
	b := i.browser()
	b.signIn(must(i.registry.CreateUser(t.Context(), registry.User{Email: "eve@example.com"})).ID, nil)
	p := b.do(t, "GET", i.request(), nil)
	if p.status != http.StatusOK || !strings.Contains(p.text, "you are in none") || strings.Contains(p.text, `value="approve"`) {
		t.Errorf("%d %s", p.status, p.text)
	}
	if p := b.do(t, "POST", i.request(), p.form("approve")); p.status != http.StatusUnprocessableEntity {
		t.Errorf("%d to %v", p.status, p.location)
	}
	if q := answered(t, b.do(t, "POST", i.request(), p.form("deny"))); q.Get("error") != "access_denied" {
		t.Errorf("%v", q)
	}
	// A single workspace is preselected; of several workspaces, none is.
	must(i.registry.SetMember(t.Context(), "acme", "eve@example.com", "guest"))
	if one, two := b.do(t, "GET", i.request(), nil), i.adas().do(t, "GET", i.request(), nil); strings.Count(one.text, " checked>") != 1 || strings.Contains(two.text, " checked>") {
		t.Errorf("of one: %s\nof two: %s", one.text, two.text)
	}
	// A request for scopes of the user alone grants no workspace, even if the form names one.
	b = i.adas()
	profile := i.request("scope", "user:read")
	p = b.do(t, "GET", profile, nil)
	if q := answered(t, b.do(t, "POST", profile, p.form("approve", i.acme.ID))); q.Get("code") == "" {
		t.Errorf("%v", q)
	}
	if grants := must(i.registry.Grants(t.Context(), "", i.ada.ID)); len(grants) != 1 || len(grants[0].Workspaces) != 0 {
		t.Errorf("%+v", grants)
	}
}

// The redirect keeps the redirect URI exactly as the app wrote it.
func TestAddressesOfAppsStayAsTheyAre(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	for _, uri := range []string{"com.example.App://cb", "com.example.app:/cb", "com.example.app://", "https://Planner.example", "http://[::1]/cb?", callback + "?x=%41"} {
		query := i.request("client_id", i.appAt(t, uri).ID, "redirect_uri", uri)
		p := b.do(t, "GET", query, nil)
		p = b.do(t, "POST", query, p.form("deny"))
		if to := p.header.Get("Location"); !regexp.MustCompile("^" + regexp.QuoteMeta(uri) + `[?&]error=access_denied&iss=`).MatchString(to) {
			t.Errorf("%s: %d to %s", uri, p.status, to)
		}
	}
}

func TestUserDenies(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	p := b.do(t, "GET", i.request(), nil)
	for _, decision := range []string{"deny", ""} {
		if q := answered(t, b.do(t, "POST", i.request(), p.form(decision, i.acme.ID))); q.Get("error") != "access_denied" || q.Get("code") != "" {
			t.Errorf("%v", q)
		}
	}
	if grants := must(i.registry.Grants(t.Context(), "", "")); len(grants) != 0 {
		t.Errorf("%+v", grants)
	}
}

// RFC 6749, section 4.1.2.1; RFC 9700, section 4.11: there is never a redirect to a URI that the app has not registered.
func TestMistakesAreToldToTheUser(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	revoked, _ := i.app(t, false)
	must(i.registry.RevokeApp(t.Context(), revoked.ID))
	for name, query := range map[string]string{
		"no client":          i.request("client_id", ""),
		"an unknown client":  i.request("client_id", "nobody"),
		"a revoked client":   i.request("client_id", revoked.ID),
		"two clients":        i.request() + "&client_id=" + i.confidential.ID,
		"no address":         i.request("redirect_uri", ""),
		"two addresses":      i.request() + "&redirect_uri=https://evil.example",
		"another address":    i.request("redirect_uri", "https://evil.example/cb"),
		"with more behind":   i.request("redirect_uri", callback+"/evil"),
		"with dot segments":  i.request("redirect_uri", callback+"/../evil"),
		"in another case":    i.request("redirect_uri", "https://planner.example/CB"),
		"of another host":    i.request("redirect_uri", "https://planner.example.evil.example/cb"),
		"with a fragment":    i.request("redirect_uri", callback+"#x"),
		"with another query": i.request("redirect_uri", callback+"?x=1"),
		"broken":             i.request() + "&%zz",
		"a client of zeros":  i.request("client_id", "\x00"),
		"no text":            i.request("client_id", "\xff"),
		"of another API":     i.request("client_id", i.foreign(t).ID),
	} {
		for _, method := range []string{"GET", "POST"} {
			if p := b.do(t, method, query, url.Values{"decision": {"approve"}}); p.status != http.StatusBadRequest || p.location != nil ||
				!strings.Contains(p.text, "This did not work") || strings.Contains(p.text, "<form") {
				t.Errorf("%s %s: %d to %v", method, name, p.status, p.location)
			}
		}
	}
}

// RFC 6749, section 4.1.2.1; RFC 7636, section 4.4.1.
func TestRefusalsAreToldToTheApp(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	for name, c := range map[string]struct{ query, want string }{
		"no response type":        {i.request("response_type", ""), "unsupported_response_type"},
		"a token":                 {i.request("response_type", "token"), "unsupported_response_type"},
		"an id token":             {i.request("response_type", "code id_token"), "unsupported_response_type"},
		"no challenge":            {i.request("code_challenge", ""), "invalid_request"},
		"no method":               {i.request("code_challenge_method", ""), "invalid_request"},
		"plain":                   {i.request("code_challenge_method", "plain"), "invalid_request"},
		"a short challenge":       {i.request("code_challenge", challenge[1:]), "invalid_request"},
		"a challenge of base64":   {i.request("code_challenge", challenge[1:]+"+"), "invalid_request"},
		"no scope":                {i.request("scope", ""), "invalid_scope"},
		"an unknown scope":        {i.request("scope", "issues:read issues:delete"), "invalid_scope"},
		"an override":             {i.request("scope", "workspace:admin"), "invalid_scope"},
		"the user's override":     {i.request("scope", "admin"), "invalid_scope"},
		"a scope in another case": {i.request("scope", "Issues:read"), "invalid_scope"},
		"a scope twice":           {i.request() + "&scope=issues:read", "invalid_request"},
		"a request object":        {i.request("request", "x"), "request_not_supported"},
		"the address of one":      {i.request("request_uri", "https://planner.example/r"), "request_uri_not_supported"},
	} {
		q := answered(t, b.do(t, "GET", c.query, nil))
		if q.Get("error") != c.want || q.Get("code") != "" || c.want == "invalid_request" && q.Get("error_description") == "" {
			t.Errorf("%s: %v", name, q)
		}
	}
	p := b.do(t, "GET", i.request()+"&state=another", nil)
	if q := p.location.Query(); q.Get("error") != "invalid_request" || q.Has("state") {
		t.Errorf("two states: %v", q)
	}
}

// A user who is not signed in is redirected to the sign-in page, and comes back to the same request.
func TestUserSignsInFirst(t *testing.T) {
	i := newFixture(t)
	must(i.registry.RevokeSession(t.Context(), "over"))
	token := i.browser().token(i.ada.ID, nil)
	object := `{"access_token":"` + token + `","token_type":"bearer"}`
	encoded := "base64-" + base64.RawURLEncoding.EncodeToString([]byte(object))
	cut := len(encoded) / 2
	const name = "sb-velocity-auth-token"
	expired := i.browser()
	expired.signIn(i.ada.ID, supabase.Fields{"exp": 1})
	over := i.browser()
	over.signIn(i.ada.ID, supabase.Fields{"session_id": "over"})
	nobody := i.browser()
	nobody.signIn("nobody", nil)
	for what, c := range map[string]struct {
		cookie   string
		signedIn bool
	}{
		"the token itself":      {name + "=" + token, true},
		"base64":                {name + "=" + encoded, true},
		"base64, padded":        {name + "=base64-" + base64.URLEncoding.EncodeToString([]byte(object+" ")), true},
		"encoded for a URL":     {name + "=" + url.PathEscape(object), true},
		"a list":                {name + "=" + url.QueryEscape(`["`+token+`","r",null]`), true},
		"in pieces":             {name + ".0=" + encoded[:cut] + "; " + name + ".1=" + encoded[cut:], true},
		"in pieces, unordered":  {name + ".1=" + encoded[cut:] + "; " + name + ".0=" + encoded[:cut], true},
		"none":                  {"", false},
		"empty":                 {name + "=", false},
		"of another name":       {"sb-other-auth-token=" + token, false},
		"the second piece":      {name + ".1=" + encoded, false},
		"broken base64":         {name + "=base64-!", false},
		"an empty list":         {name + "=[]", false},
		"a list of numbers":     {name + "=[1]", false},
		"an expired session":    {expired.session, false},
		"a revoked session":     {over.session, false},
		"a user who is no more": {nobody.session, false},
		"a forged one":          {name + "=" + token[:len(token)-4] + "AAAA", false},
	} {
		b := i.browser()
		b.session = c.cookie
		p := b.do(t, "GET", i.request(), nil)
		if c.signedIn {
			if p.status != http.StatusOK || !strings.Contains(p.text, "ada@example.com") {
				t.Errorf("%s: %d %v", what, p.status, p.location)
			}
			continue
		}
		if p.status != http.StatusSeeOther || p.location.Host+p.location.Path != "velocity.quest/login" || p.location.Query().Get("from") != "oauth" ||
			p.location.Query().Get("return_to") != "https://velocity.quest/oauth/consent?"+i.request()+"&returned=1" {
			t.Errorf("%s: %d to %v", what, p.status, p.location)
		}
		// A user whose session is valid only at the sign-in page gets no redirect loop.
		again := b.do(t, "GET", i.request()+"&returned=1", nil)
		if again.status != http.StatusForbidden || again.location != nil ||
			!strings.Contains(html.UnescapeString(again.text), `<a href="`+p.location.String()+`">Sign in again</a>`) {
			t.Errorf("%s, back from signing in: %d to %v: %s", what, again.status, again.location, again.text)
		}
		if p := b.do(t, "POST", i.request(), url.Values{"decision": {"approve"}}); p.location == nil || p.location.Path != "/login" {
			t.Errorf("%s, approving: %d to %v", what, p.status, p.location)
		}
	}
}

// RFC 9700, section 4.7: an answer that did not come from the page, in the same browser, of the same user, has no effect.
func TestForgedApprovals(t *testing.T) {
	i := newFixture(t)
	must(i.registry.SetMember(t.Context(), "acme", must(i.registry.CreateUser(t.Context(), registry.User{ID: "eve", Email: "eve@example.com"})).ID, "guest"))
	for name, forge := range map[string]func(b *browser, f url.Values) []string{
		"no proof":               func(_ *browser, f url.Values) []string { f.Del("proof"); return nil },
		"another proof":          func(_ *browser, f url.Values) []string { f.Set("proof", "guessed"); return nil },
		"no cookie":              func(b *browser, _ url.Values) []string { b.cookies = nil; return nil },
		"no cookie and no proof": func(b *browser, f url.Values) []string { b.cookies = nil; f.Del("proof"); return nil },
		"empty ones": func(b *browser, f url.Values) []string {
			b.cookies["__Host-keywicket_consent"] = ""
			f.Set("proof", "")
			return nil
		},
		"from another site":   func(*browser, url.Values) []string { return []string{"Sec-Fetch-Site", "cross-site"} },
		"from another origin": func(*browser, url.Values) []string { return []string{"Origin", "https://evil.example"} },
		"from nowhere":        func(*browser, url.Values) []string { return []string{"Origin", "null"} },
	} {
		b := i.adas()
		f := b.do(t, "GET", i.request(), nil).form("approve", i.acme.ID)
		header := forge(b, f)
		if p := b.do(t, "POST", i.request(), f, header...); p.status != http.StatusForbidden || p.location != nil {
			t.Errorf("%s: %d to %v", name, p.status, p.location)
		}
	}
	// A browser that sends Origin but not Sec-Fetch-Site.
	old := i.adas()
	if q := answered(t, old.do(t, "POST", i.request(), old.do(t, "GET", i.request(), nil).form("deny"), "Origin", "https://velocity.quest")); q.Get("error") != "access_denied" {
		t.Errorf("%v", q)
	}
	// Eve has signed in since Ada saw the page, so the page asks Eve.
	b := i.adas()
	f := b.do(t, "GET", i.request(), nil).form("approve", i.acme.ID)
	b.signIn("eve", nil)
	if p := b.do(t, "POST", i.request(), f); p.status != http.StatusOK || !strings.Contains(p.text, "eve@example.com") {
		t.Errorf("another user: %d to %v", p.status, p.location)
	}
	// A workspace id that is invalid.
	f = b.do(t, "GET", i.request(), nil).form("approve", "\x00")
	if p := b.do(t, "POST", i.request(), f); p.location != nil || p.status != http.StatusUnprocessableEntity {
		t.Errorf("no workspace: %d to %v", p.status, p.location)
	}
	// A workspace of another user.
	f = b.do(t, "GET", i.request(), nil).form("approve", i.globex.ID)
	if p := b.do(t, "POST", i.request(), f); p.location != nil || p.status != http.StatusUnprocessableEntity {
		t.Errorf("another's workspace: %d to %v", p.status, p.location)
	}
	if grants := must(i.registry.Grants(t.Context(), "", "")); len(grants) != 0 {
		t.Errorf("%+v", grants)
	}
}

// The page cannot be framed, loads nothing and is not cached. Text of others on it is escaped.
func TestPageIsSafe(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	for what, query := range map[string]string{"consent": i.request(), "mistake": i.request("client_id", "nobody")} {
		p := b.do(t, "GET", query, nil)
		csp := p.header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "style-src 'nonce-"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: %s is missing in %s", what, want, csp)
			}
		}
		if p.header.Get("X-Frame-Options") != "DENY" || p.header.Get("Cache-Control") != "no-store" || p.header.Get("Referrer-Policy") != "same-origin" ||
			p.header.Get("X-Content-Type-Options") != "nosniff" || p.header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %v", what, p.header)
		}
	}
	hostile, _, err := i.registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: `<script>alert("x")</script>`, RedirectURIs: []string{callback}})
	if err != nil {
		t.Fatal(err)
	}
	if p := b.do(t, "GET", i.request("client_id", hostile.ID), nil); p.status != http.StatusOK || strings.Contains(p.text, "<script") {
		t.Error(p.text)
	}
	if r := fmt.Sprint(i.log); strings.Contains(r, "random_state") {
		t.Error(r)
	}
}
