package escalation

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/product"
)

// operation is something that a caller tries to do.
type operation struct {
	api, verb string
	level     string // workspace, user or account: whose objects it concerns
	workspace string // the workspace of the request
	of        string // the workspace or the user that has the object; empty: the caller
	prefix    string
	scopes    []string // of the token that it creates or rotates
	lifetime  lifetime // of the token that it creates or rotates
	page      bool     // on the pages; otherwise with the management API
}

type lifetime string

// A caller's own token lives an hour or forever.
const (
	forever lifetime = "forever"
	long    lifetime = "long"
	brief   lifetime = "brief"
)

func (l lifetime) end() *time.Time {
	switch l {
	case long:
		return new(time.Now().AddDate(0, 0, 30))
	case brief:
		return new(time.Now().Add(30 * time.Minute))
	}
	return nil
}

func (o operation) String() string {
	where := "the API"
	if o.page {
		where = "the page"
	}
	return strings.Join(strings.Fields(fmt.Sprintf("%s of %s: %s %s %s of %q in %q with %v %s", where, o.api, o.verb, o.level, o.prefix, o.of, o.workspace, o.scopes, o.lifetime)), " ")
}

// creates reports whether the operation gives the caller a new token.
func (o operation) creates() bool { return o.verb == "create" || o.verb == "rotate" }

// operations returns all operations of an API. If cut is true, it returns a part with all kinds of operations.
func operations(api string, cut bool) (all []operation) {
	full, read := fullAccess[api]["workspace"][0], map[string]string{"velaflows": "inbox:read", "velocity": "issues:read"}[api]
	add := func(o operation) {
		o.api = api
		all = append(all, o)
		if o.page = true; pageOf(o) != "" {
			all = append(all, o)
		}
	}
	valid := slices.Concat(scopesOf(api, "workspace"), scopesOf(api, "user"), []string{"issues:burn"})
	if cut {
		valid = slices.DeleteFunc(valid, func(s string) bool {
			return !slices.Contains([]string{full, read, "contacts:write", "issues:write", "user:read", "admin", "issues:burn"}, s)
		})
	}
	for _, level := range []string{"workspace", "user"} {
		owners := map[string][]string{"velaflows workspace": {"acme", "globex"}, "velocity workspace": {"acme", "globex"}, "velocity user": {""}}
		for _, owner := range owners[api+" "+level] {
			for _, prefix := range prefixesOf(api, level) {
				for _, scope := range valid {
					add(operation{verb: "create", level: level, workspace: owner, of: owner, prefix: prefix, scopes: []string{scope}, lifetime: forever})
				}
				add(operation{verb: "create", level: level, workspace: owner, of: owner, prefix: prefix, scopes: []string{read}, lifetime: long})
				add(operation{verb: "create", level: level, workspace: owner, of: owner, prefix: prefix, scopes: []string{read}, lifetime: brief})
				add(operation{verb: "create", level: level, workspace: owner, of: owner, prefix: prefix, scopes: []string{read, "issues:burn"}, lifetime: forever})
			}
			for _, prefix := range []string{"vel_", "velu_", "velo_", "sk_live_"} {
				if !slices.Contains(prefixesOf(api, level), prefix) {
					add(operation{verb: "create", level: level, workspace: owner, of: owner, prefix: prefix, scopes: []string{read}, lifetime: forever})
				}
			}
			for _, verb := range []string{"list", "scopes"} {
				add(operation{verb: verb, level: level, workspace: owner, of: owner})
			}
		}
	}
	for _, in := range []string{"acme", "globex"} {
		for _, verb := range []string{"leavers", "set leavers", "activity"} {
			add(operation{verb: verb, level: "workspace", workspace: in, of: in})
		}
		for _, of := range []string{"acme", "globex", otherAPI} {
			for _, verb := range []string{"read", "usage", "revoke", "rotate"} {
				for _, scope := range []string{read, full} {
					for _, lives := range []lifetime{forever, brief} {
						if verb == "rotate" || scope == read && lives == forever {
							add(operation{verb: verb, level: "workspace", workspace: in, of: of, scopes: []string{scope}, lifetime: lives})
						}
					}
				}
			}
		}
	}
	add(operation{verb: "workspaces", level: "account"})
	if api == "velaflows" {
		return all
	}
	for _, of := range []string{"olga", "mia"} {
		for _, verb := range []string{"read", "usage", "revoke", "rotate"} {
			add(operation{verb: verb, level: "user", of: of, scopes: []string{"user:read"}, lifetime: brief})
		}
		for _, verb := range []string{"read app", "rotate app", "delete app", "revoke grant"} {
			add(operation{verb: verb, level: "user", of: of})
		}
	}
	for _, verb := range []string{"create app", "list apps", "list grants", "account activity"} {
		add(operation{verb: verb, level: "user"})
	}
	return all
}

// otherAPI marks an object that belongs to the workspace of the request, but at the other API.
const otherAPI = "the other API"

// victim is an object that somebody tries to read or change.
type victim struct{ id, name string }

// victim returns the object of an operation. It creates the object if an earlier operation has changed it.
func (w *world) victim(t *testing.T, o operation) (key string, v victim) {
	t.Helper()
	kind := o.verb[strings.Index(o.verb, " ")+1:]
	key = fmt.Sprint(o.api, o.of, o.of == otherAPI && o.workspace == "acme", kind == "app" || kind == "grant", kind == "grant", o.scopes, o.lifetime)
	if v, ok := w.victims[key]; ok {
		return key, v
	}
	v.name = "victim-" + rand.Text()
	switch kind {
	case "app":
		app, _, err := w.Registry.CreateApp(t.Context(), registry.NewApp{API: o.api, Name: v.name, RedirectURIs: []string{"https://victim.example/cb"}, Owner: w.users[o.of].ID})
		if err != nil {
			t.Fatal(err)
		}
		v.id = app.ID
	case "grant":
		v.id, v.name = w.Grant(t, w.users[o.of].ID, []string{"user:read"}).Grant, "" // all apps of grants have the same name
	default:
		n := registry.NewToken{Name: v.name, Scopes: o.scopes, ExpiresAt: o.lifetime.end(), Workspace: o.of}
		if o.level == "user" {
			n.Workspace, n.User = "", w.users[o.of].ID
		}
		prefix := prefixesOf(o.api, o.level)[0]
		if o.of == otherAPI {
			prefix, n.Workspace = map[string]string{"velaflows": "vel_", "velocity": "sk_live_"}[o.api], o.workspace
		}
		created, _ := w.CreateToken(t, prefix, n)
		v.id = created.ID
	}
	w.victims[key] = v
	return key, v
}

// needsVictim reports whether the operation concerns one object.
func (o operation) needsVictim() bool {
	return slices.Contains([]string{"read", "usage", "revoke", "rotate", "read app", "rotate app", "delete app", "revoke grant"}, o.verb)
}

// answer is a response through Envoy.
type answer struct {
	status   int
	location string
	header   http.Header
	text     string
}

var client = &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// send sends a request. The parameters `header` are names and values in turn.
func send(t *testing.T, method, address, body string, header ...string) answer {
	t.Helper()
	request := storetest.Must(http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body)))
	for n := 0; n < len(header); n += 2 {
		request.Header.Add(header[n], header[n+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	return answer{response.StatusCode, response.Header.Get("Location"), response.Header, string(storetest.Must(io.ReadAll(response.Body)))}
}

const managementAPI = "/api/keywicket/v1"

// callAPI sends an operation to the management API, with the caller's own credential.
func (w *world) callAPI(t *testing.T, c caller, o operation, v victim) (a answer, accepted bool, secret string) {
	t.Helper()
	list := map[string]string{"workspace": "/tokens", "user": "/personal-keys"}[o.level]
	one := list + "/" + v.id
	lines := map[string]string{
		"create": "POST " + list, "list": "GET " + list, "scopes": "GET " + map[string]string{"workspace": "/scopes", "user": "/personal-scopes"}[o.level],
		"read": "GET " + one, "usage": "GET " + one + "/usage", "revoke": "DELETE " + one, "rotate": "POST " + one + "/rotate",
		"leavers": "GET /workspace", "set leavers": "PATCH /workspace", "activity": "GET /activity", "workspaces": "GET /workspaces",
		"create app": "POST /apps", "list apps": "GET /apps", "read app": "GET /apps/" + v.id, "rotate app": "POST /apps/" + v.id + "/rotate",
		"delete app": "DELETE /apps/" + v.id, "list grants": "GET /grants", "revoke grant": "DELETE /grants/" + v.id, "account activity": "GET /account/activity",
	}
	method, path, _ := strings.Cut(lines[o.verb], " ")
	var body string
	header := w.credentials(c, o.api, o.workspace)
	if content := map[string]map[string]any{
		"create":      {"name": "created", "scopes": o.scopes, "expires_at": o.lifetime.end(), "prefix": o.prefix},
		"set leavers": {"leaver_rule": "keep"},
		"create app":  {"name": "created", "redirect_uris": []string{"https://created.example/cb"}},
	}[o.verb]; content != nil {
		body = string(storetest.Must(json.Marshal(content)))
		header = append(header, "Content-Type", "application/json")
	}
	a = send(t, method, w.URLs[o.api]+managementAPI+path, body, header...)
	accepted = a.status/100 == 2
	var object struct{ Token string }
	_ = json.Unmarshal([]byte(a.text), &object) // other answers have no token
	return a, accepted, object.Token
}

// credentials returns the headers of a request with the caller's credential, in a workspace.
func (w *world) credentials(c caller, api, workspace string) (header []string) {
	if c.secret != "" {
		header = append(header, "Authorization", "Bearer "+c.secret)
	}
	if workspace != "" {
		value := workspace
		if api == "velaflows" {
			value = w.workspaces[workspace].ID
		}
		header = append(header, product.WorkspaceHeaders[api], value)
	}
	return header
}

// pageOf returns the path of the operation's page; empty if the pages do not have the operation. %s is the id of the object.
func pageOf(o operation) string {
	list := map[string]string{"velaflows workspace": "/developer/api-tokens", "velocity workspace": "/api-keys", "velocity user": "/account/personal-api-keys"}[o.api+" "+o.level]
	if list == "" || o.verb == "create" && o.lifetime == brief {
		return ""
	}
	return map[string]string{
		"create": list + "/new", "list": list, "read": list + "/%s/revoke", "revoke": list + "/%s/revoke", "rotate": list + "/%s/rotate",
		"leavers": list + "/leavers", "set leavers": list + "/leavers", "activity": "/activity",
		"create app": "/oauth-apps/new", "list apps": "/oauth-apps", "read app": "/oauth-apps/%s", "rotate app": "/oauth-apps/%s/rotate",
		"delete app": "/oauth-apps/%s/delete", "list grants": "/account/authorized-apps", "revoke grant": "/account/authorized-apps/%s/revoke",
		"account activity": "/account/activity",
	}[o.verb]
}

// openPage sends an operation to the pages, with the caller's credential in the cookie. A form is sent as the page sends it.
func (w *world) openPage(t *testing.T, c caller, o operation, v victim) (a answer, accepted bool, secret string) {
	t.Helper()
	path := "/settings" + strings.ReplaceAll(pageOf(o), "%s", v.id)
	if o.workspace != "" {
		path += "?workspace=" + o.workspace
	}
	const proof = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	header := []string{"Cookie", "sb-demo-auth-token=" + c.secret + "; keywicket_console=" + proof, "Sec-Fetch-Site", "same-origin"}
	form := map[string]url.Values{
		"create": {"name": {"created"}, "scope": o.scopes, "prefix": {o.prefix}, "expiry": {map[lifetime]string{forever: "none", long: "30"}[o.lifetime]}, "confirmed": {"yes"}},
		"revoke": {}, "rotate": {"overlap": {"0s"}}, "set leavers": {"leaver_rule": {"keep"}}, "rotate app": {}, "delete app": {}, "revoke grant": {},
		"create app": {"name": {"created"}, "redirect_uris": {"https://created.example/cb"}, "type": {"public"}},
	}[o.verb]
	if form == nil {
		a = send(t, http.MethodGet, w.URLs[o.api]+path, "", header...)
		refused := []string{"You may not", "you may not", "Only owners and admins", "cannot manage", "cannot see"}
		accepted = a.status == http.StatusOK && !slices.ContainsFunc(refused, func(text string) bool { return strings.Contains(a.text, text) })
		return a, accepted, ""
	}
	form.Set("proof", proof)
	form.Set("user", w.users[c.user].ID)
	form.Set("key", rand.Text())
	form.Set("opened", strconv.FormatInt(time.Now().Unix(), 10))
	a = send(t, http.MethodPost, w.URLs[o.api]+path, form.Encode(), append(header, "Content-Type", "application/x-www-form-urlencoded")...)
	if _, rest, ok := strings.Cut(a.text, `<input id="secret"`); ok {
		_, rest, _ = strings.Cut(rest, `value="`)
		secret, _, _ = strings.Cut(rest, `"`)
	}
	accepted = a.status == http.StatusOK || a.status == http.StatusSeeOther && strings.HasPrefix(a.location, "/settings/")
	return a, accepted, secret
}
