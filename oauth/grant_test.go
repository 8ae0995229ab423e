package oauth_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
)

// RFC 6749, sections 4.1.2 and 10.4; RFC 9700, section 4.14.2: the second use of a code or a refresh token revokes the grant
// and all its tokens. It does not matter which app sends the second request. The tokens here have a used successor, so a reuse
// window makes no difference.
func TestReuseEndsTheGrant(t *testing.T) {
	for _, window := range []time.Duration{0, 10 * time.Second} {
		t.Run(window.String(), func(t *testing.T) {
			testReuseEndsTheGrant(t, newFixture(t, func(c *oauth.Config) { c.ReuseWindow = window }))
		})
	}
}

func testReuseEndsTheGrant(t *testing.T, i *fixture) {
	t.Helper()
	stranger, _ := i.app(t, false)
	for name, reuse := range map[string]func(exchange, refresh form) form{
		"a code":                              func(exchange, _ form) form { return exchange },
		"a code, by another app":              func(exchange, _ form) form { return exchange.withValue("client_id", stranger.ID) },
		"a code, with a wrong verifier":       func(exchange, _ form) form { return exchange.withValue("code_verifier", strings.Repeat("v", 43)) },
		"a refresh token":                     func(_, refresh form) form { return refresh },
		"a refresh token, by another app":     func(_, refresh form) form { return refresh.withValue("client_id", stranger.ID) },
		"a refresh token, with another scope": func(_, refresh form) form { return refresh.withValue("scope", "made-up") },
	} {
		exchange := i.exchangeForm(t, i.public)
		issued := []response{i.send(t, "/api/oauth/token", exchange)}
		refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID}
		for range 2 {
			issued = append(issued, i.send(t, "/api/oauth/token", refresh.withValue("refresh_token", issued[len(issued)-1].text("refresh_token"))))
		}
		other := i.tokens(t) // another grant of the same app and user
		r := i.send(t, "/api/oauth/token", reuse(exchange, refresh.withValue("refresh_token", issued[0].text("refresh_token"))))
		if r.status != http.StatusBadRequest || r.text("error") != "invalid_grant" {
			t.Errorf("%s: %+v", name, r)
		}
		for _, r := range issued {
			if _, err := i.Introspect(t.Context(), authz.Secret(r.text("access_token"))); err == nil {
				t.Errorf("%s: an access token is still active: %+v", name, r)
			}
		}
		if r := i.send(t, "/api/oauth/token", refresh.withValue("refresh_token", issued[2].text("refresh_token"))); r.text("error") != "invalid_grant" {
			t.Errorf("%s: the last refresh token is still valid: %+v", name, r)
		}
		if _, err := i.Introspect(t.Context(), authz.Secret(other.text("access_token"))); err != nil {
			t.Errorf("%s: another grant was revoked: %v", name, err)
		}
	}
}

// RFC 7636, section 4.4; RFC 9700, sections 4.5.3.1 and 4.8.2; RFC 6749, section 10.6: a code is valid only with the
// parameters of its authorization request. Without a challenge, no code is issued.
func TestCodesAreBoundToTheirRequest(t *testing.T) {
	i := newFixture(t)
	const otherVerifier = "another-verifier-of-another-browser-at-the-same-app"
	sum := sha256.Sum256([]byte(otherVerifier))
	approval := issuer.Approval{Client: i.public.ID, User: i.ada.ID, Scopes: []string{"issues:read"},
		RedirectURI: "http://127.0.0.1:51004/cb", Challenge: base64.RawURLEncoding.EncodeToString(sum[:])}
	validRequest := form{"grant_type": "authorization_code", "client_id": i.public.ID, "redirect_uri": approval.RedirectURI, "code_verifier": otherVerifier}
	for name, c := range map[string]struct {
		request form
		status  int
	}{
		"the same request":       {validRequest, 200},
		"another verifier":       {validRequest.withValue("code_verifier", verifier), 400},
		"the challenge itself":   {validRequest.withValue("code_verifier", approval.Challenge), 400},
		"no verifier":            {validRequest.withValue("code_verifier", ""), 400},
		"another port":           {validRequest.withValue("redirect_uri", "http://127.0.0.1:51005/cb"), 400},
		"no port":                {validRequest.withValue("redirect_uri", "http://127.0.0.1/cb"), 400},
		"another registered URI": {validRequest.withValue("redirect_uri", callback), 400},
	} {
		code := must(i.Approve(t.Context(), approval)).Code
		if r := i.send(t, "/api/oauth/token", c.request.withValue("code", code.Reveal())); r.status != c.status {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// RFC 7636, section 4.1: a verifier has 43 to 128 unreserved characters.
	const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	long := unreserved + unreserved[:62]
	for codeVerifier, status := range map[string]int{
		long[:42]: 400, long[:43]: 200, long[23:66]: 200, long: 200, long + "A": 400, long[:43] + "+": 400, long[:43] + "=": 400, long[:43] + "é": 400, long[:43] + " ": 400,
	} {
		sum := sha256.Sum256([]byte(codeVerifier))
		approval.Challenge = base64.RawURLEncoding.EncodeToString(sum[:])
		code := must(i.Approve(t.Context(), approval)).Code
		if r := i.send(t, "/api/oauth/token", validRequest.withValue("code_verifier", codeVerifier).withValue("code", code.Reveal())); r.status != status {
			t.Errorf("the verifier %s: %+v", codeVerifier, r)
		}
	}
	for name, challenge := range map[string]string{"none": "", "plain": otherVerifier, "too long": approval.Challenge + "A", "with +, which base64url does not have": approval.Challenge[1:] + "+"} {
		approval.Challenge = challenge
		if approved, err := i.Approve(t.Context(), approval); err == nil || approved.Code != "" {
			t.Errorf("the server issued a code for a challenge (%s)", name)
		}
	}
}

// RFC 6749, section 10.10: an issued value has at least 160 random bits.
func TestIssuedValuesCannotBeGuessed(t *testing.T) {
	i := newFixture(t)
	const base32 = `^[A-Z2-7]{52}$` // 260 bits
	texts := map[string][]string{}
	for range 32 {
		app, secret := i.app(t, true)
		exchange := i.exchangeForm(t, app).withValue("client_secret", secret.Reveal())
		r := i.send(t, "/api/oauth/token", exchange)
		texts["secret"] = append(texts["secret"], secret.Reveal())
		texts["code"] = append(texts["code"], exchange["code"])
		texts["refresh token"] = append(texts["refresh token"], r.text("refresh_token"))
		texts["access token"] = append(texts["access token"], strings.TrimPrefix(r.text("access_token"), "velo_"))
	}
	for what, form := range map[string]string{"secret": base32, "code": base32, "refresh token": base32, "access token": `^[0-9A-Za-z]{38}$`} { // 190 bits and a checksum
		for _, text := range texts[what] {
			if matched := must(regexp.MatchString(form, text)); !matched {
				t.Fatalf("a %s is %s", what, text)
			}
		}
		for position := range 32 { // the first 32 characters are random: a checksum follows after them
			characters := map[byte]bool{}
			for _, text := range texts[what] {
				characters[text[position]] = true
			}
			if len(characters) < 8 { // 32 random characters from an alphabet of at least 32 contain about 20 different characters
				t.Errorf("32 values of the kind %q have only %d different characters at position %d", what, len(characters), position)
			}
		}
	}
}

// RFC 6749, sections 10.3 and 10.4: nothing in the database can be used as a credential.
func TestStoredDigestIsNoCredential(t *testing.T) {
	i := newFixture(t)
	exchange := i.exchangeForm(t, i.confidential).withValue("client_secret", i.confidentialSecret.Reveal())
	r := i.send(t, "/api/oauth/token", exchange)
	var tables []string
	if err := i.db.Select(&tables, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'keywicket'`); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, table := range tables {
		var rows []string
		if err := i.db.Select(&rows, `SELECT t::text FROM `+table+` t`); err != nil {
			t.Fatal(err)
		}
		all.WriteString(strings.Join(rows, "\n"))
	}
	if !strings.Contains(all.String(), i.confidential.ID) || !strings.Contains(all.String(), "issues:write") {
		t.Fatalf("the dump is not complete: %s", all.String())
	}
	for what, secret := range map[string]string{
		"code": exchange["code"], "secret": exchange["client_secret"], "access token": r.text("access_token"), "refresh token": r.text("refresh_token"), "verifier": verifier,
	} {
		if secret == "" || strings.Contains(all.String(), secret) || strings.Contains(all.String(), fmt.Sprintf("%x", secret)) {
			t.Errorf("the %s is stored", what)
		}
	}
}

// RFC 6749, section 4.1.2: a code expires within ten minutes. This server's codes expire after one minute. RFC 6749, section 5.1:
// expires_in equals the lifetime of the access token.
func TestLifetimes(t *testing.T) {
	i := newFixture(t)
	r := i.tokens(t)
	for table, want := range map[string]float64{"oauth_codes": 60, "oauth_access_tokens": 3600, "oauth_refresh_tokens": 30 * 24 * 3600} {
		var left float64
		if err := i.db.Get(&left, `SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM keywicket.`+table); err != nil {
			t.Fatal(err)
		}
		if left > want || left < want-60 {
			t.Errorf("%s: %.0f of %.0f seconds are left", table, left, want)
		}
	}
	if r.body["expires_in"] != 3600.0 {
		t.Errorf("%+v", r)
	}
	code := i.exchangeForm(t, i.public)
	if _, err := i.db.Exec(`UPDATE keywicket.oauth_codes SET expires_at = clock_timestamp() WHERE used_at IS NULL`); err != nil {
		t.Fatal(err)
	}
	if r := i.send(t, "/api/oauth/token", code); r.text("error") != "invalid_grant" {
		t.Errorf("a code that has expired: %+v", r)
	}
}

// RFC 7662, sections 2.2 and 4: introspection checks every reason for which a token can be invalid. The response for an invalid
// token contains only the field "active", which is false.
func TestInvalidTokensAreNotActive(t *testing.T) {
	i := newFixture(t)
	credentials := basic(i.public.ID, i.publicSecret.Reveal())
	introspect := func(f form) response { return i.send(t, "/api/oauth/introspect", f, "Authorization", credentials) }
	for name, invalidate := range map[string]func(r response, code form){
		"the token has expired": func(response, form) {
			must(i.db.Exec(`UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp()`))
		},
		"the token was revoked": func(r response, _ form) {
			i.send(t, "/api/oauth/revoke", form{"client_id": i.public.ID, "token": r.text("access_token")})
		},
		"the refresh token was revoked": func(r response, _ form) {
			i.send(t, "/api/oauth/revoke", form{"client_id": i.public.ID, "token": r.text("refresh_token")})
		},
		"the grant was revoked": func(response, form) {
			newest := must(i.registry.Grants(t.Context(), "", ""))[0]
			must(i.registry.RevokeGrant(t.Context(), newest.ID))
		},
		"the code was used a second time": func(_ response, code form) { i.send(t, "/api/oauth/token", code) },
		"the user was deleted": func(response, form) {
			must(i.db.Exec(`DELETE FROM keywicket.users`))
			i.ada = must(i.registry.CreateUser(t.Context(), registry.User{Email: "ada@example.com"}))
			must(i.registry.SetMember(t.Context(), "acme", i.ada.ID, "member"))
		},
	} {
		code := i.exchangeForm(t, i.public)
		r := i.send(t, "/api/oauth/token", code)
		for _, hint := range []string{"", "access_token", "refresh_token", "made-up"} { // section 2.1: the server finds the token even with a wrong hint
			if found := introspect(form{"token": r.text("access_token"), "token_type_hint": hint}); found.body["active"] != true {
				t.Errorf("before the case %q, with the hint %q: %+v", name, hint, found)
			}
		}
		invalidate(r, code)
		if found := introspect(form{"token": r.text("access_token")}); found.status != http.StatusOK || len(found.body) != 1 || found.body["active"] != false {
			t.Errorf("%s: %+v", name, found)
		}
	}
	for name, header := range map[string]string{
		"a wrong secret": basic(i.public.ID, "guessed"), "another app's secret": basic(i.public.ID, i.confidentialSecret.Reveal()), "an unknown app": basic("nobody", "x"),
		"a token": "Bearer " + i.tokens(t).text("access_token"),
	} {
		r := i.send(t, "/api/oauth/introspect", form{"token": "x"}, "Authorization", header)
		if r.status != http.StatusUnauthorized || r.text("error") != "invalid_client" || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
