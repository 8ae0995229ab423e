package escalation

import (
	"cmp"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/test/product"
)

// Every caller tries every operation. The answers are those of the rules in this package. A refused operation shows nothing and changes
// nothing. With a token that somebody has created or rotated, nobody can do more than its maker can do.
//
// With -short, the test tries a fifth of the cases, always the same, and a few for each rule.
func TestWhoMayDoWhat(t *testing.T) {
	w := shared
	total := map[string]int{}
	for _, api := range []string{"velaflows", "velocity"} {
		callers, tried := w.callers(t, api), map[string]int{}
		n, sample := 0, mathrand.New(mathrand.NewPCG(1, 1))
		for _, o := range operations(api, testing.Short()) {
			for _, c := range callers {
				if o.page && c.kind != "session" && c.kind != "" && o.verb != "list" && o.lifetime != long {
					continue // the pages refuse all other credentials in the same way
				}
				_, because := decide(c, o)
				if n++; sample.IntN(5) == 0 || tried[because] < 5 || !testing.Short() {
					tried[because]++
					w.try(t, c, o)
				}
			}
		}
		t.Logf("%s: %d cases: %v", api, n, tried)
		for text, times := range tried {
			total[text] += times
		}
	}
	for _, s := range slices.Concat(permissions, prohibitions) {
		if total[s.text] == 0 {
			t.Errorf("no operation has tested that %s", s.text)
		}
	}
}

// try tries an operation.
func (w *world) try(t *testing.T, c caller, o operation) {
	t.Helper()
	var v victim
	var key string
	if o.needsVictim() {
		key, v = w.victim(t, o)
	}
	allowed, because := decide(c, o)
	if o.page && c.kind != "session" {
		allowed, because = false, "the pages take only sessions"
	}
	before := w.state(t)
	send := w.callAPI
	if o.page {
		send = w.openPage
	}
	a, accepted, secret := send(t, c, o, v)
	switch {
	case a.status >= 500 || a.status == http.StatusTooManyRequests:
		t.Errorf("%s tries %s: %d %s", c.name, o, a.status, a.main())
	case accepted != allowed:
		t.Errorf("%s tries %s: %d to %q, but %s: %s", c.name, o, a.status, a.location, because, a.main())
	case !accepted && !o.mayRead(c) && v.name != "" && strings.Contains(a.text, v.name):
		t.Errorf("%s tries %s: the answer shows the object: %s", c.name, o, a.main())
	}
	if accepted {
		delete(w.victims, key)
	} else if after := w.state(t); after != before {
		t.Errorf("%s tries %s: it is refused, but the database changes from %s to %s", c.name, o, before, after)
	}
	if accepted && o.creates() {
		w.requireNoMore(t, c, o, secret)
	}
}

// mayRead reports whether the caller may at least read the object of the operation.
func (o operation) mayRead(c caller) bool {
	o.verb, o.scopes = "read", nil
	allowed, _ := decide(c, o)
	return allowed
}

// main returns the part of a page that says what happened.
func (a answer) main() string {
	if _, main, ok := strings.Cut(a.text, "<main"); ok {
		return main
	}
	return a.text
}

// state returns what an operation could change.
func (w *world) state(t *testing.T) string {
	t.Helper()
	return storetest.Value[string](t, w.db, `SELECT concat_ws(' ',
		(SELECT concat('tokens ', count(*), '/', count(revoked_at), '/', sum(extract(epoch FROM expires_at))) FROM keywicket.tokens),
		(SELECT concat('apps ', count(*), '/', count(revoked_at), '/', md5(string_agg(secret_digest::text, ',' ORDER BY id))) FROM keywicket.oauth_apps),
		(SELECT concat('grants ', count(*), '/', count(revoked_at)) FROM keywicket.oauth_grants),
		(SELECT concat('audit ', count(*)) FROM keywicket.audit_log),
		(SELECT concat('keys ', count(*)) FROM keywicket.idempotency_keys),
		(SELECT concat('leavers ', string_agg(leaver_rule, ',' ORDER BY id)) FROM keywicket.workspaces),
		(SELECT concat('members ', count(*)) FROM keywicket.members))`)
}

// requireNoMore requires that a new token can do something, but nothing that its maker could not do.
func (w *world) requireNoMore(t *testing.T, c caller, o operation, secret string) {
	t.Helper()
	if secret == "" {
		t.Errorf("%s tries %s: there is no secret", c.name, o)
		return
	}
	// Rules of policy authors may read the attributes of a token, so a new token has those of its maker.
	attributes := storetest.Value[string](t, w.db, `SELECT attributes::text FROM keywicket.tokens ORDER BY created_at DESC LIMIT 1`)
	if want := cmp.Or(c.attributes, "{}"); attributes != want {
		t.Errorf("%s tries %s: the new token has the attributes %s, not %s", c.name, o, attributes, want)
	}
	for _, workspace := range []string{"acme", "globex"} {
		created := w.reach(t, o.api, secret, workspace)
		maker, known := w.reaches[o.api+c.name+workspace]
		if !known {
			maker = w.reach(t, o.api, c.secret, workspace)
			w.reaches[o.api+c.name+workspace] = maker
		}
		for line := range created {
			// VelaFlows takes sessions only for the console. Its owners and admins may do everything in their workspace.
			if administers := o.api == "velaflows" && c.kind == "session" && c.administers(workspace); !maker[line] && !administers {
				t.Errorf("%s tries %s: with the new token, they can %s in %s", c.name, o, line, workspace)
			}
		}
		if workspace == o.workspace && len(created) == 0 {
			t.Errorf("%s tries %s: with the new token, they can do nothing", c.name, o)
		}
	}
}

// reach returns the routes of the samples that the credential opens in the workspace.
func (w *world) reach(t *testing.T, api, secret, workspace string) map[string]bool {
	t.Helper()
	open := map[string]bool{}
	for _, line := range samples(api, testing.Short()) {
		method, path, _ := strings.Cut(line, " ")
		a := send(t, method, w.URLs[api]+path, "", w.credentials(caller{secret: secret}, api, workspace)...)
		switch a.status {
		case http.StatusOK:
			open[line] = true
		case http.StatusUnauthorized, http.StatusForbidden:
		default:
			t.Errorf("%s: %d %s", line, a.status, a.text)
		}
	}
	return open
}

// samples returns a route for each scope, and routes of the console.
func samples(api string, cut bool) (lines []string) {
	d, base := product.DocumentedAPIs[api], map[string]string{"velaflows": "/api/v1/", "velocity": "/api/"}[api]
	for _, routes := range []map[string][]string{d.Workspace, d.User} {
		for scope, of := range routes {
			if len(of) > 0 && (!cut || slices.Contains([]string{"inbox:read", "contacts:write", "admin:all", "issues:read", "issues:write", "workspace:admin", "user:read"}, scope)) {
				method, path, _ := strings.Cut(of[0], " ")
				lines = append(lines, method+" "+base+strings.ReplaceAll(path, "{}", "7"))
			}
		}
	}
	lines = append(lines, "GET "+managementAPI+"/tokens", "GET "+managementAPI+"/workspace")
	if api == "velocity" {
		lines = append(lines, "GET "+managementAPI+"/personal-keys", "GET "+managementAPI+"/apps")
	}
	return lines
}
