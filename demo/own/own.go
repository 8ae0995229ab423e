// Package own loads a user's own policies for a demo.
package own

import (
	"cmp"
	"context"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/example"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/service/config"
)

// Policies are a user's own policies. With them, the demo derives its keys and requests from the tables.
type Policies struct {
	// APIs and Tables have the configuration and the table of each API.
	APIs   map[string]authz.API
	Tables map[string]table.Table
	// Known are the tables of the built-in policies. The demo first shows rows that are not in them.
	Known map[string]table.Table
	// AllowedHeaders are the request headers that the policies may read.
	AllowedHeaders []string
	// IssuerAPI is the API that accepts access tokens.
	IssuerAPI string
	// Configuration is the text of a configuration file that the stack writes and uses. Empty: Environ names the user's file, if
	// there is one.
	Configuration []byte
	// Environ are the settings that select the policies. The user's commands need them too.
	Environ []string
	// IssuerPaths are the paths that the issuer serves.
	IssuerPaths []string
	// Flags are the flags for a demo with the same policies, as text for a shell that begins with a space.
	Flags string
}

// Load loads the policies of a folder, runs their tests, and checks that they match the configuration. It also returns settings for
// the sidecar. Without a configuration file, it generates the configuration of each API that is not built in. If the policies and the
// APIs are the built-in ones, it returns nil, so that the demo sends the requests of the tour. Both parameters may be empty.
func Load(ctx context.Context, configFile, dir string) (_ *Policies, environ []string, err error) {
	if configFile == "" && dir == "" {
		return nil, nil, nil
	}
	var c config.Config
	o := &Policies{}
	if configFile == "" {
		c, o.Configuration, err = config.Generate(policies.Config{Dir: dir})
	} else {
		c, err = config.Load(configFile, nil, func(c *config.Config) { c.Policies.Dir = cmp.Or(dir, c.Policies.Dir) })
		o.Environ = settings(configFile, dir)
	}
	if err != nil {
		return nil, nil, err
	}
	engine, err := c.Engine(ctx)
	if err != nil {
		return nil, nil, err
	}
	builtin, err := config.Load("", nil, nil)
	if err != nil {
		return nil, nil, err
	}
	files, err := builtin.Policies.Folder()
	if err != nil {
		return nil, nil, err
	}
	if engine.Hash() == files.Hash() && reflect.DeepEqual(c.APIs, builtin.APIs) {
		return nil, o.Environ, nil
	}
	o.APIs, o.Tables, o.AllowedHeaders, o.IssuerAPI = c.APIs, engine.Tables(), c.AllowedHeaders, c.Issuer.API
	if o.Known, err = table.Read(files); err != nil {
		return nil, nil, err
	}
	o.IssuerPaths, err = bootstrap.Paths("issuer")
	return o, nil, err
}

// settings returns the settings that select a configuration file and a folder of policies. The folder may be empty.
func settings(configFile, dir string) []string {
	environ := []string{"KEYWICKET_CONFIG=" + absolute(configFile)}
	if dir != "" {
		environ = append(environ, "KEYWICKET_POLICIES_DIR="+absolute(dir))
	}
	return environ
}

// absolute returns the absolute path. If the working folder is unknown, it returns the path unchanged.
func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// Names returns the names of the APIs that have a table, in the order of their ports.
func (o *Policies) Names() []string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(o.APIs)), func(name string) bool { _, ok := o.Tables[name]; return !ok })
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(sampleOrder(a), sampleOrder(b)) })
	return names
}

// sampleOrder puts the sample APIs first, because their ports are documented.
func sampleOrder(name string) int {
	if i := slices.Index(SampleAPIs, name); i >= 0 {
		return i
	}
	return len(SampleAPIs)
}

// SampleAPIs are the APIs with a listener in deploy/envoy.
var SampleAPIs = []string{"velaflows", "velocity"}

// issuerAPI is the only API of the demo's issuer, because Envoy routes the issuer's paths only there.
const issuerAPI = "velocity"

// HasIssuer reports whether the demo's issuer and its sessions can serve these APIs.
func (o *Policies) HasIssuer() bool {
	api, t := o.APIs[issuerAPI], o.Tables[issuerAPI]
	known := !slices.ContainsFunc(api.Session.Scopes, func(scope string) bool { _, ok := t.Scope(scope); return !ok })
	return o.IssuerAPI == issuerAPI && known && api.Session.Issuer == "" &&
		slices.ContainsFunc(api.Credentials, func(f authz.CredentialFormat) bool { return f.Kind == authz.KindOAuthToken })
}

// Host returns a host of the API, or "" if the API has no hosts.
func (o *Policies) Host(api string) string {
	if o == nil || len(o.APIs[api].Hosts) == 0 {
		return ""
	}
	host := o.APIs[api].Hosts[0]
	if host[0] == '*' {
		host = "demo" + host[1:]
	}
	return host
}

// Listeners returns the APIs of Envoy's listeners.
func (o *Policies) Listeners() (apis []bootstrap.API) {
	for _, name := range o.Names() {
		api := o.APIs[name]
		apis = append(apis, bootstrap.API{
			Name:            name,
			CheckHeaders:    append([]string{api.Workspace.Header}, o.AllowedHeaders...),
			UpstreamHeaders: append([]string{api.Workspace.Header}, api.UpstreamHeaders...),
		})
	}
	return apis
}

// Role returns the role with the most scopes, or "" if there is none.
func (o *Policies) Role() (role string) {
	if o == nil {
		return ""
	}
	scopes := -1
	for _, name := range o.Names() {
		roles := o.Tables[name].Roles
		for _, r := range slices.Sorted(maps.Keys(roles)) {
			if len(roles[r]) > scopes {
				role, scopes = r, len(roles[r])
			}
		}
	}
	return role
}

// Examples returns the keys and the requests of all APIs. It takes one request of each API in turn. The keys include the sample keys
// that the configuration accepts, so that documented commands work.
func (o *Policies) Examples() (own []example.Key, requests []example.Request) {
	for _, k := range example.Keys {
		format, ok := o.APIs[k.API].Format(k.Format.Prefix)
		if ok && format.Kind == k.Format.Kind || k.Variable != "" && o.HasIssuer() {
			k.Format = format
			own = append(own, k)
		}
	}
	toIssuer := func(r example.Request) bool { // its responses are not those of the upstreams
		_, path, _ := strings.Cut(r.Line, " ")
		return r.API == issuerAPI && o.HasIssuer() && slices.ContainsFunc(o.IssuerPaths, func(p string) bool { return strings.HasPrefix(path, p) })
	}
	var all [][]example.Request
	for _, name := range o.Names() {
		k, r := example.Derive(name, o.APIs[name], o.Tables[name], o.Known[name])
		own, all = append(own, k...), append(all, slices.DeleteFunc(r, toIssuer))
	}
	for turn, more := 0, true; more; turn++ {
		more = false
		for _, r := range all {
			if turn < len(r) {
				requests, more = append(requests, r[turn]), true
			}
		}
	}
	return own, requests
}
