package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz/tokenlimit"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestInvalidTokensAreRefused(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	id := s.send(t, ada, "POST", "/tokens", fields{"name": "CI", "scopes": []string{"issues:read"}}).text("id")
	with := func(name string, value any) fields {
		body := fields{"name": "CI", "scopes": []string{"issues:read"}}
		body[name] = value
		return body
	}
	const form, value = http.StatusBadRequest, http.StatusUnprocessableEntity
	for name, c := range map[string]struct {
		body          any
		status        int
		reason, field string
	}{
		"no name":                       {fields{"scopes": []string{"issues:read"}}, value, "invalid_field", "name"},
		"a name of spaces":              {with("name", "  "), value, "invalid_field", "name"},
		"a long name":                   {with("name", strings.Repeat("ä", 101)), value, "invalid_field", "name"},
		"a name with a NUL":             {with("name", "a\x00b"), value, "invalid_field", "name"},
		"a name with a line break":      {with("name", "a\nb"), value, "invalid_field", "name"},
		"a name that is a number":       {with("name", 1), form, "invalid_field", "name"},
		"a name that is null":           {with("name", nil), form, "invalid_field", "name"},
		"no scopes":                     {fields{"name": "CI"}, value, "invalid_field", "scopes"},
		"an empty list of scopes":       {with("scopes", []string{}), value, "invalid_field", "scopes"},
		"an unknown scope":              {with("scopes", []string{"issues:all"}), value, "invalid_field", "scopes"},
		"a scope of users":              {with("scopes", []string{"user:read"}), value, "invalid_field", "scopes"},
		"scopes as a text":              {with("scopes", "issues:read"), form, "invalid_field", "scopes"},
		"scopes as null":                {with("scopes", nil), form, "invalid_field", "scopes"},
		"an expiry in the past":         {with("expires_at", "2020-01-01T00:00:00Z"), value, "invalid_field", "expires_at"},
		"an expiry without a time zone": {with("expires_at", "2999-01-01T00:00:00"), form, "invalid_field", "expires_at"},
		"an expiry that is a date":      {with("expires_at", "2999-01-01"), form, "invalid_field", "expires_at"},
		"an expiry that is a number":    {with("expires_at", 4102444800), form, "invalid_field", "expires_at"},
		"the prefix of personal keys":   {with("prefix", "velu_"), value, "invalid_field", "prefix"},
		"an empty prefix":               {with("prefix", ""), value, "invalid_field", "prefix"},
		"a prefix that is a number":     {with("prefix", 1), form, "invalid_field", "prefix"},
		"an unknown field":              {with("admin", true), form, "unknown_field", ""},
		"a field in capitals":           {with("NAME", "CI"), form, "unknown_field", ""},
		"a field twice":                 {`{"name": "CI", "name": "CD", "scopes": ["issues:read"]}`, form, "invalid_body", ""},
		"a list":                        {`[]`, form, "invalid_body", ""},
		"no JSON":                       {`name=CI`, form, "invalid_body", ""},
		"text after the object":         {`{} {}`, form, "invalid_body", ""},
		"no text":                       {``, form, "invalid_body", ""},
		"bytes that are not UTF-8":      {"{\"name\": \"\xff\"}", form, "invalid_body", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s.send(t, ada, "POST", "/tokens", c.body).expect(c.status, "INVALID_REQUEST", c.reason, c.field)
		})
	}
	for body, want := range map[string]int{
		`{"overlap": -1}`: value, `{"overlap": 2592001}`: value, `{"overlap": 9000000000000000000}`: value, `{"overlap": 1.5}`: form,
		`{"overlap": "1h"}`: form, `{"overlap": null}`: form, `{"overlap": 1e99}`: form,
	} {
		s.send(t, ada, "POST", "/tokens/"+id+"/rotate", body).expect(want, "INVALID_REQUEST", "invalid_field", "overlap")
	}
	if n := storetest.Value[int](t, s.DB, `SELECT count(*) FROM keywicket.tokens`); n != 1 {
		t.Errorf("there are %d tokens", n)
	}
	if strings.Contains(s.log.String(), "could not answer") {
		t.Errorf("logged %s", s.log)
	}
}

// The operator's limits apply to requests of the API.
func TestLimitsApply(t *testing.T) {
	s := newServer(t)
	limited := s.apis["velocity"]
	limited.Rules.Limits = tokenlimit.Limits{MaxLifetime: 24 * time.Hour}
	s.apis["velocity"] = limited
	ada := s.session()
	for expiry, status := range map[time.Duration]int{time.Hour: http.StatusCreated, 25 * time.Hour: http.StatusUnprocessableEntity} {
		got := s.send(t, ada, "POST", "/tokens", fields{"name": "CI", "scopes": []string{"issues:read"}, "expires_at": time.Now().Add(expiry)})
		if got.Code != status {
			t.Errorf("%v: %s", expiry, got.Body)
		}
	}
	choice := s.send(t, ada, "GET", "/scopes", nil)
	if choice.field("max_lifetime") != float64(86400) || choice.field("expiry_required") != true {
		t.Errorf("the choice is %s", choice.Body)
	}
}

func TestBodiesHaveATypeAndALimit(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	const body = `{"name": "CI", "scopes": ["issues:read"]}`
	for contentType, status := range map[string]int{
		"application/json": 201, "application/json; charset=utf-8": 201, "Application/JSON": 201,
		"": 415, "text/plain": 415, "application/x-www-form-urlencoded": 415, "application/jsonp": 415, "application/json;;": 415,
	} {
		got := s.send(t, ada, "POST", "/tokens", body, "Content-Type", contentType)
		if got.Code != status || status == 415 && got.text("error.code") != "UNSUPPORTED_MEDIA_TYPE" {
			t.Errorf("%q: %d %s", contentType, got.Code, got.Body)
		}
	}
	large := body + strings.Repeat(" ", 64<<10-len(body))
	s.send(t, ada, "POST", "/tokens", large).expect(http.StatusCreated, "", "", "")
	s.send(t, ada, "POST", "/tokens", large+" ").expect(http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE", "body_too_large", "")
}

// Paths and methods that the document does not have get an error of the same form.
func TestOtherPathsAndMethods(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	for path, allow := range map[string]string{
		"/tokens/x": "DELETE, GET", "/tokens/x/rotate": "POST", "/scopes": "GET", "/workspaces": "GET", "/openapi.json": "GET",
	} {
		for _, method := range []string{"HEAD", "OPTIONS", "PUT", "TRACE", "get"} {
			got := s.send(t, ada, method, path, nil)
			got.expect(http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "method_not_allowed", "")
			if got.Header().Get("Allow") != allow {
				t.Errorf("%s %s: Allow is %q", method, path, got.Header().Get("Allow"))
			}
		}
	}
	for _, path := range []string{"", "/", "/tokens/", "/tokens/x/", "//tokens", "/tokens/x/rotate/y", "/Tokens", "/none", "/tokens/../scopes", "/openapi.json/"} {
		s.send(t, ada, "GET", path, nil).expect(http.StatusNotFound, "NOT_FOUND", "no_route", "")
	}
}

// Without the sidecar's headers, nothing is answered.
func TestCallersComeFromTheSidecar(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	for name, c := range map[string]caller{
		"no headers":                     {"Decision-Id": "decision-1"},
		"no API":                         ada.with("Api", ""),
		"an API that is not managed":     ada.with("Api", "other"),
		"no kind":                        ada.with("Kind", ""),
		"no subject":                     ada.with("Subject", ""),
		"a workspace of others":          ada.with("User-Id", s.Bob.ID),
		"a workspace without a user":     ada.with("User-Id", "").with("Kind", "personal_key"),
		"a token that does not exist":    ada.with("Kind", "workspace_key").with("Subject", "none").with("User-Id", ""),
		"a guest":                        ada.with("Workspace-Id", s.Globex.ID).with("Workspace-Slug", "globex"),
		"no workspace":                   ada.with("Workspace-Id", "").with("Workspace-Slug", ""),
		"an app":                         ada.with("Kind", "oauth_token"),
		"a session without the override": ada.with("Scopes", "issues:read"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/tokens/x", "/scopes"} {
				s.send(t, c, "GET", path, nil).expect(http.StatusForbidden, "FORBIDDEN", "not_permitted", "")
			}
		})
	}
}

func TestOutageIsUnavailable(t *testing.T) {
	s := newServer(t)
	s.Exec(t, `ALTER TABLE keywicket.tokens RENAME TO hidden`)
	got := s.send(t, s.session(), "GET", "/tokens/x", nil)
	got.expect(http.StatusServiceUnavailable, "UNAVAILABLE", "unavailable", "")
	if got.Header().Get("Retry-After") != "1" || strings.Contains(got.Body.String(), "tokens") || !strings.Contains(s.log.String(), "could not answer") {
		t.Errorf("got %v %s, logged %s", got.Header(), got.Body, s.log)
	}
}
