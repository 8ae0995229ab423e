package api_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/storetest"
)

// fields is a JSON object.
type fields map[string]any

// tokenPaths are the paths of the tokens of each kind of owner, and a scope that their tokens may have.
var tokenPaths = map[string]string{"/tokens": "issues:read", "/personal-keys": "user:read"}

func TestTokensAreCreatedReadRotatedAndRevoked(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	directory := s.Directory(t, nil)
	for path, scope := range tokenPaths {
		t.Run(path, func(t *testing.T) {
			expiry := time.Now().Add(90 * 24 * time.Hour).UTC().Truncate(time.Second)
			created := s.send(t, ada, "POST", path, fields{"name": "CI", "scopes": []string{scope}, "expires_at": expiry})
			created.expect(http.StatusCreated, "", "", "")
			id, key := created.text("id"), created.secretOf()
			found := storetest.Must(directory.Lookup(t.Context(), storetest.Lookup(key)))
			if found.Denial != "" || found.Principal.ID != id || !slices.Equal(found.Principal.Scopes, []string{scope}) {
				t.Errorf("the new token is %+v", found)
			}
			if !strings.HasPrefix(key.Reveal(), created.text("prefix")) || created.text("name") != "CI" || created.text("status") != "active" ||
				created.text("expires_at") != expiry.Format(time.RFC3339) {
				t.Errorf("created %s", created.Body)
			}
			read := s.send(t, ada, "GET", path+"/"+id, nil)
			read.expect(http.StatusOK, "", "", "")
			if strings.Contains(read.Body.String(), key.Reveal()) || read.text("id") != id {
				t.Errorf("read %s", read.Body)
			}

			rotated := s.send(t, ada, "POST", path+"/"+id+"/rotate", fields{"overlap": 3600})
			rotated.expect(http.StatusCreated, "", "", "")
			if rotated.text("id") == id || rotated.text("token") == "" || rotated.text("name") != "CI" {
				t.Errorf("rotated %s", rotated.Body)
			}
			ends := storetest.Must(time.Parse(time.RFC3339, s.send(t, ada, "GET", path+"/"+id, nil).text("expires_at")))
			if left := time.Until(ends); left < 59*time.Minute || left > time.Hour {
				t.Errorf("the old token ends in %v", left)
			}
			again := s.send(t, ada, "POST", path+"/"+rotated.text("id")+"/rotate", nil)
			again.expect(http.StatusCreated, "", "", "")
			if old := s.send(t, ada, "GET", path+"/"+rotated.text("id"), nil); old.text("status") != "expired" {
				t.Errorf("without an overlap, the old token is %s", old.Body)
			}

			for range 2 { // a second revocation changes nothing
				revoked := s.send(t, ada, "DELETE", path+"/"+again.text("id"), nil)
				revoked.expect(http.StatusOK, "", "", "")
				if revoked.text("status") != "revoked" || revoked.text("revoked_at") == "" {
					t.Errorf("revoked %s", revoked.Body)
				}
			}
			s.send(t, ada, "POST", path+"/"+again.text("id")+"/rotate", nil).expect(http.StatusUnprocessableEntity, "INVALID_REQUEST", "invalid", "")
		})
	}
}

// The audit log has the user, or the token, that has called the API.
func TestAuditLogHasTheCaller(t *testing.T) {
	s := newServer(t)
	actor := func(id string) string {
		return storetest.Value[string](t, s.DB, `SELECT concat_ws(' ', actor_kind, actor_id, request_id, login) FROM keywicket.audit_log
			WHERE object_id = $1 AND action = 'create'`, id)
	}
	byUser := s.send(t, s.session(), "POST", "/tokens", fields{"name": "CI", "scopes": []string{"workspace:admin"}})
	if got := actor(byUser.text("id")); !strings.HasPrefix(got, "user "+s.Ada.ID+" decision-1 ") {
		t.Errorf("the actor is %s", got)
	}
	key := caller{
		"Api": "velocity", "Kind": "workspace_key", "Subject": byUser.text("id"), "Workspace-Id": s.Acme.ID, "Workspace-Slug": "acme",
		"Scopes": "workspace:admin", "Decision-Id": "decision-1",
	}
	byToken := s.send(t, key, "POST", "/tokens", fields{"name": "CD", "scopes": []string{"issues:read"}})
	byToken.expect(http.StatusCreated, "", "", "")
	if got := actor(byToken.text("id")); !strings.HasPrefix(got, "token "+byUser.text("id")+" decision-1 ") {
		t.Errorf("the actor is %s", got)
	}
	s.send(t, s.session(), "DELETE", "/tokens/"+byUser.text("id"), nil).expect(http.StatusOK, "", "", "")
	s.send(t, key, "GET", "/tokens/"+byToken.text("id"), nil).expect(http.StatusForbidden, "FORBIDDEN", "not_permitted", "")
}

// Nobody sees that a token of somebody else exists.
func TestTokensOfOthersDoNotExist(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	token := s.send(t, ada, "POST", "/tokens", fields{"name": "CI", "scopes": []string{"issues:read"}}).text("id")
	key := s.send(t, ada, "POST", "/personal-keys", fields{"name": "CLI", "scopes": []string{"user:read"}}).text("id")
	storetest.Must(s.SetMember(t.Context(), "globex", s.Bob.ID, "owner"))
	bob := ada.with("User-Id", s.Bob.ID).with("Subject", s.Bob.ID).with("Workspace-Id", s.Globex.ID).with("Workspace-Slug", "globex")
	velaflows := ada.with("Api", "velaflows")
	for name, c := range map[string]struct {
		caller caller
		path   string
	}{
		"a token of another workspace": {bob, "/tokens/" + token},
		"a key of another user":        {bob, "/personal-keys/" + key},
		"a key as a token":             {ada, "/tokens/" + key},
		"a token as a key":             {ada, "/personal-keys/" + token},
		"a token of another API":       {velaflows, "/tokens/" + token},
		"an API without personal keys": {velaflows, "/personal-keys/" + key},
		"an unknown id":                {ada, "/tokens/none"},
		"an id with a NUL":             {ada, "/tokens/a%00b"},
		"an id with a slash":           {ada, "/tokens/a%2Fb"},
		"an id that is not UTF-8":      {ada, "/tokens/%FF"},
	} {
		t.Run(name, func(t *testing.T) {
			for method, suffix := range map[string]string{"GET": "", "DELETE": "", "POST": "/rotate"} {
				s.send(t, c.caller, method, c.path+suffix, nil).expect(http.StatusNotFound, "NOT_FOUND", "not_found", "")
			}
		})
	}
	if n := storetest.Value[int](t, s.DB, `SELECT count(*) FROM keywicket.tokens WHERE revoked_at IS NULL AND expires_at IS NULL`); n != 2 {
		t.Errorf("%d tokens are unchanged, not 2", n)
	}
}

func TestIdempotencyKey(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	body := fields{"name": "CI", "scopes": []string{"issues:read"}}
	send := func(path string, body any, key string) response {
		return s.send(t, ada, "POST", path, body, "Idempotency-Key", key)
	}
	first := send("/tokens", body, "k1")
	again := send("/tokens", body, "k1")
	again.expect(http.StatusCreated, "", "", "")
	if again.text("id") != first.text("id") || again.field("token") != nil || first.text("token") == "" ||
		again.Header().Get("Idempotency-Replayed") != "true" || first.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("first %s, then %s %v", first.Body, again.Body, again.Header())
	}
	other := fields{"name": "CD", "scopes": []string{"issues:read"}}
	send("/tokens", other, "k1").expect(http.StatusConflict, "CONFLICT", "idempotency_key_used", "")
	send("/personal-keys", fields{"name": "CI", "scopes": []string{"user:read"}}, "k1").expect(http.StatusConflict, "CONFLICT", "idempotency_key_used", "")
	rotate := "/tokens/" + first.text("id") + "/rotate"
	send(rotate, nil, "k1").expect(http.StatusConflict, "CONFLICT", "idempotency_key_used", "")
	rotated := send(rotate, fields{"overlap": 60}, "k2")
	if repeated := send(rotate, fields{"overlap": 60}, "k2"); repeated.text("id") != rotated.text("id") || repeated.field("token") != nil {
		t.Errorf("rotated %s, then %s", rotated.Body, repeated.Body)
	}
	again = send("/tokens", body, "k3")
	rotate = "/tokens/" + again.text("id") + "/rotate"
	at := send(rotate, nil, "k4") // without an overlap, the old token has ended
	if repeated := send(rotate, nil, "k4"); repeated.text("id") != at.text("id") || repeated.Code != http.StatusCreated {
		t.Errorf("rotated %s, then %s", at.Body, repeated.Body)
	}
	bob := ada.with("User-Id", s.Bob.ID).with("Subject", s.Bob.ID)
	storetest.Must(s.SetMember(t.Context(), "acme", s.Bob.ID, "admin"))
	if of := s.send(t, bob, "POST", "/tokens", body, "Idempotency-Key", "k1"); of.text("id") == first.text("id") || of.text("token") == "" {
		t.Errorf("the key of another caller gives %s", of.Body)
	}
	for _, key := range []string{"a b", strings.Repeat("k", 256), "kä"} {
		send("/tokens", body, key).expect(http.StatusBadRequest, "INVALID_REQUEST", "invalid_header", "Idempotency-Key")
	}
}

func TestListsHavePages(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	for path, scope := range tokenPaths {
		t.Run(path, func(t *testing.T) {
			var ids []string // newest first
			for _, name := range []string{"Alpha", "alphabet", "Beta", "Gamma", "Delta"} {
				created := s.send(t, ada, "POST", path, fields{"name": name, "scopes": []string{scope}})
				ids = append([]string{created.text("id")}, ids...)
			}
			s.send(t, ada, "DELETE", path+"/"+ids[0], nil)
			list := func(query string) (found []string, next string) {
				page := s.send(t, ada, "GET", path+"?"+query, nil)
				page.expect(http.StatusOK, "", "", "")
				items, _ := page.field("tokens").([]any)
				for _, item := range items {
					token, _ := item.(map[string]any)
					id, _ := token["id"].(string)
					found = append(found, id)
				}
				return found, page.text("next_cursor")
			}
			first, next := list("limit=2")
			second, last := list("limit=3&cursor=" + next)
			if !slices.Equal(append(first, second...), ids) || next == "" || last != "" {
				t.Errorf("the pages are %q and %q with the cursors %q and %q, not %q", first, second, next, last, ids)
			}
			for query, want := range map[string][]string{
				"": ids, "q=alpha": {ids[4], ids[3]}, // a search is sorted by name
				"q=Be": ids[2:3], "q=none": nil, "status=revoked": ids[:1], "status=active": ids[1:], "status=expired": nil,
				"q=%25": nil, "q=alpha&status=revoked": nil,
				"environment=live": ids, "environment=sandbox": nil, "status=unused": nil, "status=expiring": nil,
			} {
				if got, _ := list(query); !slices.Equal(got, want) {
					t.Errorf("%q: %q, not %q", query, got, want)
				}
			}
			for query, field := range map[string]string{
				"limit=0": "limit", "limit=101": "limit", "limit=x": "limit", "limit=1.0": "limit", "limit=%2B1": "limit", "limit=1&limit=2": "limit",
				"limit=": "limit", "status=gone": "status", "environment=moon": "environment", "cursor=e30": "cursor", "cursor=a.b": "cursor",
				"cursor=none": "cursor", "q=%00": "q", "q=%FF": "q", "q=": "q",
			} {
				s.send(t, ada, "GET", path+"?"+query, nil).expect(http.StatusBadRequest, "INVALID_REQUEST", "invalid_query", field)
			}
			s.send(t, ada, "GET", path+"?search=a", nil).expect(http.StatusBadRequest, "INVALID_REQUEST", "unknown_parameter", "")
			s.send(t, ada, "GET", path+"?limit=1;q=a", nil).expect(http.StatusBadRequest, "INVALID_REQUEST", "invalid_query", "")
		})
	}
}

func TestUsageHasTheRequestsPerDay(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	for path, scope := range tokenPaths {
		id := s.send(t, ada, "POST", path, fields{"name": "CI", "scopes": []string{scope}}).text("id")
		s.Exec(t, `INSERT INTO keywicket.token_use (token_id, day, allowed, denied) VALUES ($1, (now() AT TIME ZONE 'UTC')::date - 1, 7, 2)`, id)
		used := s.send(t, ada, "GET", path+"/"+id+"/usage?days=2", nil)
		used.expect(http.StatusOK, "", "", "")
		days, _ := used.field("days").([]any)
		yesterday := fields{"day": time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly), "allowed": 7.0, "denied": 2.0}
		if first, _ := days[0].(map[string]any); len(days) != 2 || !maps.Equal(first, yesterday) {
			t.Errorf("the days are %v", days)
		}
		if days, _ := s.send(t, ada, "GET", path+"/"+id+"/usage", nil).field("days").([]any); len(days) != 30 {
			t.Errorf("there are %d days", len(days))
		}
		for _, value := range []string{"0", "401", "x"} {
			s.send(t, ada, "GET", path+"/"+id+"/usage?days="+value, nil).expect(http.StatusBadRequest, "INVALID_REQUEST", "invalid_query", "days")
		}
		s.send(t, ada, "GET", path+"/none/usage", nil).expect(http.StatusNotFound, "NOT_FOUND", "not_found", "")
	}
}

// The choice has only what the caller may give.
func TestScopesAreThoseOfTheCaller(t *testing.T) {
	s := newServer(t)
	ada := s.session()
	names := func(r response) (names []string) {
		r.expect(http.StatusOK, "", "", "")
		list, _ := r.field("scopes").([]any)
		for _, item := range list {
			scope, _ := item.(map[string]any)
			name, _ := scope["name"].(string)
			if scope["description"] == "" || scope["override"] != (name == "workspace:admin" || name == "admin") {
				t.Errorf("the scope is %v", scope)
			}
			names = append(names, name)
		}
		return names
	}
	of := names(s.send(t, ada, "GET", "/scopes", nil))
	if !slices.Contains(of, "workspace:admin") || !slices.Contains(of, "issues:write") || slices.Contains(of, "user:read") {
		t.Errorf("the scopes are %q", of)
	}
	if of := names(s.send(t, ada, "GET", "/personal-scopes", nil)); !slices.Contains(of, "user:read") || !slices.Contains(of, "issues:read") {
		t.Errorf("the scopes are %q", of)
	}
	choice := s.send(t, ada.with("Api", "velaflows"), "GET", "/scopes", nil)
	presets, _ := choice.field("presets").([]any)
	if prefixes, _ := choice.field("prefixes").([]any); len(prefixes) != 2 || len(presets) < 2 || choice.field("max_lifetime") != nil {
		t.Errorf("the choice of VelaFlows is %s", choice.Body)
	}
	s.send(t, ada.with("Api", "velaflows"), "GET", "/personal-scopes", nil).expect(http.StatusNotFound, "NOT_FOUND", "not_found", "")
}
