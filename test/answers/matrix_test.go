package answers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// The matrix checks every combination of a route, a credential and a state of the workspace header, in process and through
// Envoy. probe.expect computes the expected outcome from the sentences of the API documents of VelaFlows and Velocity, without
// the policy. The comments in probe.expect quote these sentences.

// probe is one request of the matrix.
type probe struct {
	api        string
	route      product.Route
	credential credential
	target     target
}

// credential is the credential of a request, with the properties that the test gave it.
type credential struct {
	name   string
	secret string // after "Bearer "; empty: no Authorization header
	denial string // reason of the refusal; empty: the credential is valid
	prefix string
	id     string
	user   string
	scopes []string
	// roles maps the value of the workspace header to the role in this workspace. A workspace key has one entry: its own
	// workspace, with the role "".
	roles map[string]string
}

// target is a state of the workspace header: its values, possibly none. Envoy forwards an empty value unchanged, and
// forwards every copy of a repeated header. So the expected outcome is the same in process and through Envoy.
type target struct {
	name   string
	values []string
}

// expect returns the outcome that the documents require. The result `workspace` is the workspace in which the request acts, as the
// value of the API's header. It is empty if the request acts in no workspace.
func (p probe) expect() (outcome, workspace string) {
	c, scope, override := p.credential, p.route.Scope, product.DocumentedAPIs[p.api].Override
	// "A public route is open without a credential, beside a bad one": it is open with an invalid credential too. This rule
	// comes before all others.
	if p.route.Level == product.LevelPublic {
		return "allow", ""
	}
	// "Order otherwise: credential (401 UNAUTHORIZED), …"
	if c.denial != "" {
		return "UNAUTHORIZED " + c.denial, ""
	}
	// "… then workspace (403 WORKSPACE_ACCESS_DENIED), …". All of these get the same answer: a header that is repeated,
	// empty, malformed or upper-case, an unknown workspace, and a workspace that the principal does not belong to. A
	// session has the rights of a personal key with the scope admin. An app's token works only in the workspaces that its
	// user granted.
	actsForUser := c.user != ""
	if len(p.target.values) > 0 {
		workspace = p.target.values[0]
		if _, in := c.roles[workspace]; !in || len(p.target.values) > 1 {
			return "WORKSPACE_ACCESS_DENIED workspace_mismatch", ""
		}
	} else {
		switch {
		case p.api == "velaflows": // "x-workspace-id …, required", also for a route that is not listed
			return "WORKSPACE_ACCESS_DENIED workspace_required", ""
		// "optional with vel_": a workspace key acts in its own workspace. "one granted workspace is resolved from the token as
		// with vel_": an app's token with one granted workspace acts in that workspace.
		case !actsForUser, c.prefix == "velo_" && len(c.roles) == 1:
			workspace = slices.Collect(maps.Keys(c.roles))[0]
		case p.route.Level == product.LevelWorkspace: // "Without the header only user-level routes are open"
			return "WORKSPACE_ACCESS_DENIED workspace_required", ""
		}
	}
	// "… then route and scope (403 FORBIDDEN)". "A route that no rule lists is FORBIDDEN for everybody, overrides included."
	if p.route.Level == product.LevelUnlisted {
		return "FORBIDDEN no_route", ""
	}
	var permitted bool
	switch {
	case p.route.Level == product.LevelUser: // "admin overrides every user-level scope". "A workspace key never opens a user-level
		// route … workspace:admin or not." "User-level routes ignore the role."
		permitted = actsForUser && c.hasOneOf(scope, "admin")
	case actsForUser: // "what both its own scopes and the user's role there allow"; "a personal key with admin is held back by
		// the role alone".
		permitted = c.hasOneOf(scope, override, "admin") && roleAllows(c.roles[workspace], scope)
	default:
		permitted = c.hasOneOf(scope, override)
	}
	if !permitted {
		return "FORBIDDEN missing_scope", ""
	}
	return "allow", workspace
}

func (c credential) hasOneOf(scopes ...string) bool {
	return slices.ContainsFunc(scopes, func(scope string) bool { return slices.Contains(c.scopes, scope) })
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

// identityHeaders returns the headers that the upstream must receive with an allowed request. The sidecar may add only one more
// header, the decision's ID. The workspace headers are present exactly if the request acts in a workspace. The credential is
// present only on a public route.
func (p probe) identityHeaders(workspace registry.Workspace) map[string]string {
	want := map[string]string{"x-keywicket-api": p.api}
	if p.route.Level == product.LevelPublic { // "carries no principal headers, and keeps its authorization header"
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
		want[strings.ToLower(product.WorkspaceHeaders[p.api])] = map[string]string{"velaflows": workspace.ID, "velocity": workspace.Slug}[p.api]
	}
	return want
}

func TestMatrix(t *testing.T) {
	harness.SkipIfShort(t)
	var checked, sent, allowed, unavailable, failed atomic.Int64
	for _, api := range slices.Sorted(maps.Keys(product.DocumentedAPIs)) {
		f, before, allowedBefore, start := newFixture(t, api), deployment.UpstreamRequests(), allowed.Load(), time.Now()
		client := harness.NewClient(t, deployment.Stack, workers)
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
					err := inProcess.Check(t, q).HasOutcome(outcome, p.route.Scope)
					if err == nil {
						sent.Add(1)
						a, n := client.SendWithRetry(t, q)
						unavailable.Add(n)
						if err = a.HasOutcome(outcome, p.route.Scope); err == nil && outcome == "allow" {
							err = p.upstreamError(a, p.identityHeaders(f.workspaces[workspace]))
						}
					}
					if err != nil && failed.Add(1) <= 20 {
						t.Errorf("%s %s, %s, workspace header %s: %v", p.route.Method, p.route.Path, p.credential.name, p.target.name, err)
					}
				}
			})
		}
		running.Wait()
		if got, want := deployment.UpstreamRequests()-before, allowed.Load()-allowedBefore; got != want {
			t.Errorf("%s: %d requests reached an upstream, but %d should be allowed", api, got, want)
		}
		t.Logf("%s in %v", api, time.Since(start).Round(time.Millisecond))
	}
	t.Logf("%d requests in process, %d through Envoy, %d allowed, %d sent again after a 503",
		checked.Load(), sent.Load(), allowed.Load(), unavailable.Load())
	if unavailable.Load() > sent.Load()/1000 {
		t.Error("more than one of 1000 requests got a 503: a busy machine alone does not explain this")
	}
}

// workers is the number of concurrent senders, each with its own persistent connection.
const workers = 4

func (f *fixture) probes() (all []probe) {
	for _, route := range slices.Concat(product.DocumentedAPIs[f.api].Routes(), product.ConsoleRoutes(f.api)) {
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
func (p probe) request() harness.Request {
	q := harness.Request{API: p.api, Method: p.route.Method, Path: strings.ReplaceAll(p.route.Path, "{}", "7"), Header: [][2]string{
		{"X-Keywicket-User-Id", "forged"}, {"X-Keywicket-Environment", "sandbox"},
	}}
	if p.credential.secret != "" {
		q.Header = append(q.Header, [2]string{"Authorization", "Bearer " + p.credential.secret})
	}
	for _, v := range p.target.values {
		q.Header = append(q.Header, [2]string{product.WorkspaceHeaders[p.api], v})
	}
	return q
}

// upstreamError returns an error if the request reached the wrong upstream, or if the upstream received a different method,
// path or identity.
func (p probe) upstreamError(a harness.Response, identity map[string]string) error {
	q, upstream := p.request(), "live"
	if identity["x-keywicket-environment"] == "sandbox" && !p.route.IsConsole() { // there is one console for both environments
		upstream = "sandbox"
	}
	got := make(map[string]string)
	for name, values := range a.Echo.Headers {
		if strings.HasPrefix(name, "x-keywicket-") || name == "authorization" || name == strings.ToLower(product.WorkspaceHeaders[p.api]) {
			got[name] = strings.Join(values, ", ")
		}
	}
	decision := got["x-keywicket-decision-id"]
	delete(got, "x-keywicket-decision-id")
	switch {
	case a.Echo.Upstream != upstream:
		return fmt.Errorf("the request reached the upstream %q, not %q", a.Echo.Upstream, upstream)
	case a.Echo.Method != q.Method || a.Echo.Path != q.Path:
		return fmt.Errorf("the request arrived as %s %s", a.Echo.Method, a.Echo.Path)
	case !maps.Equal(got, identity) || decision == "":
		return fmt.Errorf("with the decision ID %q, the upstream received %v, not %v", decision, got, identity)
	}
	return nil
}
