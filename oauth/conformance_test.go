package oauth_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/testnames"
	"github.com/keywicket/keywicket/oauth"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
)

// Every row of conformance.md names a test, and all these tests exist.
func TestConformanceNamesTests(t *testing.T) {
	text, err := os.ReadFile("conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(line, "|\n"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(cells[0], "-") || cells[0] == " section " {
			continue
		}
		rows++
		if named := testnames.In(cells[len(cells)-1]); len(cells) == 3 && len(named) > 0 {
			names = append(names, named...)
		} else {
			t.Errorf("names no test: %s", line)
		}
	}
	if rows < 100 {
		t.Errorf("only %d rows were found", rows)
	}
	missing, err := testnames.Missing("..", names)
	if err != nil || len(missing) > 0 {
		t.Errorf("there is no %v, %v", missing, err)
	}
}

// RFC 6749, sections 3.1 and 3.2, for every endpoint: a parameter without a value counts as absent, and an unknown one is
// ignored.
func TestParametersThatSayNothing(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	const more = "&state=&request=&request_uri=&nonce=n&prompt=&made_up=1"
	p := b.do(t, "GET", i.request("state", "")+more, nil)
	p = b.do(t, "POST", i.request("state", "")+more, p.form("approve", i.acme.ID))
	if p.location == nil || !p.location.Query().Has("code") || p.location.Query().Has("state") {
		t.Errorf("%d to %v", p.status, p.location)
	}
	for _, name := range []string{"response_type", "scope", "code_challenge", "code_challenge_method"} {
		without := answered(t, b.do(t, "GET", i.request(name, ""), nil))
		empty := answered(t, b.do(t, "GET", i.request(name, "")+"&"+name+"=", nil))
		if !without.Has("error") || !reflect.DeepEqual(without, empty) {
			t.Errorf("%s: %v, and empty: %v", name, without, empty)
		}
	}
	for _, name := range []string{"client_id", "redirect_uri"} {
		if p := b.do(t, "GET", i.request(name, "")+"&"+name+"=", nil); p.status != http.StatusBadRequest || p.location != nil {
			t.Errorf("%s: %d to %v", name, p.status, p.location)
		}
	}

	token := i.tokens(t)
	secret := i.publicSecret.Reveal()
	refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": token.text("refresh_token")}
	introspect := form{"client_id": i.public.ID, "client_secret": secret, "token": token.text("access_token")}
	for _, c := range []struct {
		what, path string
		needs      form
	}{
		{"a code", "/api/oauth/token", i.exchange(t, i.public)},
		{"introspection", "/api/oauth/introspect", introspect},
		{"a refresh token", "/api/oauth/token", refresh},
		{"revocation", "/api/oauth/revoke", form{"client_id": i.public.ID, "token": token.text("access_token")}},
	} {
		for name := range c.needs {
			rest := maps.Clone(c.needs)
			delete(rest, name)
			without, empty := i.send(t, c.path, rest), i.send(t, c.path, c.needs.with(name, ""))
			if without.status == http.StatusOK || without.status != empty.status || !reflect.DeepEqual(without.body, empty.body) {
				t.Errorf("%s without %s: %+v, and empty: %+v", c.what, name, without, empty)
			}
		}
		silent := c.needs.with("made_up", "1").with("made_up_too", "").with("scope", "").with("token_type_hint", "")
		if c.needs["client_secret"] == "" {
			silent = silent.with("client_secret", "")
		}
		if r := i.send(t, c.path, silent); r.status != http.StatusOK || r.body["active"] == false {
			t.Errorf("%s, with what says nothing: %+v", c.what, r)
		}
	}
	object, _ := json.Marshal(i.exchange(t, i.public).with("made_up", "1").with("client_secret", ""))
	if r := i.post(t, "/api/oauth/token", "application/json", string(object[:len(object)-1])+`, "scope": null}`); r.status != http.StatusOK {
		t.Errorf("JSON: %+v", r)
	}
}

// RFC 6749, section 3.2, and RFC 7009, section 5, for every endpoint of apps.
func TestParametersThatAreTooMany(t *testing.T) {
	i := newFixture(t)
	const formType = "application/x-www-form-urlencoded"
	text := "grant_type=refresh_token&refresh_token=x&token=x&client_id=" + i.confidential.ID + "&client_secret=" + i.confidentialSecret.Reveal()
	for _, path := range []string{"/api/oauth/token", "/api/oauth/revoke", "/api/oauth/introspect"} {
		for what, more := range map[string]string{
			"twice": "&client_id=" + i.confidential.ID, "twice, and empty": "&client_secret=", "unknown, and twice": "&a=1&a=1", "too long": "&a=" + strings.Repeat("x", 16<<10),
		} {
			if r := i.post(t, path, formType, text+more); r.status != http.StatusBadRequest || r.text("error") != "invalid_request" {
				t.Errorf("%s: %s: %+v", path, what, r)
			}
		}
		if r := i.post(t, path, formType, text); r.text("error") == "invalid_request" {
			t.Errorf("%s: %+v", path, r)
		}
	}
}

// RFC 6749, sections 2.3.1 and 3.2: parameters are read only from the body of a POST, because URLs are logged on
// the way.
func TestAddressesOfRequestsAreNotRead(t *testing.T) {
	i := newFixture(t)
	whole := i.exchange(t, i.confidential).with("client_secret", i.confidentialSecret.Reveal())
	query := func(f form) string {
		values := url.Values{}
		for name, value := range f {
			values.Set(name, value)
		}
		return "?" + values.Encode()
	}
	introspect := form{"client_id": i.confidential.ID, "client_secret": whole["client_secret"], "token": "x"}
	for path, f := range map[string]form{"/api/oauth/token": whole, "/api/oauth/introspect": introspect, "/api/oauth/revoke": introspect} {
		for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "post"} {
			answer, err := http.DefaultClient.Do(must(http.NewRequestWithContext(t.Context(), method, i.URL+path+query(f), nil)))
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, answer.StatusCode)
			}
		}
		if r := i.send(t, path+query(f), nil); r.status != http.StatusBadRequest || r.text("error") != "invalid_request" {
			t.Errorf("%s, all in the address: %+v", path, r)
		}
		rest := maps.Clone(f)
		delete(rest, "client_secret")
		if r := i.send(t, path+query(form{"client_secret": f["client_secret"]}), rest); r.status != http.StatusUnauthorized || r.text("error") != "invalid_client" {
			t.Errorf("%s, the secret in the address: %+v", path, r)
		}
	}
	if r := i.send(t, "/api/oauth/token", whole); r.status != http.StatusOK { // none of that has used up the code
		t.Errorf("%+v", r)
	}
}

// RFC 6749, section 2.3.1: a client's id and secret are encoded like a form's values; RFC 7617: the scheme is in any case.
func TestBasicIsDecodedLikeAForm(t *testing.T) {
	i := newFixture(t)
	encoded := func(text string) string {
		var all strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&all, "%%%02x", c)
		}
		return all.String()
	}
	header := basic(encoded(i.confidential.ID), encoded(i.confidentialSecret.Reveal()))
	for _, scheme := range []string{"Basic ", "basic ", "BASIC "} {
		request := i.exchange(t, i.confidential).with("client_id", "")
		if r := i.send(t, "/api/oauth/token", request, "Authorization", scheme+strings.TrimPrefix(header, "Basic ")); r.status != http.StatusOK {
			t.Errorf("%s: %+v", scheme, r)
		}
	}
}

// RFC 6749, sections 4.1.2 and 4.1.2.1: every answer returns the state that the app sent, unchanged. Section 10.14: the server
// treats it as an opaque value.
func TestStateComesBackAsItWas(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	for _, state := range []string{
		"0", " ", "a b+c%20d", "a&code=stolen&iss=https://evil.example", "x#fragment?query/../..", "é \"quoted\" <b>'\\", "\r\nSet-Cookie: a=b", "\xff\x00",
		strings.Repeat("s", 4096),
	} {
		query := i.request("state", state)
		p := b.do(t, "GET", query, nil)
		if p.status != http.StatusOK || strings.Contains(p.text, "<b>") {
			t.Errorf("%q: %d %s", state, p.status, p.text)
		}
		for what, p := range map[string]page{
			"approved": b.do(t, "POST", query, p.form("approve", i.acme.ID)),
			"denied":   b.do(t, "POST", query, p.form("deny")),
			"refused":  b.do(t, "GET", i.request("state", state, "scope", "made-up"), nil),
		} {
			if p.location == nil || p.location.Host != "planner.example" || p.location.Fragment != "" || p.header.Get("Set-Cookie") != "" {
				t.Errorf("%s with %q: %d to %v, %v", what, state, p.status, p.location, p.header)
				continue
			}
			q := p.location.Query()
			if !slices.Equal(q["state"], []string{state}) || len(q["iss"]) != 1 || len(q["code"])+len(q["error"]) != 1 {
				t.Errorf("%s with %q: %v", what, state, q)
			}
		}
	}
}

// RFC 9700, section 4.11.2: without a known user, there is no redirect to the app, not even with an error.
func TestNobodyIsSentOnWhoIsNotSignedIn(t *testing.T) {
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

// RFC 6749, sections 10.2 and 10.12: after an approval, the user is asked again, and a GET never approves anything.
func TestConsentIsAskedForEachTime(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	p := b.do(t, "GET", i.request(), nil)
	if q := answered(t, b.do(t, "POST", i.request(), p.form("approve", i.acme.ID))); q.Get("code") == "" {
		t.Fatal(q)
	}
	again := p.form("approve", i.acme.ID).Encode()
	for _, query := range []string{i.request(), i.request() + "&" + again, i.request() + "&prompt=none"} {
		if p := b.do(t, "GET", query, nil); p.status != http.StatusOK || !strings.Contains(p.text, "Allow <bdi>Planner</bdi> to act for you?") {
			t.Errorf("%s: %d to %v", query, p.status, p.location)
		}
	}
	if grants := must(i.registry.Grants(t.Context(), "", "")); len(grants) != 1 {
		t.Errorf("%+v", grants)
	}
}

// RFC 9700, section 2.6: no page of another origin can read the consent page.
func TestConsentPageIsOfNoOtherOrigin(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		p := b.do(t, method, i.request(), nil, "Origin", "https://planner.example", "Access-Control-Request-Method", "POST")
		for name := range p.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %v", method, p.header)
			}
		}
	}
}

// RFC 6749, section 3.3: scopes are a set of words, told apart by their case, and the app is told which its token has.
func TestScopesAreASet(t *testing.T) {
	i := newFixture(t)
	b := i.adas()
	query := i.request("scope", "issues:write  issues:read issues:write")
	q := answered(t, b.do(t, "POST", query, b.do(t, "GET", query, nil).form("approve", i.acme.ID)))
	r := i.send(t, "/api/oauth/token", i.exchange(t, i.public).with("code", q.Get("code")))
	got := strings.Split(r.text("scope"), " ")
	if slices.Sort(got); !slices.Equal(got, []string{"issues:read", "issues:write"}) {
		t.Errorf("%+v", r)
	}
}

// RFC 6749, sections 4.1.2 and 10.4; RFC 9700, section 4.14.2: a code or a refresh token that is used a second
// time ends the grant and all its tokens. It does not matter who sends it.
func TestReuseEndsTheGrant(t *testing.T) {
	i := newFixture(t)
	stranger, _ := i.app(t, false)
	for name, reuse := range map[string]func(exchange, refresh form) form{
		"a code":                           func(exchange, _ form) form { return exchange },
		"a code, by another app":           func(exchange, _ form) form { return exchange.with("client_id", stranger.ID) },
		"a code, with a wrong verifier":    func(exchange, _ form) form { return exchange.with("code_verifier", strings.Repeat("v", 43)) },
		"a refresh token":                  func(_, refresh form) form { return refresh },
		"a refresh token, by another app":  func(_, refresh form) form { return refresh.with("client_id", stranger.ID) },
		"a refresh token, for other scope": func(_, refresh form) form { return refresh.with("scope", "made-up") },
	} {
		exchange := i.exchange(t, i.public)
		issued := []response{i.send(t, "/api/oauth/token", exchange)}
		refresh := form{"grant_type": "refresh_token", "client_id": i.public.ID}
		for range 2 {
			issued = append(issued, i.send(t, "/api/oauth/token", refresh.with("refresh_token", issued[len(issued)-1].text("refresh_token"))))
		}
		other := i.tokens(t) // of the same app and user
		r := i.send(t, "/api/oauth/token", reuse(exchange, refresh.with("refresh_token", issued[0].text("refresh_token"))))
		if r.status != http.StatusBadRequest || r.text("error") != "invalid_grant" {
			t.Errorf("%s: %+v", name, r)
		}
		for _, r := range issued {
			if _, err := i.Introspect(t.Context(), authz.Secret(r.text("access_token"))); err == nil {
				t.Errorf("%s: an access token is still good: %+v", name, r)
			}
		}
		if r := i.send(t, "/api/oauth/token", refresh.with("refresh_token", issued[2].text("refresh_token"))); r.text("error") != "invalid_grant" {
			t.Errorf("%s: the last refresh token is still good: %+v", name, r)
		}
		if _, err := i.Introspect(t.Context(), authz.Secret(other.text("access_token"))); err != nil {
			t.Errorf("%s: another grant has ended: %v", name, err)
		}
	}
}

// RFC 7636, section 4.4; RFC 9700, sections 4.5.3.1 and 4.8.2; RFC 6749, section 10.6: a code is valid only with the
// parameters of its authorization request. Without a challenge, no code is issued.
func TestCodesAreBoundToTheirRequest(t *testing.T) {
	i := newFixture(t)
	const theirs = "another-verifier-of-another-browser-at-the-same-app"
	sum := sha256.Sum256([]byte(theirs))
	approval := issuer.Approval{Client: i.public.ID, User: i.ada.ID, Scopes: []string{"issues:read"},
		RedirectURI: "http://127.0.0.1:51004/cb", Challenge: base64.RawURLEncoding.EncodeToString(sum[:])}
	right := form{"grant_type": "authorization_code", "client_id": i.public.ID, "redirect_uri": approval.RedirectURI, "code_verifier": theirs}
	for name, c := range map[string]struct {
		request form
		status  int
	}{
		"the same request":       {right, 200},
		"another's verifier":     {right.with("code_verifier", verifier), 400},
		"the challenge itself":   {right.with("code_verifier", approval.Challenge), 400},
		"no verifier":            {right.with("code_verifier", ""), 400},
		"another port":           {right.with("redirect_uri", "http://127.0.0.1:51005/cb"), 400},
		"no port":                {right.with("redirect_uri", "http://127.0.0.1/cb"), 400},
		"another registered one": {right.with("redirect_uri", callback), 400},
	} {
		code := must(i.Approve(t.Context(), approval)).Code
		if r := i.send(t, "/api/oauth/token", c.request.with("code", code.Reveal())); r.status != c.status {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// RFC 7636, section 4.1: 43 to 128 characters that are not reserved.
	const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	long := unreserved + unreserved[:62]
	for made, status := range map[string]int{
		long[:42]: 400, long[:43]: 200, long[23:66]: 200, long: 200, long + "A": 400, long[:43] + "+": 400, long[:43] + "=": 400, long[:43] + "é": 400, long[:43] + " ": 400,
	} {
		sum := sha256.Sum256([]byte(made))
		approval.Challenge = base64.RawURLEncoding.EncodeToString(sum[:])
		code := must(i.Approve(t.Context(), approval)).Code
		if r := i.send(t, "/api/oauth/token", right.with("code_verifier", made).with("code", code.Reveal())); r.status != status {
			t.Errorf("the verifier %s: %+v", made, r)
		}
	}
	for name, challenge := range map[string]string{"none": "", "plain": theirs, "too long": approval.Challenge + "A", "of base64": approval.Challenge[1:] + "+"} {
		approval.Challenge = challenge
		if made, err := i.Approve(t.Context(), approval); err == nil || made.Code != "" {
			t.Errorf("a challenge that is %s has a code", name)
		}
	}
}

// RFC 6749, section 10.10: at least 160 random bits.
func TestWhatIsIssuedCannotBeGuessed(t *testing.T) {
	i := newFixture(t)
	const base32 = `^[A-Z2-7]{52}$` // 260 bits
	made := map[string][]string{}
	for range 32 {
		app, secret := i.app(t, true)
		exchange := i.exchange(t, app).with("client_secret", secret.Reveal())
		r := i.send(t, "/api/oauth/token", exchange)
		made["secret"] = append(made["secret"], secret.Reveal())
		made["code"] = append(made["code"], exchange["code"])
		made["refresh token"] = append(made["refresh token"], r.text("refresh_token"))
		made["access token"] = append(made["access token"], strings.TrimPrefix(r.text("access_token"), "velo_"))
	}
	for what, form := range map[string]string{"secret": base32, "code": base32, "refresh token": base32, "access token": `^[0-9A-Za-z]{38}$`} { // 190 bits and a checksum
		for _, text := range made[what] {
			if matched := must(regexp.MatchString(form, text)); !matched {
				t.Fatalf("a %s is %s", what, text)
			}
		}
		for at := range 32 { // the first 32 characters are random, without the checksum
			letters := map[byte]bool{}
			for _, text := range made[what] {
				letters[text[at]] = true
			}
			if len(letters) < 8 { // 32 random draws from 32 or more letters contain about 20 different ones
				t.Errorf("a %s has one of %d letters at %d", what, len(letters), at)
			}
		}
	}
}

// RFC 6749, sections 10.3 and 10.4: nothing in the database can be used as a credential.
func TestStoredIsNoCredential(t *testing.T) {
	i := newFixture(t)
	exchange := i.exchange(t, i.confidential).with("client_secret", i.confidentialSecret.Reveal())
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
		t.Fatalf("this is not all that is stored: %s", all.String())
	}
	for what, secret := range map[string]string{
		"code": exchange["code"], "secret": exchange["client_secret"], "access token": r.text("access_token"), "refresh token": r.text("refresh_token"), "verifier": verifier,
	} {
		if secret == "" || strings.Contains(all.String(), secret) || strings.Contains(all.String(), fmt.Sprintf("%x", secret)) {
			t.Errorf("the %s is stored", what)
		}
	}
}

// RFC 6749, section 4.1.2: a code expires within ten minutes, here one. Section 5.1: expires_in is the real lifetime.
func TestLifetimes(t *testing.T) {
	i := newFixture(t)
	r := i.tokens(t)
	for table, want := range map[string]float64{"oauth_codes": 60, "oauth_access_tokens": 3600, "oauth_refresh_tokens": 30 * 24 * 3600} {
		var left float64
		if err := i.db.Get(&left, `SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM keywicket.`+table); err != nil {
			t.Fatal(err)
		}
		if left > want || left < want-60 {
			t.Errorf("%s: %.0f seconds are left, of %.0f", table, left, want)
		}
	}
	if r.body["expires_in"] != 3600.0 {
		t.Errorf("%+v", r)
	}
	code := i.exchange(t, i.public)
	if _, err := i.db.Exec(`UPDATE keywicket.oauth_codes SET expires_at = clock_timestamp() WHERE used_at IS NULL`); err != nil {
		t.Fatal(err)
	}
	if r := i.send(t, "/api/oauth/token", code); r.text("error") != "invalid_grant" {
		t.Errorf("a code that has expired: %+v", r)
	}
}

// RFC 7662, sections 2.2 and 4: introspection checks every reason for which a token can end. The answer for an ended token
// contains only active.
func TestTokensThatAreOverAreNotActive(t *testing.T) {
	i := newFixture(t)
	own := basic(i.public.ID, i.publicSecret.Reveal())
	ask := func(f form) response { return i.send(t, "/api/oauth/introspect", f, "Authorization", own) }
	for name, end := range map[string]func(r response, code form){
		"it has expired": func(response, form) {
			must(i.db.Exec(`UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp()`))
		},
		"it was revoked": func(r response, _ form) {
			i.send(t, "/api/oauth/revoke", form{"client_id": i.public.ID, "token": r.text("access_token")})
		},
		"its refresh token was": func(r response, _ form) {
			i.send(t, "/api/oauth/revoke", form{"client_id": i.public.ID, "token": r.text("refresh_token")})
		},
		"its grant was": func(response, form) {
			newest := must(i.registry.Grants(t.Context(), "", ""))[0]
			must(i.registry.RevokeGrant(t.Context(), newest.ID))
		},
		"its code is used once more": func(_ response, code form) { i.send(t, "/api/oauth/token", code) },
		"its user is no more": func(response, form) {
			must(i.db.Exec(`DELETE FROM keywicket.users`))
			i.ada = must(i.registry.CreateUser(t.Context(), registry.User{Email: "ada@example.com"}))
			must(i.registry.SetMember(t.Context(), "acme", i.ada.ID, "member"))
		},
	} {
		code := i.exchange(t, i.public)
		r := i.send(t, "/api/oauth/token", code)
		for _, hint := range []string{"", "access_token", "refresh_token", "made-up"} { // section 2.1: a wrong hint does not hide a token
			if found := ask(form{"token": r.text("access_token"), "token_type_hint": hint}); found.body["active"] != true {
				t.Errorf("before %s, with the hint %q: %+v", name, hint, found)
			}
		}
		end(r, code)
		if found := ask(form{"token": r.text("access_token")}); found.status != http.StatusOK || len(found.body) != 1 || found.body["active"] != false {
			t.Errorf("%s: %+v", name, found)
		}
	}
	for name, header := range map[string]string{
		"a wrong secret": basic(i.public.ID, "guessed"), "another's secret": basic(i.public.ID, i.confidentialSecret.Reveal()), "an unknown app": basic("nobody", "x"),
		"a token": "Bearer " + i.tokens(t).text("access_token"),
	} {
		r := i.send(t, "/api/oauth/introspect", form{"token": "x"}, "Authorization", header)
		if r.status != http.StatusUnauthorized || r.text("error") != "invalid_client" || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// RFC 8414, section 2, and RFC 9207, section 2: an issuer is an https URL, without a query and a fragment. An http URL is for
// trials on a loopback address. With a path, the metadata would be at another path (RFC 8414, section 3).
func TestIssuersAddress(t *testing.T) {
	i := newFixture(t)
	for issuer, good := range map[string]bool{
		"https://velocity.quest":          true,
		"https://velocity.quest:8443":     true,
		"http://127.0.0.1:8001":           true,
		"http://[::1]:8001":               true,
		"http://localhost:8001":           true,
		"":                                false,
		"velocity.quest":                  false,
		"http://velocity.quest":           false,
		"http://127.0.0.1.velocity.quest": false,
		"https://velocity.quest/":         false,
		"https://velocity.quest/oauth":    false,
		"https://velocity.quest?x=1":      false,
		"https://velocity.quest?":         false,
		"https://velocity.quest#x":        false,
		"https://velocity.quest#":         false,
		"https://ada@velocity.quest":      false,
		"ftp://velocity.quest":            false,
		"https://Velocity.quest":          false,
		"https://velocity.quest.":         false,
		"https://velocity.quest:443":      false,
		"https://velocity.quest:":         false,
		"https://velocity.quest:99999":    false,
		"https://*":                       false,
	} {
		if _, err := i.serverOf(issuer); (err == nil) != good {
			t.Errorf("%s: %v", issuer, err)
		}
	}
}

// Invalid settings are errors, such as a sign-in URL that an attacker on the network could change.
func TestConfigIsRefused(t *testing.T) {
	i := newFixture(t)
	for what, change := range map[string]func(*oauth.Config){
		"a sign-in without TLS":      func(c *oauth.Config) { c.SignIn = "http://velocity.quest/login" },
		"a sign-in with a password":  func(c *oauth.Config) { c.SignIn = "https://ada:secret@velocity.quest/login" },
		"a sign-in with a fragment":  func(c *oauth.Config) { c.SignIn = "https://velocity.quest/login#x" },
		"a sign-in with a semicolon": func(c *oauth.Config) { c.SignIn = "https://velocity.quest/login?a=1;b=2" },
		"no sign-in":                 func(c *oauth.Config) { c.SignIn = "" },
		"no cookie":                  func(c *oauth.Config) { c.Cookie = "" },
		"a cookie that is none":      func(c *oauth.Config) { c.Cookie = "sb auth" },
		"two cookies":                func(c *oauth.Config) { c.Cookie = "a;b" },
		"no sessions":                func(c *oauth.Config) { c.Verifier = nil },
		"a negative limit":           func(c *oauth.Config) { c.AddressLimit = -1 },
	} {
		c := oauth.Config{Issuer: "https://velocity.quest", API: "velocity", Verifier: i.sessions, Cookie: "c", SignIn: "https://velocity.quest/login?x=1"}
		if _, err := oauth.NewServer(c, i.Issuer, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if _, err := oauth.NewServer(c, i.Issuer, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

func (i *fixture) serverOf(address string, scopes ...oauth.Scope) (*oauth.Server, error) {
	return oauth.NewServer(oauth.Config{
		Issuer: address, API: "velocity", Verifier: i.sessions, Cookie: "c", SignIn: "https://velocity.quest/login", Scopes: scopes,
	}, i.Issuer, slog.New(slog.DiscardHandler))
}

// RFC 8414, sections 2 and 3.2; RFC 9207, sections 2.3 and 3: the metadata are correct and complete.
func TestMetadataIsWhatIsSo(t *testing.T) {
	i := newFixture(t)
	read := func(h http.Handler) (m map[string]any) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/.well-known/oauth-authorization-server", nil))
		if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		return m
	}
	m := read(i.Config.Handler)
	for _, name := range []string{"issuer", "authorization_endpoint", "token_endpoint", "response_types_supported"} {
		if m[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	b := i.adas()
	q := b.do(t, "POST", i.request(), b.do(t, "GET", i.request(), nil).form("deny")).location.Query()
	if m["authorization_response_iss_parameter_supported"] != true || q.Get("iss") != m["issuer"] {
		t.Errorf("an app is answered by %q, not %v", q.Get("iss"), m["issuer"])
	}
	for name, value := range m {
		address, ok := value.(string)
		if !strings.HasSuffix(name, "_endpoint") {
			continue
		}
		path, here := strings.CutPrefix(address, "https://velocity.quest/")
		if !ok || !here || strings.ContainsAny(address, "?#") {
			t.Errorf("%s is %v", name, value)
		}
		w := httptest.NewRecorder()
		i.Config.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "/"+path, nil))
		if w.Code == http.StatusNotFound || w.Code == http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", address, w.Code)
		}
	}
	for _, taken := range []string{"none", "client_secret_basic", "client_secret_post"} { // as the tests of the endpoints show
		for _, endpoint := range []string{"token", "revocation", "introspection"} {
			told := slices.Contains(m[endpoint+"_endpoint_auth_methods_supported"].([]any), any(taken))
			if told != (endpoint != "introspection" || taken != "none") {
				t.Errorf("%s at the %s endpoint: %t", taken, endpoint, told)
			}
		}
	}
	for _, scopes := range [][]oauth.Scope{nil, {{Name: "user:read"}}} {
		m := read(must(i.serverOf("https://velocity.quest", scopes...)).Handler())
		for name, value := range m {
			if list, ok := value.([]any); value == nil || value == "" || ok && len(list) == 0 {
				t.Errorf("%s is %v", name, value)
			}
		}
		if (m["scopes_supported"] != nil) != (scopes != nil) {
			t.Errorf("%v", m["scopes_supported"])
		}
	}
}
