package pages_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

func registryFilter(workspace string) registry.TokenFilter {
	return registry.TokenFilter{Workspace: workspace}
}

// walk calls the function with every page that the links of an API's pages lead to, and with pages of errors. It returns the secrets
// that it has created.
func (f *fixture) walk(t *testing.T, visit func(what string, p page)) (secrets []string) {
	t.Helper()
	for _, b := range []*userBrowser{f.browser(f.velaflows, f.Ada), f.browser(f.velocity, f.Ada), f.browser(f.velocity, f.Bob)} {
		signedOut := &userBrowser{f, b.base, map[string]string{}}
		queue, seen := []string{"/settings"}, map[string]bool{}
		for len(queue) > 0 {
			target := queue[0]
			queue = queue[1:]
			if seen[target] {
				continue
			}
			seen[target] = true
			p := b.get(t, target)
			visit("GET "+target, p)
			visit("signed out, GET "+target, signedOut.get(t, target))
			if p.location != "" {
				queue = append(queue, p.location)
			}
			for _, m := range regexp.MustCompile(`(?:href|src)="(/[^"]*)"`).FindAllStringSubmatch(p.text, -1) {
				queue = append(queue, html.UnescapeString(m[1]))
			}
			if strings.Contains(p.text, `<form method="post"`) {
				visit("signed out, POST "+target, signedOut.do(t, http.MethodPost, target, p.form()))
				visit("too large, POST "+target, b.do(t, http.MethodPost, target, p.form("name", strings.Repeat("x", 1<<17))))
				for _, header := range []string{"cross-site", "same-origin"} {
					changed := b.do(t, http.MethodPost, target, p.form("name", "Walk", "scope", ""), "Sec-Fetch-Site", header)
					visit(header+" POST "+target, changed)
					if secret := changed.secret(); secret != "" {
						secrets = append(secrets, secret)
						visit("again, POST "+target, b.do(t, http.MethodPost, target, p.form("name", "Walk", "scope", "")))
					}
				}
			}
		}
		for _, target := range []string{"/settings/", "/settings/none", "/settings/static/none.css", tokensPath + "?workspace=none", tokensPath + "/none/revoke"} {
			visit("GET "+target, b.get(t, target))
		}
		for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodOptions} {
			visit(method, b.do(t, method, tokensPath, nil))
		}
		visit("a form where there is none", b.do(t, http.MethodPost, tokensPath, nil))
	}
	return secrets
}

// populate creates tokens of every kind.
func (f *fixture) populate(t *testing.T) (secrets []string) {
	t.Helper()
	for _, c := range []struct {
		b            *userBrowser
		path, scopes string
	}{
		{f.browser(f.velaflows, f.Ada), tokensPath, "inbox:read inbox:write crm:read contacts:read tags:read"},
		{f.browser(f.velocity, f.Ada), keysPath, "issues:read"},
		{f.browser(f.velocity, f.Ada), personalPath, "user:read"},
	} {
		for _, name := range []string{`<script>alert("1")</script>`, "Ünï 名前 'quoted' & \"more\""} {
			form := c.b.get(t, c.path+"/new").form("scope", c.scopes)
			form.Set("name", name)
			p := c.b.do(t, http.MethodPost, c.path+"/new", form)
			requirePage(t, p, http.StatusOK, "it will only be shown once")
			secrets = append(secrets, p.secret())
		}
	}
	return secrets
}

// Every response has the headers that protect it.
func TestHeadersOfEveryResponse(t *testing.T) {
	f := newFixture(t)
	f.populate(t)
	kinds := map[string]int{}
	f.walk(t, func(what string, p page) {
		kinds[fmt.Sprint(p.status)]++
		want := map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
			"X-Frame-Options":         "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		}
		if strings.Contains(what, "/static/console.") {
			want["Cache-Control"] = "public, max-age=31536000, immutable"
		}
		for name, value := range want {
			if got := p.header.Values(name); len(got) != 1 || got[0] != value {
				t.Errorf("%s: %s is %q", what, name, got)
			}
		}
		for _, cookie := range (&http.Response{Header: p.header}).Cookies() {
			if cookie.Name != "keywicket_console" || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" {
				t.Errorf("%s: the cookie %+v", what, cookie)
			}
		}
	})
	for _, status := range []string{"200", "303", "400", "403", "404", "422"} {
		if kinds[status] == 0 {
			t.Errorf("no response has the status %s: %v", status, kinds)
		}
	}
}

// A secret is in one response: the first one after its creation. It is in no URL, log line or other page.
func TestSecretsAreShownOnce(t *testing.T) {
	f := newFixture(t)
	secrets := f.populate(t)
	var all strings.Builder
	shown := f.walk(t, func(what string, p page) {
		all.WriteString(what + p.location)
		if p.secret() == "" {
			all.WriteString(p.text)
		}
	})
	if len(secrets) != 6 || len(shown) == 0 {
		t.Fatalf("%d and %d secrets", len(secrets), len(shown))
	}
	database := storetest.Value[string](t, f.DB, `SELECT string_agg(t::text, ' ') FROM keywicket.tokens t`) +
		storetest.Value[string](t, f.DB, `SELECT string_agg(a::text, ' ') FROM keywicket.audit_log a`)
	for _, secret := range append(secrets, shown...) {
		token := storetest.Must(f.TokenByDigest(t.Context(), authz.Secret(secret).Digest()))
		rest := strings.TrimPrefix(secret, token.Prefix)
		for where, text := range map[string]string{"a page": all.String(), "the log": f.log.String(), "the database": database} {
			if strings.Contains(text, rest) {
				t.Errorf("a secret is in %s", where)
			}
		}
		if !strings.Contains(f.log.String(), `"token_id":"`+token.ID) {
			t.Error("the log has no line about the token")
		}
	}
}

// No GET request changes anything.
func TestGetChangesNothing(t *testing.T) {
	f := newFixture(t)
	f.populate(t)
	before := f.state(t)
	audit := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.audit_log`)
	for _, b := range []*userBrowser{f.browser(f.velaflows, f.Ada), f.browser(f.velocity, f.Ada)} {
		for _, token := range storetest.Must(f.Tokens(t.Context(), registry.TokenFilter{})) {
			for _, path := range []string{tokensPath, keysPath, personalPath} {
				for _, sub := range []string{"", "/new", "/" + token.ID + "/rotate", "/" + token.ID + "/revoke"} {
					b.get(t, path+sub+"?name=x&scope=inbox:read&expiry=30&overlap=0s&key=k&prefix=sk_live_&revoked="+token.ID)
				}
			}
		}
	}
	if after := f.state(t); after != before || audit != storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.audit_log`) {
		t.Errorf("%s to %s", before, after)
	}
}

// void are the elements without an end tag.
var void = []string{"meta", "link", "input", "path", "rect"}

// The HTML of every page is well-formed: each element is closed in order, each id is unique, and references lead to an id. No page has
// inline script or style.
func TestPagesAreWellFormed(t *testing.T) {
	f := newFixture(t)
	f.populate(t)
	f.walk(t, func(what string, p page) {
		if !strings.HasPrefix(p.header.Get("Content-Type"), "text/html") || p.status == http.StatusSeeOther {
			return
		}
		if p.header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %s", what, p.header.Get("Content-Type"))
		}
		var open, ids, references []string
		z := html.NewTokenizer(strings.NewReader(p.text))
		for kind := z.Next(); kind != html.ErrorToken; kind = z.Next() {
			token := z.Token()
			for _, a := range token.Attr {
				switch {
				case a.Key == "id" && slices.Contains(ids, a.Val):
					t.Errorf("%s: the id %s is not unique", what, a.Val)
				case a.Key == "id":
					ids = append(ids, a.Val)
				case a.Key == "for", a.Key == "aria-labelledby", a.Key == "aria-describedby":
					references = append(references, strings.Fields(a.Val)...)
				case a.Key == "href" && strings.HasPrefix(a.Val, "#"):
					references = append(references, a.Val[1:])
				case a.Key == "style", strings.HasPrefix(a.Key, "on"):
					t.Errorf("%s: inline %s", what, a.Key)
				}
			}
			switch {
			case kind == html.StartTagToken && !slices.Contains(void, token.Data):
				open = append(open, token.Data)
			case kind == html.EndTagToken && (len(open) == 0 || open[len(open)-1] != token.Data):
				t.Fatalf("%s: </%s> within %v: %s", what, token.Data, open, p.text)
			case kind == html.EndTagToken:
				open = open[:len(open)-1]
			}
		}
		if len(open) > 0 {
			t.Errorf("%s: %v is not closed", what, open)
		}
		for _, id := range references {
			if !slices.Contains(ids, id) {
				t.Errorf("%s: nothing has the id %s", what, id)
			}
		}
		if strings.Contains(p.text, "ZgotmplZ") || strings.Contains(p.text, "<no value>") {
			t.Errorf("%s: %s", what, p.text)
		}
	})
}
