package test

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/supabase"
)

// The matrix checks every route × every credential × every state of the workspace header, in process and through Envoy.
// probe.expect computes the expected outcome. It follows the sentences of the design and does not use the policy.

// probe is one request of the matrix.
type probe struct {
	api        string
	route      documentedRoute
	credential credential
	target     target
}

// credential is the credential of a request, with the properties that the test gave it.
type credential struct {
	name   string
	secret string // after "Bearer "; empty: no Authorization header
	denial string // why it is refused; empty: it is valid
	prefix string
	id     string
	user   string
	scopes []string
	roles  map[string]string // workspace, as the API's header names it → role; for a workspace key: its own → ""
}

// target is a state of the workspace header: its values, possibly none. Envoy passes an empty value on unchanged, and a
// repeated header as often as it came. So both ways have the same expected outcome.
type target struct {
	name   string
	values []string
}

// expect returns the outcome that the design requires. workspace is the workspace in which the request acts, named as in the
// header; "" for none.
func (p probe) expect() (outcome, workspace string) {
	c, scope, override := p.credential, p.route.scope, documented[p.api].override
	// "A public route is open without a credential, beside a bad one": before everything else.
	if p.route.level == public {
		return "allow", ""
	}
	// "Order otherwise: credential (401 UNAUTHORIZED), …"
	if c.denial != "" {
		return "UNAUTHORIZED " + c.denial, ""
	}
	// "… then workspace (403 WORKSPACE_ACCESS_DENIED), …". All of these get the same answer: a header that is repeated,
	// empty, malformed or upper-case, an unknown workspace, and one that the principal is not in.
	// A session is like a personal key that holds admin. An app's token is valid only where its user granted it.
	personal := c.user != ""
	if len(p.target.values) > 0 {
		workspace = p.target.values[0]
		if _, in := c.roles[workspace]; !in || len(p.target.values) > 1 {
			return "WORKSPACE_ACCESS_DENIED workspace_mismatch", ""
		}
	} else {
		switch {
		case p.api == "velaflows": // "x-workspace-id …, required", also for a route that is not listed
			return "WORKSPACE_ACCESS_DENIED workspace_required", ""
		case !personal, c.prefix == "velo_" && len(c.roles) == 1: // "optional with vel_": resolved from the key; "one granted
			// workspace is resolved from the token as with vel_"
			workspace = slices.Collect(maps.Keys(c.roles))[0]
		case p.route.level == workspaceLevel: // "Without the header only user-level routes are open"
			return "WORKSPACE_ACCESS_DENIED workspace_required", ""
		}
	}
	// "… then route and scope (403 FORBIDDEN)". "A route that no rule lists is FORBIDDEN for everybody, overrides included."
	if p.route.level == unlisted {
		return "FORBIDDEN no_route", ""
	}
	var may bool
	switch {
	case p.route.level == userLevel: // "admin overrides every user-level scope". "A workspace key never opens a user-level
		// route … workspace:admin or not." "User-level routes ignore the role."
		may = personal && c.holds(scope, "admin")
	case personal: // "what both its own scopes and the user's role there allow"; "a personal key with admin is held back by
		// the role alone".
		may = c.holds(scope, override, "admin") && roleAllows(c.roles[workspace], scope)
	default:
		may = c.holds(scope, override)
	}
	if !may {
		return "FORBIDDEN missing_scope", ""
	}
	return "allow", workspace
}

func (c credential) holds(any ...string) bool {
	return slices.ContainsFunc(any, func(scope string) bool { return slices.Contains(c.scopes, scope) })
}

// roleAllows: "Roles: owner and admin (all, as workspace:admin), member (read and write of issues, projects, documents;
// workspace:read), guest (the :read scopes)."
func roleAllows(role, scope string) bool {
	switch role {
	case "owner", "admin":
		return true
	case "member":
		return scope != "workspace:admin"
	}
	return strings.HasSuffix(scope, ":read")
}

// identity returns the headers that the upstream must receive with an allowed request. Of our headers only the decision's ID
// may be added. The workspace header is present exactly if a workspace was granted. The credential is present only on a
// public route.
func (p probe) identity(workspace registry.Workspace) map[string]string {
	want := map[string]string{"x-keywicket-api": p.api}
	if p.route.level == public { // "carries no principal headers, and keeps its authorization header"
		if p.credential.secret != "" {
			want["authorization"] = "Bearer " + p.credential.secret
		}
		return want
	}
	c := p.credential
	want["x-keywicket-subject"] = c.id
	want["x-keywicket-scopes"] = strings.Join(c.scopes, " ")
	want["x-keywicket-kind"] = map[string]string{
		"sk_live_": "workspace_token", "sk_test_": "workspace_token", "vel_": "workspace_key", "velu_": "personal_key",
		"velo_": "oauth_token", sessionKind: sessionKind,
	}[c.prefix]
	want["x-keywicket-environment"] = "live"
	if c.prefix == "sk_test_" {
		want["x-keywicket-environment"] = "sandbox"
	}
	if c.user != "" {
		want["x-keywicket-user-id"] = c.user
	}
	if c.prefix == sessionKind {
		want["x-keywicket-aal"] = "aal1"
	}
	if workspace.ID != "" {
		want["x-keywicket-workspace-id"] = workspace.ID
		want["x-keywicket-workspace-slug"] = workspace.Slug
		want[strings.ToLower(headerNames[p.api])] = map[string]string{"velaflows": workspace.ID, "velocity": workspace.Slug}[p.api]
	}
	return want
}

// fixture is the data for the probes of one API. All of Velocity's personal keys belong to one user, who is the owner of
// home, has other roles elsewhere, and is no member of another workspace.
type fixture struct {
	api, home, user string
	workspaces      map[string]registry.Workspace // by their names in the API's header
	roles           map[string]string             // of the user, by workspace
	credentials     []credential
	targets         []target // for all credentials
	elsewhere       []target // in addition, for personal keys
}

func newFixture(t *testing.T, api string) *fixture {
	f := &fixture{api: api, workspaces: make(map[string]registry.Workspace), roles: make(map[string]string)}
	user, err := world.registry.CreateUser(t.Context(), registry.User{Email: strings.ToLower(rand.Text()) + "@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	f.user = user.ID
	f.home = f.workspace(t, "owner")
	another := f.workspace(t, "")
	for _, role := range []string{"admin", "member", "guest"} {
		f.elsewhere = append(f.elsewhere, target{role, []string{f.workspace(t, role)}})
	}
	f.targets = []target{
		{"absent", nil}, {"right", []string{f.home}}, {"another", []string{another}},
		{"unknown", []string{f.home[:len(f.home)-6] + "ffffff"}}, {"malformed", []string{"-" + f.home}},
		{"empty", []string{""}}, {"repeated", []string{f.home, f.home}}, {"upper-case", []string{strings.ToUpper(f.home)}},
	}
	f.credentials = []credential{{name: "no token", denial: "missing"}}
	for other, d := range documented {
		if other != api {
			f.add(t, d.prefixes[0], "unknown", d.override)
		}
	}
	d := documented[api]
	all := slices.Sorted(maps.Keys(d.workspace))
	for _, prefix := range d.prefixes {
		_, format := formatOf(prefix)
		f.credentials = append(f.credentials,
			credential{name: prefix + " that was not issued", denial: "unknown", secret: format.NewKey().Reveal()},
			credential{name: prefix + " malformed", denial: "malformed", secret: prefix + "short"})
		f.add(t, prefix, "revoked", d.override)
		f.add(t, prefix, "expired", d.override)
		f.add(t, prefix, "", slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == d.override })...)
		singles := all
		switch prefix {
		case "sk_test_": // differs from sk_live_ in its upstream
			singles = []string{d.override}
		case "velu_":
			singles = slices.Concat(all, slices.Sorted(maps.Keys(d.user)))
		}
		for _, scope := range singles {
			f.add(t, prefix, "", scope)
		}
	}
	if api == "velocity" {
		guests := f.elsewhere[2].values[0]
		f.addGrant(t, "", all, f.home)
		f.addGrant(t, "", all, guests)
		f.addGrant(t, "", []string{"issues:read", "user:read"}, f.home, guests)
		f.addGrant(t, "", []string{"issues:write", "workspaces:list"})
		f.addGrant(t, "revoked", all, f.home)
		f.addGrant(t, "expired", all, f.home)
		f.addSession(t, "", nil)
		f.addSession(t, "revoked", supabase.Fields{"session_id": rand.Text()})
		f.addSession(t, "expired", supabase.Fields{"exp": 1})
		f.addSession(t, "unknown", supabase.Fields{"sub": "nobody"})
		f.addSession(t, "unknown", supabase.Fields{"role": "service_role"})
		f.addSession(t, "malformed", supabase.Fields{"exp": nil})
	}
	return f
}

// addGrant lets the user consent to an app, which may act for them in these workspaces.
func (f *fixture) addGrant(t *testing.T, denial string, scopes []string, granted ...string) {
	issued := grant(t, f.user, scopes, granted...)
	c := credential{
		name: fmt.Sprint("velo_ ", denial, " ", scopes, granted), prefix: "velo_", denial: denial, scopes: slices.Sorted(slices.Values(scopes)),
		user: f.user, roles: make(map[string]string), secret: issued.Access.Reveal(),
	}
	for _, w := range granted {
		c.roles[w] = f.roles[w]
	}
	db := openDatabase(t, world.stack)
	err := db.GetContext(t.Context(), &c.id, `SELECT id FROM keywicket.oauth_access_tokens WHERE grant_id = $1`, issued.Grant)
	switch {
	case err != nil:
	case denial == "revoked":
		_, err = world.registry.RevokeGrant(t.Context(), issued.Grant)
	case denial == "expired":
		_, err = db.ExecContext(t.Context(), `UPDATE keywicket.oauth_access_tokens SET expires_at = clock_timestamp() WHERE grant_id = $1`, issued.Grant)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.credentials = append(f.credentials, c)
}

// sessionKind stands for a prefix, because session tokens have none.
const sessionKind = "session"

// addSession adds a session of the user, valid or with a change that makes it refused.
func (f *fixture) addSession(t *testing.T, denial string, change supabase.Fields) {
	c := credential{
		name: fmt.Sprint("session ", denial, change), prefix: sessionKind, denial: denial, scopes: []string{"admin"},
		id: f.user, user: f.user, roles: f.roles, secret: world.issuer.Token(f.user, change),
	}
	if denial == "revoked" {
		if _, err := world.registry.RevokeSession(t.Context(), change["session_id"].(string)); err != nil {
			t.Fatal(err)
		}
	}
	f.credentials = append(f.credentials, c)
}

// workspace creates a workspace in which the user has the role. It returns the workspace's name in the API's header.
func (f *fixture) workspace(t *testing.T, role string) string {
	// The ID starts with letters, so that its upper-case form differs.
	id, slug := fmt.Sprintf("abcdef%018d", time.Now().UnixNano()%1e18), "w-"+strings.ToLower(rand.Text())
	w, err := world.registry.CreateWorkspace(t.Context(), registry.Workspace{ID: id, Slug: slug, Name: "Matrix"})
	if err == nil && role != "" {
		_, err = world.registry.SetMember(t.Context(), id, f.user, role)
	}
	if err != nil {
		t.Fatal(err)
	}
	ref := map[string]string{"velaflows": id, "velocity": slug}[f.api]
	f.workspaces[ref] = w
	if role != "" {
		f.roles[ref] = role
	}
	return ref
}

// add adds a token that is valid, revoked, expired, or unknown because it belongs to another API.
func (f *fixture) add(t *testing.T, prefix, denial string, scopes ...string) {
	c := credential{name: strings.Join(append([]string{prefix, denial}, scopes...), " "), prefix: prefix, denial: denial, scopes: scopes}
	k := caseKey{Prefix: prefix, Scopes: scopes, Expired: denial == "expired", Revoked: denial == "revoked"}
	if prefix == "velu_" {
		k.User, c.user, c.roles = f.user, f.user, f.roles
	} else {
		k.Workspace, c.roles = f.home, map[string]string{f.home: ""}
	}
	var token registry.Token
	token, c.secret = k.make(t, c.name)
	c.id = token.ID
	f.credentials = append(f.credentials, c)
}

func TestMatrix(t *testing.T) {
	long(t)
	var checked, sent, allowed, unavailable, failed atomic.Int64
	for _, api := range slices.Sorted(maps.Keys(documented)) {
		f, before, allowedBefore, start := newFixture(t, api), served(), allowed.Load(), time.Now()
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
		probes := f.probes()
		var taken atomic.Int64
		var running sync.WaitGroup
		for range workers {
			running.Go(func() {
				for i := taken.Add(1); int(i) <= len(probes); i = taken.Add(1) {
					p := probes[i-1]
					outcome, workspace := p.expect()
					if outcome == "allow" {
						allowed.Add(1)
					}
					q := p.request()
					checked.Add(1)
					err := q.check(t).hasOutcome(outcome, p.route.scope)
					if err == nil {
						sent.Add(1)
						a, n := q.sendWithRetry(t, client)
						unavailable.Add(n)
						if err = a.hasOutcome(outcome, p.route.scope); err == nil && outcome == "allow" {
							err = p.upstreamError(a, p.identity(f.workspaces[workspace]))
						}
					}
					if err != nil && failed.Add(1) <= 20 {
						t.Errorf("%s %s, %s, workspace header %s: %v", p.route.method, p.route.path, p.credential.name, p.target.name, err)
					}
				}
			})
		}
		running.Wait()
		client.CloseIdleConnections()
		if got, want := served()-before, allowed.Load()-allowedBefore; got != want {
			t.Errorf("%s: %d requests reached an upstream, %d were to be allowed", api, got, want)
		}
		t.Logf("%s in %v", api, time.Since(start).Round(time.Millisecond))
	}
	t.Logf("%d requests in process, %d through Envoy, %d allowed, %d sent again after a 503",
		checked.Load(), sent.Load(), allowed.Load(), unavailable.Load())
	if unavailable.Load() > sent.Load()/1000 {
		t.Error("a busy machine does not cause so many")
	}
}

// workers is the number of concurrent senders, each with its own persistent connection.
const workers = 4

func (f *fixture) probes() (all []probe) {
	for _, route := range documented[f.api].routes() {
		for _, c := range f.credentials {
			targets := f.targets
			if c.user != "" && c.denial == "" {
				targets = slices.Concat(f.targets, f.elsewhere)
			}
			for _, target := range targets {
				all = append(all, probe{f.api, route, c, target})
			}
		}
	}
	return all
}

// request returns the probe as a client sends it, with forged headers that claim another identity and the sandbox.
func (p probe) request() request {
	q := request{api: p.api, method: p.route.method, path: strings.ReplaceAll(p.route.path, "{}", "7"), header: [][2]string{
		{"X-Keywicket-User-Id", "forged"}, {"X-Keywicket-Environment", "sandbox"},
	}}
	if p.credential.secret != "" {
		q.header = append(q.header, [2]string{"Authorization", "Bearer " + p.credential.secret})
	}
	for _, v := range p.target.values {
		q.header = append(q.header, [2]string{headerNames[p.api], v})
	}
	return q
}

// upstreamError returns an error unless the upstream received the request as sent, with this identity.
func (p probe) upstreamError(a answer, identity map[string]string) error {
	q, upstream := p.request(), "live"
	if identity["x-keywicket-environment"] == "sandbox" {
		upstream = "sandbox"
	}
	got := make(map[string]string)
	for name, values := range a.echo.Headers {
		if strings.HasPrefix(name, "x-keywicket-") || name == "authorization" || name == strings.ToLower(headerNames[p.api]) {
			got[name] = strings.Join(values, ", ")
		}
	}
	decision := got["x-keywicket-decision-id"]
	delete(got, "x-keywicket-decision-id")
	switch {
	case a.echo.Upstream != upstream:
		return fmt.Errorf("it reached the upstream %q, not %q", a.echo.Upstream, upstream)
	case a.echo.Method != q.method || a.echo.Path != q.path:
		return fmt.Errorf("it arrived as %s %s", a.echo.Method, a.echo.Path)
	case !maps.Equal(got, identity) || decision == "":
		return fmt.Errorf("in the decision %q the upstream received %v, not %v", decision, got, identity)
	}
	return nil
}
