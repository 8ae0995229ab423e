package oauth_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/test/supabase"
)

// The consent page does not accept an app's token as a session, so an app cannot approve its own request.
func TestAppCannotActAsUserOnTheConsentPage(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	form := b.do(t, "GET", i.request(), nil).form("approve", i.acme.ID)
	for name, change := range map[string]supabase.Fields{
		"an app":              {"client_id": "9a8b7c6d-5e4f-3a2b-1c0d-9e8f7a6b5c4d", "scope": "openid email"},
		"an authorized party": {"azp": "9a8b7c6d-5e4f-3a2b-1c0d-9e8f7a6b5c4d"},
		"an actor":            {"act": supabase.Fields{"sub": "app"}},
	} {
		b.signIn(i.ada.ID, change)
		for method, body := range map[string]url.Values{"GET": nil, "POST": form} {
			p := b.do(t, method, i.request(), body)
			if p.status != http.StatusSeeOther || p.location.Path != "/login" || strings.Contains(p.text, i.ada.Email) {
				t.Errorf("%s, %s: %d to %v: %s", name, method, p.status, p.location, p.text)
			}
		}
		if p := b.do(t, "GET", i.request("returned", "1"), nil); p.status != http.StatusForbidden || strings.Contains(p.text, i.ada.Email) {
			t.Errorf("%s, after the sign-in: %d %s", name, p.status, p.text)
		}
	}
	if grants := must(i.registry.Grants(t.Context(), i.public.ID, i.ada.ID)); len(grants) != 0 {
		t.Errorf("the grants are %+v", grants)
	}
	b.signIn(i.ada.ID, nil)
	if q := expectRedirect(t, b.do(t, "POST", i.request(), form)); q.Get("code") == "" {
		t.Errorf("with the user's own session: %v", q)
	}
}

// If sessions need a second factor, the consent page also requires a second factor. Without this rule, a user could grant an
// app more than the user's own session permits.
func TestConsentNeedsTheSecondFactor(t *testing.T) {
	for _, c := range []struct {
		require      authz.SecondFactor
		aal          string
		enrolled     bool
		consentShown bool
	}{
		{authz.SecondFactorNever, "aal1", true, true},
		{authz.SecondFactorAlways, "aal1", false, false},
		{authz.SecondFactorAlways, "aal2", false, true},
		{authz.SecondFactorEnrolled, "aal1", false, true},
		{authz.SecondFactorEnrolled, "aal1", true, false},
		{authz.SecondFactorEnrolled, "aal2", true, true},
	} {
		i := newFixture(t, func(o *oauth.Config) { o.Sessions.RequireAAL2 = c.require })
		must(i.db.Exec(`UPDATE keywicket.users SET mfa_enrolled = $1`, c.enrolled))
		b := i.browser()
		b.signIn(i.ada.ID, supabase.Fields{"aal": c.aal})
		p := b.do(t, "GET", i.request(), nil)
		if c.consentShown {
			if p.status != http.StatusOK {
				t.Errorf("%+v: %d to %v", c, p.status, p.location)
			}
			continue
		}
		if p.status != http.StatusSeeOther || p.location.Path != "/login" || p.location.Query().Get("acr_values") != "aal2" ||
			!strings.Contains(p.location.Query().Get("return_to"), "/oauth/consent?") {
			t.Errorf("%+v: %d to %v", c, p.status, p.location)
		}
		back := b.do(t, "GET", i.request("returned", "1"), nil)
		if back.status != http.StatusForbidden || !strings.Contains(back.text, "without a second factor") || !strings.Contains(back.text, "acr_values=aal2") {
			t.Errorf("%+v: after the sign-in: %d %s", c, back.status, back.text)
		}
		// The user opens the form in a session with a second factor. In a session without a second factor, the server refuses
		// this form.
		b.signIn(i.ada.ID, supabase.Fields{"aal": "aal2"})
		form := b.do(t, "GET", i.request(), nil).form("approve", i.acme.ID)
		b.signIn(i.ada.ID, supabase.Fields{"aal": c.aal})
		if p := b.do(t, "POST", i.request(), form); p.status != http.StatusSeeOther || p.location.Path != "/login" {
			t.Errorf("%+v: an approval: %d to %v", c, p.status, p.location)
		}
		if grants := must(i.registry.Grants(t.Context(), i.public.ID, i.ada.ID)); len(grants) != 0 {
			t.Errorf("%+v: the grants are %+v", c, grants)
		}
	}
}

// A banned user counts as not signed in on the consent page.
func TestBannedUserSeesNoConsentPage(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	must(i.db.Exec(`UPDATE keywicket.users SET banned_until = $1`, time.Now().Add(time.Hour)))
	if p := b.do(t, "GET", i.request(), nil); p.status != http.StatusSeeOther || p.location.Path != "/login" {
		t.Errorf("%d to %v", p.status, p.location)
	}
	must(i.db.Exec(`UPDATE keywicket.users SET banned_until = $1`, time.Now().Add(-time.Hour)))
	if p := b.do(t, "GET", i.request(), nil); p.status != http.StatusOK {
		t.Errorf("after the ban: %d to %v", p.status, p.location)
	}
}
