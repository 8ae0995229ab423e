// Package example has the types of the demo's keys and requests. It derives keys and requests from the table of any API, so that the
// demo can run with a user's own policies.
package example

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/table"
)

// The workspace and the user of derived keys.
const (
	WorkspaceID   = "64f1a2b3c4d5e6f7a8b9c0d1" // from an example in the API document of VelaFlows
	WorkspaceSlug = "acme"
	User          = "ada@example.com"
)

// Key is a credential of the demo, with its API, owner and scopes.
type Key struct {
	Name            string
	Format          authz.CredentialFormat
	API             string
	Workspace, User string
	Scopes          []string
	ExpiresIn       time.Duration
	Revoked         bool
	Imported        authz.Secret // a key that the product issued before; empty: a new key
	Variable        string       // the shell variable in which Print shows a session's token; empty: not a session
}

// Request is one request, and its expected response.
type Request struct {
	API       string
	Line      string // method and path
	Key       string // the key's name; empty: no credential
	Workspace string // the value of the API's workspace header; empty: no header
	Want      string // the expected response, for example "200 live" or "403 FORBIDDEN missing_scope"
	Why       string
}

// Derive returns example keys of an API, and requests for each row of its table. The first requests are for the first row that needs
// a scope: with a key, without a key, and with a key that lacks the scope. Rows that are not in the table `known` come before the
// others. The expected response is that of the table: other rules may decide differently.
func Derive(name string, api authz.API, t, known table.Table) ([]Key, []Request) {
	d := derivation{name: name, api: api}
	d.createKeys(t)
	rows := rowsOf(t, known)
	first := slices.IndexFunc(rows, func(r row) bool { return !r.public })
	if first >= 0 {
		r := rows[first]
		rows = slices.Insert(slices.Delete(rows, first, first+1), 0, r)
		d.allowed(r)
		d.add(r.line, "", "", "401 UNAUTHORIZED missing", "no key")
		if d.bare != "" {
			d.add(r.line, d.bare, d.header(r), "403 FORBIDDEN missing_scope", "a key without any scope")
		}
		rows = rows[1:]
	}
	for _, r := range rows {
		d.allowed(r)
	}
	d.refused(t)
	return d.keys, d.requests
}

type derivation struct {
	name                      string
	api                       authz.API
	keys                      []Key
	requests                  []Request
	full, bare, revoked, user string // names of keys; empty if the API has no such keys
	first                     row    // the first row that the key `full` may use
}

// row is a row with a request that matches it.
type row struct {
	line         string
	name         string // the name of the row in decisions
	public, user bool   // user: at the level of the user
}

// rowsOf returns the rows for which there is a request. It returns the rows that are not in the table `known` first.
func rowsOf(t, known table.Table) []row {
	old := make(map[string]table.Route, len(known.Routes))
	for _, r := range known.Routes {
		old[r.Name()] = r
	}
	var added, rows []row
	for i, r := range t.Routes {
		method, path := r.Sample()
		if found, ok := t.Index().Find(method, path); !ok || found != i || method == "CONNECT" || method == "TRACE" {
			continue // another row has precedence for this request, or Envoy refuses the method
		}
		x := row{method + " " + (&url.URL{Path: path}).EscapedPath(), r.Name(), r.Public, r.Level == table.LevelUser}
		if before, ok := old[r.Name()]; !ok || !slices.Equal(before.Scopes, r.Scopes) || !slices.Equal(before.AnyOf, r.AnyOf) || before.Public != r.Public {
			added = append(added, x)
		} else {
			rows = append(rows, x)
		}
	}
	return slices.Concat(added, rows)
}

// createKeys adds a key with every scope, a key without scopes, a revoked key, and a key of a user. The secrets are readable and short,
// because they are part of commands in a terminal.
func (d *derivation) createKeys(t table.Table) {
	scopes := t.ScopeNames(table.LevelWorkspace)
	add := func(name string, f authz.CredentialFormat, k Key) string {
		k.Name, k.Format, k.API = d.name+": "+name, f, d.name
		secret := notInKey.ReplaceAllString(name+"-"+d.name, "-")
		for len(secret) < minSecret {
			secret += "-key"
		}
		k.Imported = authz.Secret(f.Prefix + secret)
		d.keys = append(d.keys, k)
		return k.Name
	}
	for _, f := range d.api.Credentials {
		switch {
		case (f.Kind == authz.KindWorkspaceToken || f.Kind == authz.KindWorkspaceKey) && d.full == "":
			d.full = add("every scope", f, Key{Workspace: WorkspaceSlug, Scopes: scopes})
			d.bare = add("no scope", f, Key{Workspace: WorkspaceSlug})
			d.revoked = add("revoked", f, Key{Workspace: WorkspaceSlug, Scopes: scopes, Revoked: true})
		case f.Kind == authz.KindPersonalKey && d.user == "":
			d.user = add("user", f, Key{User: User, Scopes: slices.Concat(scopes, t.ScopeNames(table.LevelUser))})
		}
	}
}

// minSecret is the minimum length of a key without its prefix.
const minSecret = 16

// notInKey matches the characters of API names that a key cannot have.
var notInKey = regexp.MustCompile(`[^A-Za-z0-9-]+`)

// allowed adds the request for the row with a key that has every scope. If the API has no such key, allowed adds nothing.
func (d *derivation) allowed(r row) {
	want := "200 live"
	if strings.HasPrefix(r.line, "HEAD ") {
		want = "200" // the response has no body
	}
	switch {
	case r.public:
		d.add(r.line, "", "", want, "the public row "+r.name)
	case r.user && d.user != "":
		d.add(r.line, d.user, "", want, "the row "+r.name+", with the key of a user")
	case !r.user && cmp.Or(d.full, d.user) != "":
		d.add(r.line, cmp.Or(d.full, d.user), d.header(r), want, "the row "+r.name)
		if d.first == (row{}) {
			d.first = r
		}
	}
}

// refused adds requests that every table refuses.
func (d *derivation) refused(t table.Table) {
	key := cmp.Or(d.full, d.user)
	if d.revoked != "" && d.first != (row{}) {
		d.add(d.first.line, d.revoked, d.header(d.first), "401 UNAUTHORIZED revoked", "a revoked key")
	}
	if d.first != (row{}) {
		other := "other-workspace"
		if d.api.Workspace.By == authz.ByID {
			other = "64f1a2b3c4d5e6f7a8b9c0d2"
		}
		d.add(d.first.line, key, other, "403 WORKSPACE_ACCESS_DENIED workspace_mismatch", "another workspace")
	}
	const path = "/no-row-lists-this"
	if _, found := t.Index().Find("GET", path); !found {
		d.add("GET "+path, "", "", "401 UNAUTHORIZED missing", "a route that no row lists, without a key")
		d.add("GET "+path, key, d.header(row{}), "403 FORBIDDEN no_route", "a route that no row lists")
	}
}

func (d *derivation) add(line, key, workspace, want, why string) {
	d.requests = append(d.requests, Request{d.name, line, key, workspace, want, why})
}

// header returns the value of the workspace header for the row, or "" if the row or the key needs no header.
func (d *derivation) header(r row) string {
	switch {
	case r.user || d.full != "" && !d.api.Workspace.Required:
		return ""
	case d.api.Workspace.By == authz.ByID:
		return WorkspaceID
	}
	return WorkspaceSlug
}
