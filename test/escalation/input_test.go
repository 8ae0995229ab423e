package escalation

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// Strange ids, parameters and bodies are refused. The console does not fail.
func TestStrangeInput(t *testing.T) {
	w := shared
	created, _ := w.CreateToken(t, "vel_", registry.NewToken{Name: "victim", Scopes: []string{"issues:read"}, Workspace: "acme"})
	cookie, session := w.cookies("olga", ownProof), w.session("olga", time.Hour)
	before := w.state(t)
	check := func(what string, a answer) {
		t.Helper()
		if a.status >= 500 || a.status == http.StatusTooManyRequests || a.status == http.StatusCreated {
			t.Errorf("%s: %d %s", what, a.status, a.main())
		}
		if after := w.state(t); after != before {
			t.Errorf("%s: the database changes from %s to %s", what, before, after)
			before = after
		}
	}
	strange := []string{
		"%ff", "%00", "%F0%9F%98%80", "'%20OR%201=1--", "%22", "..", "%2e%2e", ".", "a%2fb", "a%5cb", "%0d%0aX:1", "%E2%80%AE", strings.Repeat("a", 6000), "%c3%28", "a;b", "*", "{id}", "new", "%20",
		created.ID + "%20", created.ID + "%00", created.ID + ".", strings.ToUpper(created.ID), created.ID + ";x",
	}
	if testing.Short() {
		strange = strange[:3]
	}
	isForm := []string{"Content-Type", formType, "Cookie", cookie, "Sec-Fetch-Site", "same-origin"}
	fields := url.Values{"proof": {ownProof}, "user": {w.users["olga"].ID}, "key": {"K"}, "overlap": {"0s"}}.Encode()
	for _, id := range strange {
		for _, section := range []string{"api-keys", "account/personal-api-keys", "oauth-apps", "account/authorized-apps"} {
			for _, last := range []string{"", "/rotate", "/revoke", "/delete"} {
				path := "/settings/" + section + "/" + id + last
				check("GET "+path, send(t, "GET", w.Velocity+path, "", "Cookie", cookie))
				if !strings.HasSuffix(path, "api-keys/new") && last != "" {
					check("POST "+path, send(t, "POST", w.Velocity+path, fields, isForm...))
				}
			}
			for _, parameter := range []string{"workspace", "q", "status", "after", "revoked", "deleted", "preset", "action", "kind", "actor"} {
				for _, page := range []string{section, "activity", section + "/new"} {
					check(page+"?"+parameter+"="+id, send(t, "GET", w.Velocity+"/settings/"+page+"?"+parameter+"="+strings.ReplaceAll(id, ";", "%3b"), "", "Cookie", cookie))
				}
			}
		}
		for _, line := range []string{"GET /tokens/%s", "DELETE /tokens/%s", "POST /tokens/%s/rotate", "GET /tokens/%s/usage", "DELETE /personal-keys/%s", "GET /apps/%s", "POST /apps/%s/rotate", "DELETE /apps/%s", "DELETE /grants/%s",
			"GET /tokens?q=%s", "GET /tokens?cursor=%s", "GET /tokens?status=%s", "GET /activity?cursor=%s", "GET /activity?actor=%s", "GET /account/activity?action=%s"} {
			method, path, _ := strings.Cut(strings.ReplaceAll(line, "%s", id), " ")
			check(line+" "+id, send(t, method, w.Velocity+managementAPI+path, "", "Authorization", "Bearer "+session, "X-Workspace-Slug", "acme"))
		}
	}
	texts := []string{"\xff", "a\x00b", "\x00", "\u202e", strings.Repeat("x", 5000), "\r\n", "\ufffd\u0000"}
	if testing.Short() {
		texts = texts[:2]
	}
	for _, text := range texts {
		for name := range map[string]bool{"name": true, "scope": true, "prefix": true, "expiry": true, "key": true, "redirect_uris": true, "leaver_rule": true, "overlap": true} {
			for _, path := range []string{"/settings/api-keys/new", "/settings/account/personal-api-keys/new", "/settings/oauth-apps/new", "/settings/api-keys/leavers", "/settings/api-keys/" + created.ID + "/rotate"} {
				f := url.Values{"proof": {ownProof}, "user": {w.users["olga"].ID}, "key": {"K"}, "overlap": {"1s"}, "name": {" "}, "scope": {"user:none"}, "prefix": {"vel_"}, "expiry": {"30"}, "redirect_uris": {"https://a.example/cb"}, "type": {"public"}, "leaver_rule": {"none"}}
				f.Set(name, text)
				if name != "name" && strings.HasSuffix(path, "oauth-apps/new") {
					f.Set("name", "x")
				}
				if name == "key" && strings.HasSuffix(path, "oauth-apps/new") {
					continue // a strange key is a key
				}
				check(fmt.Sprintf("%s with %s=%.9q", path, name, text), send(t, "POST", w.Velocity+path, f.Encode(), isForm...))
			}
		}
	}
}

// Large and slow bodies, and many cookies.
func TestLargeAndSlowRequests(t *testing.T) {
	w := shared
	cookie, session := w.cookies("olga", ownProof), w.session("olga", time.Hour)
	before := w.state(t)
	large := strings.Repeat("x", 8<<20)
	if a := send(t, "POST", w.Velocity+"/settings/api-keys/new", "name="+large, "Content-Type", formType, "Cookie", cookie, "Sec-Fetch-Site", "same-origin"); a.status/100 != 4 {
		t.Errorf("a large form: %d %.500s", a.status, a.main())
	}
	if a := send(t, "POST", w.Velocity+managementAPI+"/tokens", `{"name":"`+large+`"}`, "Content-Type", "application/json", "Authorization", "Bearer "+session, "X-Workspace-Slug", "acme"); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d %.500s", a.status, a.text)
	}
	var many []string
	for n := range 150 {
		many = append(many, fmt.Sprintf("c%d=%s", n, strings.Repeat("x", 200)))
	}
	if a := send(t, "GET", w.Velocity+"/settings/api-keys", "", "Cookie", strings.Join(append(many, cookie), "; ")); a.status != http.StatusOK {
		t.Errorf("many cookies: %d %.500s", a.status, a.main())
	}
	if a := send(t, "GET", w.Velocity+"/settings/api-keys", "", "Cookie", strings.Repeat(strings.Join(many, "; "), 9)+cookie); a.status/100 != 4 {
		t.Errorf("too many cookies: %d %.500s", a.status, a.main())
	}
	// A body that never ends: the console gives up, and other requests are answered in the meantime.
	for path, header := range map[string]string{
		"/settings/api-keys/new":  "Content-Type: " + formType + "\r\nCookie: " + cookie + "\r\nSec-Fetch-Site: same-origin\r\n",
		managementAPI + "/tokens": "Content-Type: application/json\r\nX-Workspace-Slug: acme\r\nAuthorization: Bearer " + session + "\r\n",
	} {
		connection := storetest.Must(net.Dial("tcp", strings.TrimPrefix(w.Velocity, "http://")))
		defer func() { _ = connection.Close() }()
		storetest.Must(io.WriteString(connection, "POST "+path+" HTTP/1.1\r\nHost: velocity.example\r\nContent-Length: 1000\r\n"+header+"\r\nname=x"))
		if a := send(t, "GET", w.Velocity+"/settings/api-keys", "", "Cookie", cookie); a.status != http.StatusOK {
			t.Errorf("in the meantime: %d", a.status)
		}
		if testing.Short() {
			continue
		}
		_ = connection.SetReadDeadline(time.Now().Add(40 * time.Second))
		response, err := http.ReadResponse(bufio.NewReader(connection), nil)
		if err != nil || response.StatusCode < 400 {
			t.Errorf("%s with a slow body: %v, %+v", path, err, response)
			continue
		}
		t.Logf("%s with a slow body: %s", path, response.Status)
		_ = response.Body.Close()
	}
	if after := w.state(t); after != before {
		t.Errorf("the database changes from %s to %s", before, after)
	}
}
