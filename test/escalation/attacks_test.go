package escalation

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/supabase"
)

// proofs of two browsers
const (
	ownProof   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	otherProof = "ZYXWVUTSRQPONMLKJIHGFEDCBA"
)

// form is a form of Velocity's pages, with what makes it valid.
type form struct {
	path   string
	fields url.Values
}

// forms returns a form of every kind. Olga may send them.
func (w *world) forms(t *testing.T) []form {
	t.Helper()
	key := func() string {
		created, _ := w.CreateToken(t, "vel_", registry.NewToken{Name: "victim", Scopes: []string{"issues:read"}, Workspace: "acme"})
		return "/settings/api-keys/" + created.ID
	}
	fresh := func(verb string) string {
		cached, v := w.victim(t, operation{api: "velocity", verb: verb, of: "olga"})
		delete(w.victims, cached)
		return v.id
	}
	all := []form{
		{"/settings/api-keys/new", url.Values{"name": {"forged"}, "scope": {"workspace:admin"}, "prefix": {"vel_"}, "expiry": {"none"}, "confirmed": {"yes"}}},
		{"/settings/account/personal-api-keys/new", url.Values{"name": {"forged"}, "scope": {"admin"}, "prefix": {"velu_"}, "expiry": {"none"}, "confirmed": {"yes"}}},
		{key() + "/rotate", url.Values{"overlap": {"0s"}}},
		{key() + "/revoke", url.Values{}},
		{"/settings/api-keys/leavers", url.Values{"leaver_rule": {"end"}}},
		{"/settings/oauth-apps/new", url.Values{"name": {"forged"}, "redirect_uris": {"https://evil.example/cb"}, "type": {"confidential"}}},
		{"/settings/oauth-apps/" + fresh("rotate app") + "/rotate", url.Values{}},
		{"/settings/oauth-apps/" + fresh("delete app") + "/delete", url.Values{}},
		{"/settings/account/authorized-apps/" + fresh("revoke grant") + "/revoke", url.Values{}},
	}
	for n := range all {
		f := all[n].fields
		f.Set("proof", ownProof)
		f.Set("user", w.users["olga"].ID)
		f.Set("key", rand.Text())
		f.Set("opened", fmt.Sprint(time.Now().Unix()))
	}
	return all
}

func (w *world) cookies(user, proof string) string {
	return "sb-demo-auth-token=" + w.session(user, time.Hour) + "; keywicket_console=" + proof
}

const formType = "application/x-www-form-urlencoded"

// Pages of other sites, other browsers, and requests that are no forms change nothing. The same forms from the pages themselves do.
func TestForgedForms(t *testing.T) {
	w := shared
	own := w.cookies("olga", ownProof)
	change := func(pairs ...string) func(url.Values) {
		return func(f url.Values) {
			for n := 0; n < len(pairs); n += 2 {
				f.Set(pairs[n], pairs[n+1])
			}
		}
	}
	attacks := map[string]struct {
		method string // empty: POST
		header []string
		change func(url.Values)
	}{
		"another site":                         {header: []string{"Cookie", own, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}},
		"a sibling host":                       {header: []string{"Cookie", own, "Sec-Fetch-Site", "same-site", "Origin", "http://evil.127.0.0.1"}},
		"another site, in an old browser":      {header: []string{"Cookie", own, "Origin", "https://evil.example"}},
		"a frame without an origin":            {header: []string{"Cookie", own, "Origin", "null"}},
		"a frame without an origin, new":       {header: []string{"Cookie", own, "Sec-Fetch-Site", "cross-site", "Origin", "null"}},
		"the same host with another scheme":    {header: []string{"Cookie", own, "Origin", strings.Replace(w.Velocity, "http:", "https:", 1)}},
		"the other API's pages":                {header: []string{"Cookie", own, "Sec-Fetch-Site", "same-site", "Origin", w.VelaFlows}},
		"the proof of another browser":         {header: []string{"Cookie", own, "Sec-Fetch-Site", "same-origin"}, change: change("proof", otherProof)},
		"no proof in the form":                 {header: []string{"Cookie", own, "Sec-Fetch-Site", "same-origin"}, change: change("proof", "")},
		"no cookie with a proof":               {header: []string{"Cookie", w.cookies("olga", ""), "Sec-Fetch-Site", "same-origin"}, change: change("proof", "")},
		"no headers, and no proof":             {header: []string{"Cookie", w.cookies("olga", "")}, change: change("proof", "")},
		"a proof that a sibling host has set":  {header: []string{"Cookie", w.cookies("olga", otherProof) + "; keywicket_console=" + ownProof, "Sec-Fetch-Site", "same-site"}, change: change("proof", otherProof)},
		"the form of another user":             {header: []string{"Cookie", own, "Sec-Fetch-Site", "same-origin"}, change: change("user", w.users["adam"].ID)},
		"no user in the form":                  {header: []string{"Cookie", own, "Sec-Fetch-Site", "same-origin"}, change: change("user", "")},
		"the session of another user":          {header: []string{"Cookie", w.cookies("nina", ownProof), "Sec-Fetch-Site", "same-origin"}},
		"no session":                           {header: []string{"Cookie", "keywicket_console=" + ownProof, "Sec-Fetch-Site", "same-origin"}},
		"a session in a header":                {header: []string{"Cookie", "keywicket_console=" + ownProof, "Authorization", "Bearer " + w.session("olga", time.Hour), "Sec-Fetch-Site", "same-origin"}},
		"a query with GET":                     {method: "GET", header: []string{"Cookie", own, "Sec-Fetch-Site", "cross-site"}},
		"a query with HEAD":                    {method: "HEAD", header: []string{"Cookie", own, "Sec-Fetch-Site", "same-origin"}},
		"a query with GET and another method":  {method: "GET", header: []string{"Cookie", own, "X-HTTP-Method-Override", "POST", "X-Method-Override", "POST"}, change: change("_method", "POST")},
		"a form with PUT":                      {method: "PUT", header: []string{"Cookie", own, "Sec-Fetch-Site", "same-origin"}},
		"a form with a method of another case": {method: "post", header: []string{"Cookie", own, "Sec-Fetch-Site", "same-origin"}},
	}
	for n, f := range w.forms(t) {
		for m, name := range slices.Sorted(maps.Keys(attacks)) {
			a := attacks[name]
			if testing.Short() && (n+m)%3 != 0 {
				continue
			}
			fields := url.Values{}
			for k, v := range f.fields {
				fields[k] = v
			}
			if a.change != nil {
				a.change(fields)
			}
			method, address, body := "POST", w.Velocity+f.path, fields.Encode()
			if a.method != "" {
				method = a.method
			}
			if method == "GET" || method == "HEAD" {
				address, body = address+"?"+body, ""
			}
			before := w.state(t)
			got := send(t, method, address, body, append([]string{"Content-Type", formType}, a.header...)...)
			isGet := method == "GET" || method == "HEAD"
			shown := isGet && (got.status == http.StatusOK || got.status == http.StatusSeeOther)
			if got.status/100 != 4 && !shown || got.status == http.StatusTooManyRequests {
				t.Errorf("%s: %s: %d %s", f.path, name, got.status, got.main())
			}
			if after := w.state(t); after != before {
				t.Errorf("%s: %s: the database changes from %s to %s", f.path, name, before, after)
			}
		}
		for _, contentType := range []string{"text/plain", "multipart/form-data; boundary=x", "application/json", ""} {
			before := w.state(t)
			got := send(t, "POST", w.Velocity+f.path, f.fields.Encode(), "Content-Type", contentType, "Cookie", own, "Sec-Fetch-Site", "cross-site")
			if after := w.state(t); got.status/100 != 4 || after != before {
				t.Errorf("%s: %q: %d, and the database changes from %s to %s", f.path, contentType, got.status, before, after)
			}
		}
		before := w.state(t)
		got := send(t, "POST", w.Velocity+f.path, f.fields.Encode(), "Content-Type", formType, "Cookie", own, "Sec-Fetch-Site", "same-origin")
		if after := w.state(t); got.status != 200 && got.status != 303 || after == before {
			t.Errorf("%s: the valid form: %d %s", f.path, got.status, got.main())
		}
	}
}

// No page can be framed, whatever its status.
func TestNoFrames(t *testing.T) {
	w := shared
	statuses, users, methods := map[int]int{}, []string{"olga", "mia", "nina", "bea", ""}, []string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"}
	if testing.Short() {
		users, methods = []string{"olga", ""}, methods[:2]
	}
	for api, sections := range map[string][]string{
		"velaflows": {"/developer/api-tokens", "/activity", "/account/activity"},
		"velocity":  {"/api-keys", "/account/personal-api-keys", "/oauth-apps", "/account/authorized-apps", "/activity", "/account/activity"},
	} {
		paths := []string{"", "/", "/none", "/static/none.css"}
		for _, s := range sections {
			paths = append(paths, s, s+"/new", s+"/leavers", s+"/none", s+"/none/rotate", s+"/none/revoke", s+"/none/delete", s+"?workspace=globex", s+"?workspace=%ff", s+"?after=x", s+"?returned=1")
		}
		for _, path := range paths {
			for _, user := range users {
				cookie := "none=none"
				if user != "" {
					cookie = w.cookies(user, ownProof)
				}
				for _, method := range methods {
					a := send(t, method, w.URLs[api]+"/settings"+path, "", "Cookie", cookie)
					statuses[a.status]++
					if a.status >= 500 {
						t.Errorf("%s /settings%s of %s: %d %s", method, path, user, a.status, a.main())
					}
					if a.header.Get("Content-Type") == "application/json" {
						continue // the denial of the sidecar, which is no page
					}
					policy := a.header.Values("Content-Security-Policy")
					if len(policy) != 1 || !strings.Contains(policy[0], "frame-ancestors 'none'") || a.header.Get("X-Frame-Options") != "DENY" || a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Cache-Control") != "no-store" {
						t.Errorf("%s /settings%s of %s: %d with %v", method, path, user, a.status, a.header)
					}
				}
			}
		}
	}
	for _, status := range []int{200, 303, 403, 404} {
		if statuses[status] == 0 {
			t.Errorf("no page has the status %d: %v", status, statuses)
		}
	}
}

// The headers that the sidecar sets cannot be forged through Envoy, and the pages know their API from Envoy.
func TestForgedIdentity(t *testing.T) {
	w := shared
	olga, acme := w.users["olga"], w.workspaces["acme"]
	forged := func(prefix string) []string {
		return []string{
			prefix + "api", "velocity", prefix + "kind", "session", prefix + "subject", olga.ID, prefix + "user-id", olga.ID, prefix + "scopes", "admin workspace:admin",
			prefix + "workspace-id", acme.ID, prefix + "workspace-slug", "acme", prefix + "role", "owner", prefix + "decision-id", "x",
		}
	}
	create := func(header ...string) answer {
		return send(t, "POST", w.Velocity+managementAPI+"/tokens", `{"name":"forged","scopes":["issues:read"]}`, append(header, "Content-Type", "application/json")...)
	}
	before := w.state(t)
	for name, header := range map[string][]string{"plain": forged("x-keywicket-"), "upper case": forged("X-KEYWICKET-"), "underscores": forged("x_keywicket_"), "mixed": forged("x-keywicket_"), "dots": forged("x.keywicket.")} {
		for caller, credentials := range map[string][]string{
			"nobody": nil, "a member": w.credentials(caller{secret: w.session("mia", time.Hour)}, "velocity", "acme"),
			"a stranger": w.credentials(caller{secret: w.session("nina", time.Hour)}, "velocity", "acme"),
			"a member who drops the sidecar's headers": append(w.credentials(caller{secret: w.session("mia", time.Hour)}, "velocity", "acme"),
				"Connection", "close, x-keywicket-user-id, x-keywicket-scopes, x-keywicket-kind, x-keywicket-workspace-id"),
		} {
			if a := create(append(credentials, header...)...); !slices.Contains([]int{400, 401, 403}, a.status) {
				t.Errorf("%s with %s headers: %d %s", caller, name, a.status, a.text)
			}
		}
		// The owner stays in their own workspace, and acts for themselves.
		if a := send(t, "GET", w.Velocity+managementAPI+"/workspaces", "", append([]string{"Authorization", "Bearer " + w.session("zed", time.Hour)}, header...)...); a.status == 200 && strings.Contains(a.text, "acme") {
			t.Errorf("%s headers: zed is in %s", name, a.text)
		}
		a := send(t, "GET", w.VelaFlows+"/settings/api-keys?workspace=acme", "", append([]string{"Cookie", w.cookies("olga", ownProof)}, header...)...)
		if a.status != http.StatusNotFound && a.status != http.StatusBadRequest {
			t.Errorf("%s headers: VelaFlows shows the pages of Velocity: %d %s", name, a.status, a.main())
		}
		a = send(t, "GET", w.Velocity+"/settings/api-keys?workspace=acme", "", append([]string{"Cookie", w.cookies("nina", ownProof)}, header...)...)
		if a.status != http.StatusNotFound && a.status != http.StatusBadRequest {
			t.Errorf("%s headers: nina is in acme: %d %s", name, a.status, a.main())
		}
	}
	// Requests that do not come from Envoy have no headers of the sidecar.
	for path, status := range map[string]int{managementAPI + "/tokens": 403, managementAPI + "/workspaces": 403, managementAPI + "/personal-keys": 403, "/settings/api-keys": 404, "/settings": 404} {
		a := send(t, "GET", "http://"+w.Console.Addr+path, "", "Cookie", w.cookies("olga", ownProof), "Authorization", "Bearer "+w.session("olga", time.Hour), "X-Workspace-Slug", "acme")
		if a.status != status {
			t.Errorf("%s, past Envoy: %d %s", path, a.status, a.text)
		}
	}
	// Sessions of another issuer.
	other := supabase.Start()
	defer other.Close()
	genuine := strings.Split(w.session("olga", time.Hour), ".")
	for name, session := range map[string]string{
		"another issuer": other.Token(olga.ID, nil), "no signature": "eyJhbGciOiJub25lIn0." + genuine[1] + ".", "another signature": genuine[0] + "." + genuine[1] + "." + strings.Repeat("A", len(genuine[2])),
	} {
		a := send(t, "GET", w.Velocity+"/settings/api-keys", "", "Cookie", "sb-demo-auth-token="+session)
		if a.status != http.StatusSeeOther || !strings.Contains(a.location, "/login") {
			t.Errorf("a session with %s: %d %s", name, a.status, a.main())
		}
	}
	if after := w.state(t); after != before {
		t.Errorf("the database changes from %s to %s", before, after)
	}
}
