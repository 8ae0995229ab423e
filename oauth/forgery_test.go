package oauth_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/registry"
)

// RFC 9700, section 4.7: the server accepts the form only from the user and the browser that received the page. It refuses the
// form from other sites.
func TestForgedApprovals(t *testing.T) {
	i := newFixture(t)
	must(i.registry.SetMember(t.Context(), "acme", must(i.registry.CreateUser(t.Context(), registry.User{ID: "eve", Email: "eve@example.com"})).ID, "guest"))
	for name, forge := range map[string]func(b *browser, f url.Values) []string{
		"no proof":               func(_ *browser, f url.Values) []string { f.Del("proof"); return nil },
		"another proof":          func(_ *browser, f url.Values) []string { f.Set("proof", "guessed"); return nil },
		"no cookie":              func(b *browser, _ url.Values) []string { b.cookies = nil; return nil },
		"no cookie and no proof": func(b *browser, f url.Values) []string { b.cookies = nil; f.Del("proof"); return nil },
		"empty cookie and proof": func(b *browser, f url.Values) []string {
			b.cookies["__Host-keywicket_consent"] = ""
			f.Set("proof", "")
			return nil
		},
		"from another site":     func(*browser, url.Values) []string { return []string{"Sec-Fetch-Site", "cross-site"} },
		"from another origin":   func(*browser, url.Values) []string { return []string{"Origin", "https://evil.example"} },
		"from an opaque origin": func(*browser, url.Values) []string { return []string{"Origin", "null"} },
	} {
		b := i.adaBrowser()
		f := b.do(t, "GET", i.request(), nil).form("approve", i.acme.ID)
		header := forge(b, f)
		if p := b.do(t, "POST", i.request(), f, header...); p.status != http.StatusForbidden || p.location != nil {
			t.Errorf("%s: %d to %v", name, p.status, p.location)
		}
	}
	// The browser says that this server's own page has sent the form, but the form is outdated. So the server asks again. It decides
	// nothing, and does not trust this header alone.
	for name, outdated := range map[string]func(b *browser, f url.Values){
		"another proof": func(_ *browser, f url.Values) { f.Set("proof", "ABCDEFGHIJKLMNOPQRSTUVWXYZ") },
		"no proof":      func(_ *browser, f url.Values) { f.Del("proof") },
		"no cookie":     func(b *browser, _ url.Values) { clear(b.cookies) }, // it has expired
	} {
		for _, decision := range []string{"approve", "deny"} {
			b := i.adaBrowser()
			f := b.do(t, "GET", i.request(), nil).form(decision, i.acme.ID)
			outdated(b, f)
			p := b.do(t, "POST", i.request(), f, "Sec-Fetch-Site", "same-origin")
			if p.status != http.StatusOK || p.location != nil || !strings.Contains(p.text, "answer again") {
				t.Errorf("%s: %d to %v", name, p.status, p.location)
			}
			if decision == "deny" {
				if q := expectRedirect(t, b.do(t, "POST", i.request(), p.form("deny"), "Sec-Fetch-Site", "same-origin")); q.Get("error") != "access_denied" {
					t.Errorf("%s, then deny: %v", name, q)
				}
			}
			for _, site := range []string{"same-site", "cross-site", "none", "Same-Origin"} {
				if p := b.do(t, "POST", i.request(), f, "Sec-Fetch-Site", site); p.status != http.StatusForbidden {
					t.Errorf("%s, %s: %d to %v", name, site, p.status, p.location)
				}
			}
		}
	}
	// A browser may send Origin without Sec-Fetch-Site.
	oldBrowser := i.adaBrowser()
	outdated := oldBrowser.do(t, "GET", i.request(), nil).form("approve", i.acme.ID)
	outdated.Set("proof", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	for _, c := range []struct {
		origin, site string
		want         int
	}{
		{"https://velocity.quest", "", http.StatusOK}, {"https://velocity.quest", "cross-site", http.StatusForbidden},
		{"https://velocity.quest", "same-site", http.StatusForbidden}, {"https://velocity.quest:8443", "", http.StatusForbidden},
		{"https://evil.example", "", http.StatusForbidden}, {"null", "", http.StatusForbidden}, {"", "", http.StatusForbidden},
	} {
		if p := oldBrowser.do(t, "POST", i.request(), outdated, "Origin", c.origin, "Sec-Fetch-Site", c.site); p.status != c.want || p.location != nil {
			t.Errorf("an outdated form, %+v: %d to %v", c, p.status, p.location)
		}
	}
	if q := expectRedirect(t, oldBrowser.do(t, "POST", i.request(), oldBrowser.do(t, "GET", i.request(), nil).form("deny"), "Origin", "https://velocity.quest")); q.Get("error") != "access_denied" {
		t.Errorf("%v", q)
	}
	// Eve signs in after Ada has seen the page. So the server must ask Eve.
	b := i.adaBrowser()
	f := b.do(t, "GET", i.request(), nil).form("approve", i.acme.ID)
	b.signIn("eve", nil)
	if p := b.do(t, "POST", i.request(), f); p.status != http.StatusOK || !strings.Contains(p.text, "eve@example.com") {
		t.Errorf("another user: %d to %v", p.status, p.location)
	}
	// The form contains an invalid workspace id.
	f = b.do(t, "GET", i.request(), nil).form("approve", "\x00")
	if p := b.do(t, "POST", i.request(), f); p.location != nil || p.status != http.StatusUnprocessableEntity {
		t.Errorf("an invalid workspace id: %d to %v", p.status, p.location)
	}
	// The form contains a workspace of another user.
	f = b.do(t, "GET", i.request(), nil).form("approve", i.globex.ID)
	if p := b.do(t, "POST", i.request(), f); p.location != nil || p.status != http.StatusUnprocessableEntity {
		t.Errorf("a workspace of another user: %d to %v", p.status, p.location)
	}
	if grants := must(i.registry.Grants(t.Context(), "", "")); len(grants) != 0 {
		t.Errorf("%+v", grants)
	}
}

// Other pages cannot embed the consent page in a frame. The page loads no other files, no cache stores it, and it escapes text
// that comes from apps.
func TestConsentPageHeadersAndEscaping(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
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

// RFC 9700, section 2.6: no page of another origin can read the consent page.
func TestOtherOriginsCannotReadTheConsentPage(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		p := b.do(t, method, i.request(), nil, "Origin", "https://planner.example", "Access-Control-Request-Method", "POST")
		for name := range p.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %v", method, p.header)
			}
		}
	}
}
