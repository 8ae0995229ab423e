package oauth_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// RFC 6749, sections 3.1 and 3.2, for every endpoint: a parameter without a value counts as absent, and an unknown parameter is
// ignored.
func TestEmptyParameters(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	const more = "&state=&request=&request_uri=&nonce=n&prompt=&made_up=1"
	p := b.do(t, "GET", i.request("state", "")+more, nil)
	p = b.do(t, "POST", i.request("state", "")+more, p.form("approve", i.acme.ID))
	if p.location == nil || !p.location.Query().Has("code") || p.location.Query().Has("state") {
		t.Errorf("%d to %v", p.status, p.location)
	}
	for _, name := range []string{"response_type", "scope", "code_challenge", "code_challenge_method"} {
		without := expectRedirect(t, b.do(t, "GET", i.request(name, ""), nil))
		empty := expectRedirect(t, b.do(t, "GET", i.request(name, "")+"&"+name+"=", nil))
		if !without.Has("error") || !reflect.DeepEqual(without, empty) {
			t.Errorf("without %s: %v; with an empty value: %v", name, without, empty)
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
		required   form
	}{
		{"a code", "/api/oauth/token", i.exchangeForm(t, i.public)},
		{"introspection", "/api/oauth/introspect", introspect},
		{"a refresh token", "/api/oauth/token", refresh},
		{"revocation", "/api/oauth/revoke", form{"client_id": i.public.ID, "token": token.text("access_token")}},
	} {
		for name := range c.required {
			incomplete := maps.Clone(c.required)
			delete(incomplete, name)
			without, empty := i.send(t, c.path, incomplete), i.send(t, c.path, c.required.withValue(name, ""))
			if without.status == http.StatusOK || without.status != empty.status || !reflect.DeepEqual(without.body, empty.body) {
				t.Errorf("%s without %s: %+v; with an empty value: %+v", c.what, name, without, empty)
			}
		}
		withEmpty := c.required.withValue("made_up", "1").withValue("made_up_too", "").withValue("scope", "").withValue("token_type_hint", "")
		if c.required["client_secret"] == "" {
			withEmpty = withEmpty.withValue("client_secret", "")
		}
		if r := i.send(t, c.path, withEmpty); r.status != http.StatusOK || r.body["active"] == false {
			t.Errorf("%s, with unknown and empty parameters: %+v", c.what, r)
		}
	}
	object, _ := json.Marshal(i.exchangeForm(t, i.public).withValue("made_up", "1").withValue("client_secret", ""))
	if r := i.post(t, "/api/oauth/token", "application/json", string(object[:len(object)-1])+`, "scope": null}`); r.status != http.StatusOK {
		t.Errorf("JSON: %+v", r)
	}
}

// Every endpoint for apps refuses repeated parameters and bodies that are too long (RFC 6749, section 3.2; RFC 7009, section 5).
func TestRepeatedParametersAndLongBodies(t *testing.T) {
	i := newFixture(t)
	const formType = "application/x-www-form-urlencoded"
	text := "grant_type=refresh_token&refresh_token=x&token=x&client_id=" + i.confidential.ID + "&client_secret=" + i.confidentialSecret.Reveal()
	for _, path := range []string{"/api/oauth/token", "/api/oauth/revoke", "/api/oauth/introspect"} {
		for what, more := range map[string]string{
			"a parameter twice": "&client_id=" + i.confidential.ID, "a parameter twice, one value empty": "&client_secret=", "a body that is too long": "&a=" + strings.Repeat("x", 16<<10),
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

// RFC 6749, sections 3.1 and 3.2: an endpoint ignores every parameter that it does not read, whatever its type, its value and its
// number. For example, an app may send several resource parameters (RFC 8707, section 2). An endpoint refuses a wrong type, and a
// second value, of a parameter that it reads.
func TestUnreadParametersAreIgnored(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	const several = "&resource=https%3A%2F%2Fa.example&resource=https%3A%2F%2Fb.example&made_up=1&made_up=%00%ff"
	p := b.do(t, "GET", i.request()+several, nil)
	if p.status != http.StatusOK || expectRedirect(t, b.do(t, "POST", i.request()+several, p.form("approve", i.acme.ID))).Get("code") == "" {
		t.Errorf("the consent page: %d to %v", p.status, p.location)
	}
	for _, read := range []string{"response_type", "scope", "state", "code_challenge", "code_challenge_method", "request", "request_uri"} {
		p := b.do(t, "GET", i.request()+"&"+read+"=&"+read+"=", nil)
		if p.location == nil || p.location.Query().Get("error") != "invalid_request" || !strings.HasPrefix(p.location.Query().Get("error_description"), read+" ") {
			t.Errorf("several times %s: %d to %v", read, p.status, p.location)
		}
	}

	const formType, jsonType = "application/x-www-form-urlencoded", "application/json"
	text := func(f form) string {
		values := url.Values{}
		for name, value := range f {
			values.Set(name, value)
		}
		return values.Encode()
	}
	for name, c := range map[string]struct {
		path         string
		request      func() form
		read, unread []string
	}{
		"a code": {"/api/oauth/token", func() form { return i.exchangeForm(t, i.public) }, []string{"grant_type", "code", "redirect_uri", "code_verifier", "client_secret"}, []string{"scope", "refresh_token", "expires_in"}},
		"a refresh token": {"/api/oauth/token", func() form {
			return form{"grant_type": "refresh_token", "client_id": i.public.ID, "refresh_token": i.tokens(t).text("refresh_token")}
		}, []string{"refresh_token", "scope", "client_id"}, []string{"code", "redirect_uri", "expires_in"}},
		"revocation": {"/api/oauth/revoke", func() form { return form{"client_id": i.public.ID, "token": "x"} }, []string{"token", "client_id"}, []string{"token_type_hint", "scope"}},
		"introspection": {"/api/oauth/introspect", func() form {
			return form{"client_id": i.public.ID, "client_secret": i.publicSecret.Reveal(), "token": "x"}
		}, []string{"token", "client_secret"}, []string{"token_type_hint", "grant_type"}},
	} {
		for _, unread := range c.unread {
			if r := i.post(t, c.path, formType, text(c.request())+several+"&"+unread+"=%01&"+unread+"=x"); r.status != http.StatusOK {
				t.Errorf("%s, in a form with several times %s: %+v", name, unread, r)
			}
			for _, value := range []string{`3600`, `true`, `null`, `["a", "b"]`, `{"a": {"b": 1}}`, `"\u0000"`} {
				object, _ := json.Marshal(c.request())
				if r := i.post(t, c.path, jsonType, string(object[:len(object)-1])+`, "`+unread+`": `+value+`}`); r.status != http.StatusOK {
					t.Errorf("%s, with %s: %s: %+v", name, unread, value, r)
				}
			}
		}
		for _, read := range c.read {
			f := c.request()
			delete(f, read)
			for _, value := range []string{`3600`, `["a"]`, `{"a": 1}`, `"\u0000"`} {
				object, _ := json.Marshal(f)
				if r := i.post(t, c.path, jsonType, string(object[:len(object)-1])+`, "`+read+`": `+value+`}`); r.text("error") != "invalid_request" || !strings.HasPrefix(r.text("error_description"), read+" ") {
					t.Errorf("%s, with %s: %s: %+v", name, read, value, r)
				}
			}
			if r := i.post(t, c.path, formType, text(f)+"&"+read+"=a&"+read+"=a"); r.text("error") != "invalid_request" || r.text("error_description") != read+" occurs twice" {
				t.Errorf("%s, twice %s: %+v", name, read, r)
			}
		}
	}
}

// RFC 6749, appendix B: in a query and in a form, only "&" separates parameters. A ";" is a part of a value, as browsers and apps
// write it.
func TestSemicolonIsAnOrdinaryCharacter(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	for _, state := range []string{"a;b", ";", "a;code=stolen;iss=x", "a;returned=1", "%3B;"} {
		query := i.request("state", "") + "&state=" + state
		p := b.do(t, "GET", query, nil)
		for what, p := range map[string]page{
			"approved":   b.do(t, "POST", query, p.form("approve", i.acme.ID)),
			"denied":     b.do(t, "POST", query, p.form("deny")),
			"refused":    b.do(t, "GET", query+"&scope=again", nil),
			"signed out": i.browser().do(t, "GET", query, nil),
		} {
			if p.location == nil {
				t.Errorf("%s with %s: %d", what, state, p.status)
				continue
			}
			q := p.location.Query()
			if what == "signed out" { // the app's request is unchanged after the sign-in
				_, after, _ := strings.Cut(q.Get("return_to"), "?")
				p = b.do(t, "GET", after+"&scope=again", nil)
				q = p.location.Query()
			}
			if want := strings.ReplaceAll(state, "%3B", ";"); !slices.Equal(q["state"], []string{want}) || len(q["iss"]) != 1 || len(q["code"])+len(q["error"]) != 1 {
				t.Errorf("%s with %s: %v", what, state, q)
			}
		}
	}
	const formType = "application/x-www-form-urlencoded"
	if r := i.post(t, "/api/oauth/revoke", formType, "made_up=a;b&token=x;client_secret=guessed&client_id="+i.public.ID); r.status != http.StatusOK {
		t.Errorf("%+v", r)
	}
	if r := i.post(t, "/api/oauth/revoke", formType, "token=x&client_id="+i.public.ID+";client_id=x"); r.text("error") != "invalid_client" {
		t.Errorf("%+v", r)
	}
}

// RFC 6749, section 2.3.1: an empty secret is no secret. Client libraries send the header "Basic" with an empty secret for an app
// that needs none.
func TestEmptySecretIsNoSecret(t *testing.T) {
	i := newFixture(t)
	header := basic(i.public.ID, "")
	for what, f := range map[string]form{"": {}, "the same client": {"client_id": i.public.ID}, "an empty secret in both": {"client_secret": ""}} {
		send := func(path string, request form) response {
			delete(request, "client_id")
			maps.Copy(request, f)
			return i.send(t, path, request, "Authorization", header)
		}
		issued := send("/api/oauth/token", i.exchangeForm(t, i.public))
		refreshed := send("/api/oauth/token", form{"grant_type": "refresh_token", "refresh_token": issued.text("refresh_token")})
		revoked := send("/api/oauth/revoke", form{"token": refreshed.text("refresh_token")})
		if issued.status != http.StatusOK || refreshed.status != http.StatusOK || revoked.status != http.StatusOK {
			t.Errorf("%s: %+v, %+v, %+v", what, issued, refreshed, revoked)
		}
		if r := send("/api/oauth/introspect", form{"token": "x"}); r.status != http.StatusUnauthorized || r.text("error") != "invalid_client" {
			t.Errorf("%s: introspection without a secret: %+v", what, r)
		}
	}
	for _, path := range []string{"/api/oauth/token", "/api/oauth/revoke", "/api/oauth/introspect"} {
		f := form{"grant_type": "refresh_token", "refresh_token": "x", "token": "x"}
		if r := i.send(t, path, f, "Authorization", basic(i.confidential.ID, "")); r.status != http.StatusUnauthorized || r.text("error") != "invalid_client" {
			t.Errorf("%s: a confidential app: %+v", path, r)
		}
		for what, f := range map[string]form{"another client": f.withValue("client_id", i.confidential.ID), "a secret in the body": f.withValue("client_secret", i.publicSecret.Reveal())} {
			if r := i.send(t, path, f, "Authorization", header); r.status != http.StatusBadRequest || r.text("error") != "invalid_request" {
				t.Errorf("%s: %s: %+v", path, what, r)
			}
		}
	}
}

// RFC 6749, sections 2.3.1 and 3.2: parameters are read only from the body of a POST, because proxies log URLs.
func TestURLParametersAreNotRead(t *testing.T) {
	i := newFixture(t)
	parameters := i.exchangeForm(t, i.confidential).withValue("client_secret", i.confidentialSecret.Reveal())
	query := func(f form) string {
		values := url.Values{}
		for name, value := range f {
			values.Set(name, value)
		}
		return "?" + values.Encode()
	}
	introspect := form{"client_id": i.confidential.ID, "client_secret": parameters["client_secret"], "token": "x"}
	for path, f := range map[string]form{"/api/oauth/token": parameters, "/api/oauth/introspect": introspect, "/api/oauth/revoke": introspect} {
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
			t.Errorf("%s, all parameters in the URL: %+v", path, r)
		}
		incomplete := maps.Clone(f)
		delete(incomplete, "client_secret")
		if r := i.send(t, path+query(form{"client_secret": f["client_secret"]}), incomplete); r.status != http.StatusUnauthorized || r.text("error") != "invalid_client" {
			t.Errorf("%s, the secret in the URL: %+v", path, r)
		}
	}
	if r := i.send(t, "/api/oauth/token", parameters); r.status != http.StatusOK { // the code is still unused
		t.Errorf("%+v", r)
	}
}

// RFC 6749, section 2.3.1: a client's id and secret are encoded like form values. RFC 7617: the name of the scheme, "Basic", is
// not case-sensitive.
func TestBasicCredentialsAreFormDecoded(t *testing.T) {
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
		request := i.exchangeForm(t, i.confidential).withValue("client_id", "")
		if r := i.send(t, "/api/oauth/token", request, "Authorization", scheme+strings.TrimPrefix(header, "Basic ")); r.status != http.StatusOK {
			t.Errorf("%s: %+v", scheme, r)
		}
	}
}

// RFC 6749, sections 4.1.2 and 4.1.2.1: every response to the app contains the unchanged state of the app's request. Section
// 10.14: the server does not interpret the state.
func TestStateIsReturnedUnchanged(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
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

// RFC 6749, section 3.3: the order of scopes does not matter, scopes are case-sensitive, and the response contains the token's
// scopes.
func TestScopesAreASet(t *testing.T) {
	i := newFixture(t)
	b := i.adaBrowser()
	query := i.request("scope", "issues:write  issues:read issues:write")
	q := expectRedirect(t, b.do(t, "POST", query, b.do(t, "GET", query, nil).form("approve", i.acme.ID)))
	r := i.send(t, "/api/oauth/token", i.exchangeForm(t, i.public).withValue("code", q.Get("code")))
	got := strings.Split(r.text("scope"), " ")
	if slices.Sort(got); !slices.Equal(got, []string{"issues:read", "issues:write"}) {
		t.Errorf("%+v", r)
	}
}
