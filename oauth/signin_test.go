package oauth_test

import (
	"encoding/base64"
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/supabase"
)

// A user who is not signed in is redirected to the sign-in page, and returns to the same request after signing in.
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
	revoked := i.browser()
	revoked.signIn(i.ada.ID, supabase.Fields{"session_id": "over"})
	nobody := i.browser()
	nobody.signIn("nobody", nil)
	for what, c := range map[string]struct {
		cookie   string
		signedIn bool
	}{
		"the token itself":          {name + "=" + token, true},
		"base64":                    {name + "=" + encoded, true},
		"base64, padded":            {name + "=base64-" + base64.URLEncoding.EncodeToString([]byte(object+" ")), true},
		"encoded for a URL":         {name + "=" + url.PathEscape(object), true},
		"a list":                    {name + "=" + url.QueryEscape(`["`+token+`","r",null]`), true},
		"in two cookies":            {name + ".0=" + encoded[:cut] + "; " + name + ".1=" + encoded[cut:], true},
		"in two cookies, unordered": {name + ".1=" + encoded[cut:] + "; " + name + ".0=" + encoded[:cut], true},
		// The next five cases have the same result as combineChunks of @supabase/ssr: an empty cookie counts as absent.
		"empty, beside two parts":  {name + "=; " + name + ".0=" + encoded[:cut] + "; " + name + ".1=" + encoded[cut:], true},
		"quoted and empty":         {name + `=""; ` + name + ".0=" + encoded, true},
		"an empty part at the end": {name + ".0=" + encoded + "; " + name + ".1=; " + name + ".2=stale", true},
		"an empty first part":      {name + ".0=; " + name + ".1=" + encoded, false},
		"beside stale parts":       {name + "=" + encoded + "; " + name + ".0=stale", true},
		"none":                     {"", false},
		"empty":                    {name + "=", false},
		"another cookie name":      {"sb-other-auth-token=" + token, false},
		"only the second part":     {name + ".1=" + encoded, false},
		"broken base64":            {name + "=base64-!", false},
		"an empty list":            {name + "=[]", false},
		"a list of numbers":        {name + "=[1]", false},
		"an expired session":       {expired.session, false},
		"a revoked session":        {revoked.session, false},
		"an unknown user":          {nobody.session, false},
		"a forged token":           {name + "=" + token[:len(token)-4] + "AAAA", false},
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
		// The sign-in page may accept a session that the issuer rejects. To prevent a redirect loop, the issuer then responds with
		// 403 and a link to the sign-in page.
		again := b.do(t, "GET", i.request()+"&returned=1", nil)
		if again.status != http.StatusForbidden || again.location != nil ||
			!strings.Contains(html.UnescapeString(again.text), `<a href="`+p.location.String()+`">Sign in again</a>`) {
			t.Errorf("%s, after the sign-in: %d to %v: %s", what, again.status, again.location, again.text)
		}
		if p := b.do(t, "POST", i.request(), url.Values{"decision": {"approve"}}); p.location == nil || p.location.Path != "/login" {
			t.Errorf("%s, approving: %d to %v", what, p.status, p.location)
		}
	}
}

// RFC 9700, section 4.11.2: the server redirects the user to the app only if the user is signed in. This rule applies to error
// responses too.
func TestRedirectNeedsASignedInUser(t *testing.T) {
	i := newFixture(t)
	b := i.browser()
	for _, query := range []string{
		i.request("scope", "made-up"), i.request("response_type", "token"), i.request("code_challenge", ""), i.request() + "&state=another", i.request("request", "x"),
	} {
		for _, method := range []string{"GET", "POST"} {
			p := b.do(t, method, query, url.Values{"decision": {"deny"}})
			if p.status != http.StatusSeeOther || p.location.Host+p.location.Path != "velocity.quest/login" {
				t.Errorf("%s %s: %d to %v", method, query, p.status, p.location)
			}
		}
	}
}
