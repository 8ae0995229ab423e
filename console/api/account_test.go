package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

func TestWorkspaces(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	list := s.send(t, ada, "GET", "/workspaces", nil)
	list.expect(http.StatusOK, "", "", "")
	workspaces, _ := list.field("workspaces").([]any)
	if first, _ := workspaces[0].(map[string]any); len(workspaces) != 2 || first["slug"] != "acme" || first["role"] != "admin" || first["id"] != s.Acme.ID {
		t.Errorf("the workspaces are %s", list.Body)
	}
	if of := s.send(t, ada.with("Api", "velaflows"), "GET", "/workspaces", nil); of.Code != http.StatusOK || !strings.Contains(of.Body.String(), s.Acme.ID) {
		t.Errorf("the workspaces in VelaFlows are %s", of.Body)
	}
	key := s.send(t, ada, "POST", "/tokens", fields{"name": "CI", "scopes": []string{"workspace:admin"}})
	token := caller{
		"Api": "velocity", "Kind": "workspace_key", "Subject": key.text("id"), "Workspace-Id": s.Acme.ID, "Workspace-Slug": "acme",
		"Scopes": "workspace:admin", "Decision-Id": "decision-1",
	}
	for _, path := range []string{"/workspaces", "/apps", "/grants", "/account/activity", "/personal-scopes"} {
		s.send(t, token, "GET", path, nil).expect(http.StatusForbidden, "FORBIDDEN", "not_permitted", "")
	}

	for name, c := range map[string]caller{"a user": ada, "a token": token} {
		read := s.send(t, c, "GET", "/workspace", nil)
		if read.expect(http.StatusOK, "", "", ""); read.text("name") != "Acme" || read.text("slug") != "acme" || read.text("leaver_rule") != "mark" {
			t.Errorf("%s reads %s", name, read.Body)
		}
	}
	changed := s.send(t, ada, "PATCH", "/workspace", fields{"leaver_rule": "end"})
	if changed.expect(http.StatusOK, "", "", ""); changed.text("leaver_rule") != "end" {
		t.Errorf("changed %s", changed.Body)
	}
	for _, rule := range []any{"", "END", "delete"} {
		s.send(t, ada, "PATCH", "/workspace", fields{"leaver_rule": rule}).expect(http.StatusUnprocessableEntity, "INVALID_REQUEST", "invalid_field", "leaver_rule")
	}
	s.send(t, ada, "PATCH", "/workspace", fields{}).expect(http.StatusUnprocessableEntity, "INVALID_REQUEST", "invalid_field", "leaver_rule")
	s.send(t, ada, "PATCH", "/workspace", fields{"leaver_rule": nil}).expect(http.StatusBadRequest, "INVALID_REQUEST", "invalid_field", "leaver_rule")
	s.send(t, ada, "PATCH", "/workspace", fields{"name": "Globex"}).expect(http.StatusBadRequest, "INVALID_REQUEST", "unknown_field", "")
	guest := ada.with("Workspace-Id", s.Globex.ID).with("Workspace-Slug", "globex")
	s.send(t, guest, "PATCH", "/workspace", fields{"leaver_rule": "keep"}).expect(http.StatusForbidden, "FORBIDDEN", "not_permitted", "")
}

func TestApps(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	body := fields{"name": "Planner", "redirect_uris": []string{"https://planner.example/cb"}, "scopes": []string{"issues:read"}, "confidential": true}
	created := s.send(t, ada, "POST", "/apps", body, "Idempotency-Key", "k")
	created.expect(http.StatusCreated, "", "", "")
	id := created.text("id")
	again := s.send(t, ada, "POST", "/apps", body, "Idempotency-Key", "k")
	if again.text("id") != id || again.field("client_secret") != nil || created.text("client_secret") == "" || again.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("created %s, then %s", created.Body, again.Body)
	}
	s.send(t, ada, "POST", "/apps", fields{"name": "Other", "redirect_uris": []string{"https://other.example/cb"}}, "Idempotency-Key", "k").
		expect(http.StatusConflict, "CONFLICT", "idempotency_key_used", "")
	read := s.send(t, ada, "GET", "/apps/"+id, nil)
	if read.expect(http.StatusOK, "", "", ""); read.text("name") != "Planner" || read.field("confidential") != true || read.field("users") != 0.0 {
		t.Errorf("read %s", read.Body)
	}
	rotated := s.send(t, ada, "POST", "/apps/"+id+"/rotate", nil)
	if rotated.expect(http.StatusOK, "", "", ""); rotated.text("client_secret") == "" || rotated.text("client_secret") == created.text("client_secret") {
		t.Errorf("rotated %s", rotated.Body)
	}
	list := s.send(t, ada, "GET", "/apps", nil)
	if apps, _ := list.field("apps").([]any); len(apps) != 1 || strings.Contains(list.Body.String(), rotated.text("client_secret")) {
		t.Errorf("the apps are %s", list.Body)
	}

	bob := ada.with("User-Id", s.Bob.ID).with("Subject", s.Bob.ID).with("Workspace-Id", "").with("Workspace-Slug", "")
	for name, c := range map[string]struct {
		caller caller
		id     string
	}{"another user": {bob, id}, "another API": {ada.with("Api", "velaflows"), id}, "an unknown id": {ada, "none"}, "a NUL": {ada, "a%00"}} {
		for method, suffix := range map[string]string{"GET": "", "DELETE": "", "POST": "/rotate"} {
			if got := s.send(t, c.caller, method, "/apps/"+c.id+suffix, nil); got.Code != http.StatusNotFound {
				t.Errorf("%s: %s gets %d %s", name, method, got.Code, got.Body)
			}
		}
	}
	for range 2 {
		deleted := s.send(t, ada, "DELETE", "/apps/"+id, nil)
		if deleted.expect(http.StatusOK, "", "", ""); deleted.text("status") != "revoked" || deleted.text("revoked_at") == "" {
			t.Errorf("deleted %s", deleted.Body)
		}
	}
	s.send(t, ada, "POST", "/apps/"+id+"/rotate", nil).expect(http.StatusUnprocessableEntity, "INVALID_REQUEST", "invalid", "")
}

func TestInvalidAppsAreRefused(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	with := func(name string, value any) fields {
		body := fields{"name": "Planner", "redirect_uris": []string{"https://planner.example/cb"}}
		body[name] = value
		return body
	}
	const form, value = http.StatusBadRequest, http.StatusUnprocessableEntity
	for name, c := range map[string]struct {
		body   fields
		status int
		field  string
	}{
		"no name":                       {with("name", ""), value, "name"},
		"a long name":                   {with("name", strings.Repeat("a", 101)), value, "name"},
		"a name with a NUL":             {with("name", "a\x00"), value, "name"},
		"no redirect URIs":              {fields{"name": "Planner"}, value, "redirect_uris"},
		"an empty list":                 {with("redirect_uris", []string{}), value, "redirect_uris"},
		"a redirect URI that is http":   {with("redirect_uris", []string{"http://planner.example/cb"}), value, "redirect_uris"},
		"a redirect URI with a NUL":     {with("redirect_uris", []string{"https://planner.example/\x00"}), value, "redirect_uris"},
		"a redirect URI twice":          {with("redirect_uris", []string{"https://a.example/", "https://a.example/"}), value, "redirect_uris"},
		"21 redirect URIs":              {with("redirect_uris", slices.Repeat([]string{"https://a.example/"}, 21)), value, "redirect_uris"},
		"a redirect URI as a text":      {with("redirect_uris", "https://planner.example/cb"), form, "redirect_uris"},
		"redirect URIs as null":         {with("redirect_uris", nil), form, "redirect_uris"},
		"an unknown scope":              {with("scopes", []string{"everything"}), value, "scopes"},
		"a scope that no app may have":  {with("scopes", []string{"workspace:admin"}), value, "scopes"},
		"scopes as null":                {with("scopes", nil), form, "scopes"},
		"confidential as a text":        {with("confidential", "true"), form, "confidential"},
		"development as a number":       {with("development", 1), form, "development"},
		"localhost without development": {with("redirect_uris", []string{"http://localhost/cb"}), value, "redirect_uris"},
	} {
		t.Run(name, func(t *testing.T) {
			s.send(t, ada, "POST", "/apps", c.body).expect(c.status, "INVALID_REQUEST", "invalid_field", c.field)
		})
	}
	s.send(t, ada, "POST", "/apps", with("owner", s.Bob.ID)).expect(form, "INVALID_REQUEST", "unknown_field", "")
	if n := storetest.Value[int](t, s.DB, `SELECT count(*) FROM keywicket.oauth_apps`); n != 0 {
		t.Errorf("there are %d apps", n)
	}
}

func TestGrants(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	i := storetest.Must(issuer.Open(storetest.WithOption(s.URL, "role", "keywicket_issuer")))
	t.Cleanup(func() { _ = i.Close() })
	app, _, err := s.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{"https://planner.example/cb"}})
	if err != nil {
		t.Fatal(err)
	}
	g := storetest.GrantFixture{Fixture: s.Fixture, Issuer: i, App: app}
	access := g.ExchangeCode(t, g.NewCode(t, s.Acme.ID)).Access
	list := s.send(t, ada, "GET", "/grants", nil)
	list.expect(http.StatusOK, "", "", "")
	grants, _ := list.field("grants").([]any)
	first, _ := grants[0].(map[string]any)
	id, _ := first["id"].(string)
	if workspaces, _ := first["workspaces"].([]any); len(grants) != 1 || first["app_name"] != "Planner" || first["status"] != "active" || len(workspaces) != 1 || workspaces[0] != "acme" {
		t.Errorf("the grants are %s", list.Body)
	}
	bob := ada.with("User-Id", s.Bob.ID).with("Subject", s.Bob.ID).with("Workspace-Id", "").with("Workspace-Slug", "")
	s.send(t, bob, "DELETE", "/grants/"+id, nil).expect(http.StatusNotFound, "NOT_FOUND", "not_found", "")
	s.send(t, ada, "DELETE", "/grants/none", nil).expect(http.StatusNotFound, "NOT_FOUND", "not_found", "")
	for range 2 {
		revoked := s.send(t, ada, "DELETE", "/grants/"+id, nil)
		if revoked.expect(http.StatusOK, "", "", ""); revoked.text("status") != "revoked" {
			t.Errorf("revoked %s", revoked.Body)
		}
	}
	if found := storetest.Must(s.Directory(t, nil).Lookup(t.Context(), storetest.AccessLookup(access, "acme"))); found.Denial == "" {
		t.Errorf("the app's access token is %+v", found)
	}
	if grants, _ := s.send(t, ada, "GET", "/grants", nil).field("grants").([]any); len(grants) != 0 {
		t.Errorf("the grants are %v", grants)
	}
	s.send(t, ada.with("Api", "velaflows"), "GET", "/grants", nil).expect(http.StatusNotFound, "NOT_FOUND", "not_found", "")
}

func TestActivity(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	created := s.send(t, ada, "POST", "/tokens", fields{"name": "CI", "scopes": []string{"issues:read"}})
	s.send(t, ada, "POST", "/personal-keys", fields{"name": "CLI", "scopes": []string{"user:read"}})
	s.send(t, ada, "DELETE", "/tokens/"+created.text("id"), nil)
	for path, name := range map[string]string{"/activity": "CI", "/account/activity": "CLI"} {
		page := s.send(t, ada, "GET", path+"?object_kind=token&action=create", nil)
		page.expect(http.StatusOK, "", "", "")
		events, _ := page.field("events").([]any)
		event, _ := events[0].(map[string]any)
		text, _ := event["text"].(string)
		if len(events) != 1 || !strings.Contains(text, name) || event["request_id"] != "decision-1" || event["actor"] != "Ada@example.com" {
			t.Errorf("%s: %s", path, page.Body)
		}
		if strings.Contains(page.Body.String(), created.text("token")) {
			t.Errorf("%s contains a secret", path)
		}
		first := s.send(t, ada, "GET", path+"?limit=1", nil)
		second := s.send(t, ada, "GET", path+"?limit=1&cursor="+first.text("next_cursor"), nil)
		if second.expect(http.StatusOK, "", "", ""); first.text("next_cursor") == "" || first.Body.String() == second.Body.String() {
			t.Errorf("%s: the pages are %s and %s", path, first.Body, second.Body)
		}
		for query, field := range map[string]string{
			"action=none": "action", "object_kind=none": "object_kind", "actor=%00": "actor", "actor=%FF": "actor", "cursor=x": "cursor", "cursor=-1": "cursor",
			"cursor=99999999999999999999": "cursor", "limit=101": "limit",
		} {
			s.send(t, ada, "GET", path+"?"+query, nil).expect(http.StatusBadRequest, "INVALID_REQUEST", "invalid_query", field)
		}
		if events, _ := s.send(t, ada, "GET", path+"?actor=nobody@example.com", nil).field("events").([]any); len(events) != 0 {
			t.Errorf("%s: an unknown actor has %v", path, events)
		}
	}
}
