package pages_test

import (
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/console/pages"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/supabase"
)

func (f *fixture) tokens(t testing.TB) int {
	t.Helper()
	return storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.tokens`)
}

// A mistake is shown at its field, and the other input is kept. Nothing is created.
func TestMistakesInTheForm(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	for _, c := range []struct {
		change []string
		text   string
	}{
		{[]string{"name", ""}, "Give the token a name."},
		{[]string{"name", strings.Repeat("x", 101)}, "The name is longer than 100 characters."},
		{[]string{"scope", ""}, "Choose at least one scope."},
		{[]string{"scope", "inbox:read workspaces:list"}, `"workspaces:list" is not a scope for this kind of token`},
		{[]string{"scope", "admin:all"}, "Confirm that you want to give full access, or choose other scopes."},
		{[]string{"prefix", "vel_"}, "The prefix must be one of sk_live_, sk_test_."},
		{[]string{"expiry", ""}, "Choose when it expires."},
		{[]string{"expiry", "31"}, "Choose when it expires."},
		{[]string{"expiry", "date"}, "Choose a date."},
		{[]string{"expiry", "date", "date", "2026-02-30"}, "Choose a date."},
		{[]string{"expiry", "date", "date", "2020-01-01"}, "The expiry has already passed."},
		{[]string{"key", ""}, "The form was incomplete."},
	} {
		good := []string{"name", "Export", "scope", "inbox:read crm:read", "expiry", "365"}
		p := b.submit(t, tokensPath+"/new", append(good, c.change...)...)
		requirePage(t, p, http.StatusUnprocessableEntity, "Nothing was changed.", c.text)
		for _, kept := range []string{`name="name" value="Export"`, `value="crm:read" checked`, `value="365" checked`} {
			field, _, _ := strings.Cut(kept, " ")
			if changed := strings.Join(c.change, " "); p.status == http.StatusUnprocessableEntity && !strings.Contains(p.text, kept) &&
				!strings.Contains(changed, "name") && !strings.Contains(changed, "scope") && !strings.Contains(changed, "expiry") {
				t.Errorf("%v: the input %s is not kept", c.change, field)
			}
		}
		if c.text != "The form was incomplete." && !strings.Contains(html.UnescapeString(p.text), `<p class="mistake" id="mistake">`+c.text) {
			t.Errorf("%v: the field has no text: %s", c.change, p.text)
		}
	}
	if n := f.tokens(t); n != 0 {
		t.Errorf("%d tokens were created", n)
	}
}

func TestExpiry(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	tomorrow := time.Now().UTC().Add(24 * time.Hour)
	for expiry, want := range map[string]time.Duration{"30": 30 * 24 * time.Hour, "90": 90 * 24 * time.Hour, "365": 365 * 24 * time.Hour, "none": 0, "date": -1} {
		p := b.submit(t, tokensPath+"/new", "name", "Export", "scope", "inbox:read", "expiry", expiry, "date", tomorrow.Format(time.DateOnly))
		requirePage(t, p, http.StatusOK, "it will only be shown once")
		token := storetest.Must(f.TokenByDigest(t.Context(), authz.Secret(p.secret()).Digest()))
		switch {
		case want == 0:
			if token.ExpiresAt != nil {
				t.Errorf("none: %v", token.ExpiresAt)
			}
		case want < 0:
			if end := tomorrow.Truncate(24 * time.Hour).Add(24 * time.Hour); token.ExpiresAt == nil || !token.ExpiresAt.Equal(end) {
				t.Errorf("a date: %v instead of %v", token.ExpiresAt, end)
			}
		case token.ExpiresAt == nil || time.Until(*token.ExpiresAt) > want || time.Until(*token.ExpiresAt) < want-time.Minute:
			t.Errorf("%s: %v", expiry, token.ExpiresAt)
		}
	}
}

// The form offers only what the operator's limits allow, and the server refuses the rest.
func TestLimitsOfTheOperator(t *testing.T) {
	f := newFixture(t, func(c *pages.Config) {
		api := c.APIs["velaflows"]
		api.Rules.Limits.MaxLifetime = 100 * 24 * time.Hour
		api.Rules.Limits.OverrideRoles = []string{"owner"}
		c.APIs["velaflows"] = api
	})
	b := f.browser(f.velaflows, f.Ada)
	p := b.get(t, tokensPath+"/new")
	requirePage(t, p, http.StatusOK, "The longest lifetime is 100 days.", "1 scope is not listed, because you cannot give it", `value="90" checked`)
	for _, absent := range []string{`value="365"`, `value="none"`, "admin:all", "Full access"} {
		if strings.Contains(p.text, absent) {
			t.Errorf("the form offers %s", absent)
		}
	}
	requirePage(t, b.submit(t, tokensPath+"/new", "name", "x", "scope", "inbox:read", "expiry", "365"), http.StatusUnprocessableEntity, "at most 100 days")
	requirePage(t, b.submit(t, tokensPath+"/new", "name", "x", "scope", "inbox:read", "expiry", "none"), http.StatusUnprocessableEntity, "An expiry is required")
	requirePage(t, b.submit(t, tokensPath+"/new", "name", "x", "scope", "admin:all", "confirmed", "yes"), http.StatusUnprocessableEntity, "You cannot give the scopes admin:all")
	if n := f.tokens(t); n != 0 {
		t.Errorf("%d tokens were created", n)
	}
}

func TestOverrideScopeNeedsConfirmation(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	requirePage(t, b.get(t, tokensPath+"/new"), http.StatusOK, "Full access", "Use it sparingly.")
	p := b.submit(t, tokensPath+"/new", "name", "x", "scope", "admin:all", "confirmed", "yes")
	requirePage(t, p, http.StatusOK, "it will only be shown once", "admin:all")
}

func TestPresets(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		b            *userBrowser
		path, preset string
		want         string
	}{
		{f.browser(f.velaflows, f.Ada), tokensPath, "Read-only dashboard", "analytics:read contacts:read crm:read inbox:read"},
		{f.browser(f.velocity, f.Ada), keysPath, "Read-only", "documents:read issues:read projects:read workspace:read"},
		{f.browser(f.velocity, f.Ada), keysPath, "Read-write", "documents:read documents:write issues:read issues:write projects:read projects:write workspace:read"},
		{f.browser(f.velocity, f.Bob), personalPath, "Read-only", "user:read documents:read issues:read projects:read workspace:read"},
		{f.browser(f.velaflows, f.Ada), tokensPath, "unheard-of", ""},
	} {
		p := c.b.get(t, c.path+"/new?"+url.Values{"preset": {c.preset}}.Encode())
		if got := strings.Join(p.form()["scope"], " "); got != c.want {
			t.Errorf("%s, %s: %q", c.path, c.preset, got)
		}
	}
}

// A form that is sent twice creates one token: after a double click, a reload, or the back button. Two tabs create two tokens.
func TestFormSentTwice(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	form := b.get(t, tokensPath+"/new").form("name", "Export", "scope", "inbox:read")
	first := b.do(t, http.MethodPost, tokensPath+"/new", form)
	requirePage(t, first, http.StatusOK, "it will only be shown once")
	token := storetest.Must(f.TokenByDigest(t.Context(), authz.Secret(first.secret()).Digest()))
	second := b.do(t, http.MethodPost, tokensPath+"/new", form)
	requirePage(t, second, http.StatusOK, "was already created", "cannot be shown again", token.Prefix, "/"+token.ID+"/rotate", "/"+token.ID+"/revoke")
	if second.secret() != "" || strings.Contains(second.text, first.secret()) {
		t.Error("the secret is shown twice")
	}
	form.Set("name", "Other")
	other := b.do(t, http.MethodPost, tokensPath+"/new", form)
	requirePage(t, other, http.StatusConflict, "already sent with other values", `value="Other"`)
	if n := f.tokens(t); n != 1 {
		t.Errorf("%d tokens", n)
	}
	requirePage(t, b.do(t, http.MethodPost, tokensPath+"/new", other.form()), http.StatusOK, "it will only be shown once", "Other")
	tabs := []page{b.get(t, tokensPath+"/new"), b.get(t, tokensPath+"/new")}
	for _, tab := range tabs {
		requirePage(t, b.do(t, http.MethodPost, tokensPath+"/new", tab.form("name", "Tab", "scope", "inbox:read")), http.StatusOK, "it will only be shown once")
	}

	rotate := b.get(t, tokensPath+"/"+token.ID+"/rotate").form("overlap", "0s")
	requirePage(t, b.do(t, http.MethodPost, tokensPath+"/"+token.ID+"/rotate", rotate), http.StatusOK, "it will only be shown once", "no longer works")
	requirePage(t, b.do(t, http.MethodPost, tokensPath+"/"+token.ID+"/rotate", rotate), http.StatusOK, "was already created")
	if n := f.tokens(t); n != 5 {
		t.Errorf("%d tokens", n)
	}
}

// forms returns each form of the pages, filled in, with the path to which a browser sends it.
func (f *fixture) forms(t testing.TB, b *userBrowser) map[string]url.Values {
	t.Helper()
	created := b.submit(t, tokensPath+"/new", "name", "Existing", "scope", "inbox:read")
	token := storetest.Must(f.TokenByDigest(t.Context(), authz.Secret(created.secret()).Digest()))
	forms := map[string]url.Values{}
	for _, sub := range []string{"/new", "/" + token.ID + "/rotate", "/" + token.ID + "/revoke"} {
		forms[tokensPath+sub] = b.get(t, tokensPath+sub).form("name", "Forged", "scope", "inbox:read")
	}
	return forms
}

func (f *fixture) state(t testing.TB) string {
	t.Helper()
	return storetest.Value[string](t, f.DB, `SELECT count(*) || ' ' || count(revoked_at) || ' ' || count(expires_at) FROM keywicket.tokens`)
}

// A form works only with the proof of the user's browser, and only if no other site has sent it.
func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	forms := f.forms(t, b)
	for _, path := range slices.Backward(slices.Sorted(maps.Keys(forms))) { // the revocation is the last one
		form, before := forms[path], f.state(t)
		without := func(field, value string) url.Values {
			changed := url.Values{}
			for k, v := range form {
				changed[k] = v
			}
			changed.Set(field, value)
			return changed
		}
		for _, c := range []struct {
			what   string
			form   url.Values
			header []string
			status int
			text   string
		}{
			{"from another site", form, []string{"Sec-Fetch-Site", "cross-site"}, 403, "not sent from this server's page"},
			{"from a sibling host", form, []string{"Sec-Fetch-Site", "same-site"}, 403, "not sent from this server's page"},
			{"from another origin, by an old browser", form, []string{"Sec-Fetch-Site", "", "Origin", "https://evil.example"}, 403, "not sent from this server's page"},
			{"from a sandboxed frame", form, []string{"Sec-Fetch-Site", "", "Origin", "null"}, 403, "not sent from this server's page"},
			{"with a guessed proof, from another site", without("proof", "guessed"), []string{"Sec-Fetch-Site", "cross-site"}, 403, "not sent from this server's page"},
			{"without a proof, by a program", without("proof", ""), []string{"Sec-Fetch-Site", ""}, 403, "not sent from this server's page"},
			{"with an outdated proof", without("proof", "outdated"), nil, 409, "this page was outdated"},
		} {
			requirePage(t, b.do(t, http.MethodPost, path, c.form, c.header...), c.status, c.text)
			if after := f.state(t); after != before {
				t.Errorf("%s, %s: the tokens have changed from %s to %s", path, c.what, before, after)
			}
		}
		// The page that says that the form was outdated has a form that works, with the input of the user.
		p := b.do(t, http.MethodPost, path, without("proof", "outdated"))
		if again := b.do(t, http.MethodPost, path, p.form()); again.status != http.StatusOK && again.status != http.StatusSeeOther {
			t.Errorf("%s: the form does not work: %d %s", path, again.status, again.text)
		}
	}
}

// The session ends while the user fills in a form. Nothing changes, and the user gets to the sign-in page and back to the form.
func TestSessionEndsInMidForm(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	for path, form := range f.forms(t, b) {
		before := f.state(t)
		for what, change := range map[string]supabase.Fields{"expired": {"exp": 1}, "revoked": {"session_id": "over"}, "of an app": {"client_id": "x"}} {
			storetest.Must(f.RevokeSession(t.Context(), "over"))
			b.signIn(f.Ada.ID, change)
			p := b.do(t, http.MethodPost, path, form)
			back := url.QueryEscape(f.velaflows.URL + path + "?returned=1")
			requirePage(t, p, http.StatusForbidden, "Your session has ended, so nothing was changed.", `href="https://product.example/login?from=settings&return_to=`+back+`"`)
			if p := b.get(t, path); p.status != http.StatusSeeOther || p.location != "https://product.example/login?from=settings&return_to="+back {
				t.Errorf("%s, %s: %d to %s", path, what, p.status, p.location)
			}
			requirePage(t, b.get(t, path+"?returned=1"), http.StatusForbidden, "your account is not known here", "Sign in again")
		}
		if after := f.state(t); after != before {
			t.Errorf("%s: the tokens have changed from %s to %s", path, before, after)
		}
		b.signIn(f.Ada.ID, nil)
		requirePage(t, b.get(t, path+"?returned=1"), http.StatusOK)
	}
}

// Another user signs in while the form is open.
func TestAnotherUserSignsInInMidForm(t *testing.T) {
	f := newFixture(t)
	storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, "owner"))
	b := f.browser(f.velaflows, f.Ada)
	for path, form := range f.forms(t, b) {
		before := f.state(t)
		b.signIn(f.Bob.ID, nil)
		p := b.do(t, http.MethodPost, path, form)
		requirePage(t, p, http.StatusConflict, "you are now signed in as <bdi>bob@example.com</bdi>")
		if after := f.state(t); after != before || strings.Contains(p.text, "Forged") {
			t.Errorf("%s: the tokens have changed from %s to %s: %s", path, before, after, p.text)
		}
		b.signIn(f.Ada.ID, nil)
	}
}

func TestSecondFactor(t *testing.T) {
	f := newFixture(t, func(c *pages.Config) {
		api := c.APIs["velaflows"]
		api.Sessions.RequireAAL2 = authz.SecondFactorAlways
		c.APIs["velaflows"] = api
	})
	b := f.browser(f.velaflows, f.Ada)
	if p := b.get(t, tokensPath); p.status != http.StatusSeeOther || !strings.Contains(p.location, "acr_values=aal2") {
		t.Errorf("%d to %s", p.status, p.location)
	}
	requirePage(t, b.get(t, tokensPath+"?returned=1"), http.StatusForbidden, "without a second factor", "acr_values=aal2")
	b.signIn(f.Ada.ID, supabase.Fields{"aal": "aal2"})
	requirePage(t, b.get(t, tokensPath), http.StatusOK)
}

// Users without the right see a sentence, and nothing more. Nobody reaches the tokens of others.
func TestUsersWithoutRights(t *testing.T) {
	f := newFixture(t)
	b := f.browser(f.velaflows, f.Ada)
	var paths []string
	for path := range f.forms(t, b) {
		paths = append(paths, path)
	}
	personal := storetest.Must(f.Tokens(t.Context(), registryFilter(f.Acme.ID)))[0]
	for _, role := range []string{"member", "guest", "unheard-of"} {
		storetest.Must(f.SetMember(t.Context(), "acme", f.Bob.ID, role))
		bob := f.browser(f.velaflows, f.Bob)
		requirePage(t, bob.get(t, tokensPath), http.StatusOK, "You cannot see or create the tokens of", "your role in this workspace is", role)
		if p := bob.get(t, tokensPath); strings.Contains(p.text, "Existing") {
			t.Error("the page shows the tokens")
		}
		for _, path := range paths {
			p := bob.get(t, path)
			if p.status != http.StatusForbidden || strings.Contains(p.text, "Existing") {
				t.Errorf("%s, %s: %d %s", role, path, p.status, p.text)
			}
			bobs := b.get(t, path).form("name", "Forged", "scope", "inbox:read", "user", f.Bob.ID)
			bob.cookies["keywicket_console"] = bobs.Get("proof")
			before := f.state(t)
			requirePage(t, bob.do(t, http.MethodPost, path, bobs), http.StatusForbidden, "You cannot do this")
			if after := f.state(t); after != before {
				t.Errorf("%s, %s: %s to %s", role, path, before, after)
			}
		}
	}
	// An owner of another workspace does not reach the tokens by their id.
	storetest.Must(f.SetMember(t.Context(), "globex", f.Bob.ID, "owner"))
	bob := f.browser(f.velaflows, f.Bob)
	for _, sub := range []string{"/rotate", "/revoke"} {
		requirePage(t, bob.get(t, tokensPath+"/"+personal.ID+sub+"?workspace=globex"), http.StatusNotFound, "There is no such token here.")
		requirePage(t, f.browser(f.velocity, f.Ada).get(t, personalPath+"/"+personal.ID+sub), http.StatusNotFound, "There is no such token here.")
	}
	for path, text := range map[string]string{"?workspace=acmee": "There is no such workspace", "?workspace=globex": "There are no tokens yet."} {
		p := bob.get(t, tokensPath+path)
		if !strings.Contains(p.text, text) {
			t.Errorf("%s: %d %s", path, p.status, p.text)
		}
	}
}

func TestAddressLimit(t *testing.T) {
	f := newFixture(t, func(c *pages.Config) { c.AddressLimit = 3 })
	b := f.browser(f.velaflows, f.Ada)
	var statuses []string
	for range 4 {
		p := b.get(t, tokensPath)
		statuses = append(statuses, fmt.Sprint(p.status, " ", p.header.Get("Retry-After") != ""))
	}
	if got := strings.Join(statuses, ", "); got != "200 false, 200 false, 200 false, 429 true" {
		t.Error(got)
	}
}
