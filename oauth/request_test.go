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
			"a parameter twice": "&client_id=" + i.confidential.ID, "a parameter twice, one value empty": "&client_secret=", "an unknown parameter twice": "&a=1&a=1", "a body that is too long": "&a=" + strings.Repeat("x", 16<<10),
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
