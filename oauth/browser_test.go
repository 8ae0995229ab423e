package oauth_test

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/keywicket/keywicket/test/supabase"
)

const challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" // RFC 7636, appendix B

// browser is the browser of a user. It does not follow redirects, because the tests check the redirect targets.
type browser struct {
	*http.Client
	fixture *fixture
	session string // the product's session cookies
	cookies map[string]string
}

func (i *fixture) browser() *browser {
	return &browser{fixture: i, cookies: map[string]string{}, Client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

// adaBrowser returns a browser in which Ada is signed in.
func (i *fixture) adaBrowser() *browser {
	b := i.browser()
	b.signIn(i.ada.ID, nil)
	return b
}

func (b *browser) signIn(user string, change supabase.Fields) {
	text, _ := json.Marshal(map[string]string{"access_token": b.token(user, change), "refresh_token": "r"})
	b.session = "sb-velocity-auth-token=base64-" + base64.RawURLEncoding.EncodeToString(text)
}

func (b *browser) token(user string, change supabase.Fields) string {
	return supabase.Sign(jose.HS256, []byte(b.fixture.signIn.Secret), "", supabase.Claims(user, change))
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
	request := must(http.NewRequestWithContext(t.Context(), method, b.fixture.URL+"/oauth/consent?"+query, reader))
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
	reply, err := b.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	for _, c := range reply.Cookies() {
		b.cookies[c.Name] = c.Value
		if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || !strings.HasPrefix(c.Name, "__Host-") {
			t.Errorf("the cookie has wrong attributes: %+v", c)
		}
	}
	p := page{status: reply.StatusCode, header: reply.Header, text: string(must(io.ReadAll(reply.Body)))}
	p.location, _ = reply.Location()
	return p
}

var hiddenInput = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)

// form returns the form of the page, with the user's decision and the chosen workspaces.
func (p page) form(decision string, workspaces ...string) url.Values {
	f := url.Values{"decision": {decision}, "workspace": workspaces}
	for _, m := range hiddenInput.FindAllStringSubmatch(p.text, -1) {
		f.Set(m[1], html.UnescapeString(m[2]))
	}
	return f
}

// request returns the query of a valid authorization request. The changes are names of parameters, each followed by its new
// value. An empty value removes the parameter.
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

// expectRedirect returns the query of the redirect to the app. It checks the redirect URI, the issuer (RFC 9207) and the state.
func expectRedirect(t *testing.T, p page) url.Values {
	t.Helper()
	if p.status != http.StatusSeeOther || p.location == nil || p.location.Scheme+"://"+p.location.Host+p.location.Path != callback {
		t.Fatalf("%d to %v: %s", p.status, p.location, p.text)
	}
	q := p.location.Query()
	if q.Get("iss") != "https://velocity.quest" || q.Get("state") != "random_state" || q.Has("code") == q.Has("error") {
		t.Errorf("the app received %v", q)
	}
	for name, values := range q {
		if len(values) != 1 || values[0] == "" || strings.HasPrefix(name, "error") && !errorText.MatchString(values[0]) || strings.Contains(values[0], challenge) {
			t.Errorf("%s is %q", name, values)
		}
	}
	return q
}
