package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/policies/table"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/registry"
)

type explainCommand struct {
	Method    string   `arg:"" help:"HTTP method, such as GET."`
	Path      string   `arg:"" help:"Path, as a client sends it."`
	TokenID   string   `help:"Id of the token of the request. For an app's access token, the decision log has the id." name:"token-id" xor:"who" required:"" placeholder:"ID"`
	User      string   `help:"User whose session the request has: id or email. If a second factor is required, the session has one." xor:"who" required:"" placeholder:"U"`
	Scope     []string `help:"Scopes of a simulated token, instead of a real one. If one is a user's scope, the token belongs to a user with the role owner." xor:"who" required:"" placeholder:"SCOPE"`
	Workspace string   `help:"Workspace of the request: id or slug." placeholder:"W"`
	API       string   `help:"API of the request. Default: the API of the token, the API with sessions, or the API with the scopes." name:"api" placeholder:"NAME"`

	PoliciesDir string `help:"Folder of policies. Default: the built-in policies." name:"policies-dir" placeholder:"DIR"`
}

// explanation is the JSON output: the decision, its source, and the fix.
type explanation struct {
	Allow          bool     `json:"allow"`
	Code           *string  `json:"code"`
	Reason         *string  `json:"reason"`
	RequiredScopes []string `json:"required_scopes"`
	AnyOf          []string `json:"any_of"`
	Route          *string  `json:"route"`
	Row            string   `json:"row,omitempty"`
	Header         string   `json:"header,omitempty"`
	Rule           string   `json:"rule"`
	Held           []string `json:"held"`
	Missing        []string `json:"missing"`
	Fix            string   `json:"fix,omitempty"`
}

// Run runs the request through the code of a check. Three things differ: the look-up finds the token by its id, the policy runs as
// written, and there is no server.
func (c *explainCommand) Run(s *invocation, cfg config) error {
	set(&cfg.Policies.Dir, c.PoliciesDir)
	explainer, err := policies.LoadExplainer(s.ctx, cfg.Policies)
	if err == nil {
		err = explainer.Uses().CheckDeclared(cfg.APIs)
	}
	if err == nil {
		err = checkTables(cfg, explainer.Tables())
	}
	if err != nil {
		return policyError(cfg, err)
	}
	m, err := c.simulate(s, cfg, explainer)
	if err != nil {
		return err
	}
	if err := m.check(s.ctx); err != nil {
		return err
	}
	fix, err := m.fix(s.ctx)
	if err != nil {
		return err
	}
	return m.print(s, fix)
}

// simulatedID is the id of a simulated token, user or session.
const simulatedID = "imagined"

// simulation is a check of a request that no client sent. It implements the directory and the policy for the authorizer, and keeps
// the input and the explanation of the last decision.
type simulation struct {
	explainer       *policies.Explainer
	cfg             config
	api             string
	method          string
	path            string
	registry        *registry.Registry // nil if the token is simulated
	token           registry.Token     // zero if the token is simulated
	user            registry.User      // user of the token; zero for a workspace's token
	granted         []string           // ids of the granted workspaces, for an app's access token
	found           authz.Found        // result of the look-up of a simulated token
	format          authz.CredentialFormat
	workspace       string           // value of the workspace header; empty: no header
	headerWorkspace authz.Membership // the workspace of that header; zero if it does not exist

	// input and why are the input and the explanation of the last decision.
	input authz.Input
	why   policies.Explanation
}

// simulate returns the simulation of the flags. It opens the database unless the token is simulated.
func (c *explainCommand) simulate(s *invocation, cfg config, e *policies.Explainer) (*simulation, error) {
	m := &simulation{explainer: e, cfg: cfg, api: c.API, method: c.Method, path: c.Path, workspace: c.Workspace}
	var err error
	if c.Scope == nil {
		if m.registry, err = s.openRegistry(); err != nil {
			return nil, err
		}
	}
	switch {
	case c.TokenID != "":
		m.token, err = m.registry.Token(s.ctx, c.TokenID)
		if errors.Is(err, database.ErrNotFound) {
			m.token, m.granted, err = m.registry.AccessToken(s.ctx, c.TokenID)
		}
	case c.User != "":
		m.token, err = c.session(s.ctx, cfg, m.registry)
	case m.api == "":
		m.api, err = apiOf(c.Scope, cfg, e.Tables())
	}
	if err != nil {
		return nil, err
	}
	if m.api == "" {
		m.api = m.token.API
	}
	api, ok := cfg.APIs[m.api]
	if !ok {
		return nil, fmt.Errorf("no API %q: give --api, one of %s", m.api, strings.Join(slices.Sorted(maps.Keys(cfg.APIs)), ", "))
	}
	if m.registry == nil {
		return m, m.simulatePrincipal(api, c.Scope)
	}
	m.format = api.Credentials[0] // any format of the API: the look-up uses the token's id
	if m.token.UserID != nil {
		if m.user, err = m.registry.User(s.ctx, *m.token.UserID); err != nil {
			return nil, err
		}
	}
	if c.Workspace == "" {
		return m, nil
	}
	w, err := m.registry.Workspace(s.ctx, c.Workspace)
	switch {
	case errors.Is(err, database.ErrNotFound): // the client would send the header unchanged
	case err != nil:
		return nil, err
	default:
		m.headerWorkspace = authz.Membership{ID: w.ID, Slug: w.Slug, Attributes: w.Attributes}
		m.workspace = reference(api, w.ID, w.Slug)
	}
	return m, nil
}

// session returns a token that represents a new session of the user.
func (c *explainCommand) session(ctx context.Context, cfg config, r *registry.Registry) (registry.Token, error) {
	candidates := cfg.apisMatching(c.API, func(a authz.API) bool { return a.Session.Issuer != "" })
	if len(candidates) == 0 { // only the sidecar's configuration may have the issuer
		candidates = cfg.apisMatching(c.API, func(a authz.API) bool {
			return slices.ContainsFunc(a.Credentials, func(f authz.CredentialFormat) bool { return f.Kind.OfUser() })
		})
	}
	switch {
	case len(candidates) == 0:
		return registry.Token{}, errors.New("no such API has sessions or tokens for users")
	case len(candidates) > 1:
		return registry.Token{}, usageError{fmt.Errorf("%s have sessions or tokens for users: give --api", strings.Join(candidates, " and "))}
	}
	u, err := r.User(ctx, c.User)
	return registry.Token{
		ID: u.ID, API: candidates[0], Kind: authz.KindSession, Environment: authz.Live, Scopes: cfg.APIs[candidates[0]].Session.Scopes, UserID: &u.ID,
	}, err
}

// apiOf returns the API whose catalogue has all of the scopes. If several have them, it returns the default API.
func apiOf(scopes []string, cfg config, tables map[string]table.Table) (string, error) {
	names := slices.Sorted(maps.Keys(cfg.APIs))
	counts := make(map[string]int) // API → number of the scopes that it has
	var places []string
	verb := " is a scope of "
	for _, scope := range scopes {
		var of []string
		for _, name := range names {
			if _, ok := tables[name].Scope(scope); ok {
				of = append(of, name)
				counts[name]++
			}
		}
		if len(of) == 0 {
			return "", fmt.Errorf("no API has the scope %q; %s", scope, catalogues(names, tables))
		}
		places = append(places, scope+verb+strings.Join(of, " and "))
		verb = " of "
	}
	all := slices.DeleteFunc(names, func(name string) bool { return counts[name] < len(scopes) })
	switch {
	case len(all) == 1:
		return all[0], nil
	case slices.Contains(all, cfg.DefaultAPI):
		return cfg.DefaultAPI, nil
	}
	advice := "give --api"
	if len(all) == 0 {
		advice += ", and scopes of that API"
	}
	return "", usageError{fmt.Errorf("%s: %s", strings.Join(places, ", "), advice)}
}

// catalogues lists the scopes of each API, for error messages.
func catalogues(apis []string, tables map[string]table.Table) string {
	var list []string
	for _, name := range apis {
		scopes := tables[name].ScopeNames(table.LevelWorkspace, table.LevelUser)
		list = append(list, name+" has "+strings.Join(scopes, ", "))
	}
	return strings.Join(list, "; ")
}

// The placeholder represents any workspace. Output shows it as W.
const (
	placeholderID   = "000000000000000000000000"
	placeholderSlug = "workspace"
)

// simulatePrincipal sets the result of the look-up: a workspace's credential, or a user's if one of the scopes is a user's.
func (m *simulation) simulatePrincipal(api authz.API, scopes []string) error {
	t := m.explainer.Tables()[m.api]
	ofUser := false
	for _, scope := range scopes {
		level, ok := t.Scope(scope)
		if !ok {
			return fmt.Errorf("%q is not a scope of %s; scopes are %s", scope, m.api,
				strings.Join(t.ScopeNames(table.LevelWorkspace, table.LevelUser), ", "))
		}
		ofUser = ofUser || level == table.LevelUser
	}
	kinds := operatorFormats(api)
	i := slices.IndexFunc(kinds, func(f authz.CredentialFormat) bool { return f.Kind.OfUser() == ofUser })
	if i < 0 {
		return fmt.Errorf("%s has no kind of token that can have these scopes", m.api)
	}
	m.format = kinds[i]
	own := authz.Membership{ID: placeholderID, Slug: placeholderSlug}
	switch { // the simulated principal belongs to the workspace of the request
	case authz.ValidWorkspaceID(m.workspace):
		own.ID = m.workspace
	case authz.ValidSlug(m.workspace):
		own.Slug = m.workspace
	}
	m.found = authz.Found{
		Principal: authz.Principal{ID: simulatedID, Kind: m.format.Kind, API: m.api, Environment: m.format.Environment, Scopes: scopes},
		Workspace: own,
	}
	if ofUser {
		m.found.Principal.UserID = simulatedID
		m.found.Workspace.Role = "owner"
	}
	switch {
	case m.workspace != "":
		m.workspace = reference(api, own.ID, own.Slug)
		m.headerWorkspace = m.found.Workspace
	case ofUser:
		m.found.Workspace = authz.Membership{}
	}
	return nil
}

// reference returns the value of the workspace header: the id or the slug, as the API needs it.
func reference(api authz.API, id, slug string) string {
	if api.Workspace.By == authz.ByID {
		return id
	}
	return slug
}

// check runs the request through the authorizer. The result is in m.input and m.why.
func (m *simulation) check(ctx context.Context) error {
	header := authz.Fields{{Name: authz.AuthorizationHeader, Value: "Bearer " + m.format.NewKey().Reveal()}}
	if m.workspace != "" {
		header = append(header, authz.HeaderValue{Name: m.cfg.APIs[m.api].Workspace.Header, Value: m.workspace})
	}
	// A session's token is simulated as a key, because there is no JWT to verify.
	authorizer, err := authz.New(authz.Config{APIs: m.cfg.APIs, AllowedHeaders: m.cfg.AllowedHeaders, Sessions: unusedSessions{}}, m, m)
	if err != nil {
		return err
	}
	request := authz.Request{API: m.api, Method: m.method, Path: m.path, Header: header, Context: authz.Fields{{Name: "api", Value: m.api}}}
	if hosts := m.cfg.APIs[m.api].Hosts; len(hosts) > 0 {
		request.Host = strings.Replace(hosts[0], "*", "any", 1)
	}
	_, err = authorizer.Check(ctx, request)
	return err
}

// unusedSessions implements [authz.Sessions]. It is never called, because check sends keys only.
type unusedSessions struct{}

// Verify implements [authz.Sessions].
func (unusedSessions) Verify(context.Context, string, authz.Secret) (authz.Verified, error) {
	return authz.Verified{}, errors.New("explain verifies no sessions")
}

// Reading implements [authz.Policy].
func (m *simulation) Reading(api string) authz.Reading { return m.explainer.Reading(api) }

// Lookup implements [authz.Directory].
func (m *simulation) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	if m.registry == nil {
		return m.found, nil
	}
	if m.token.Kind == authz.KindSession {
		l.Kind, l.Session = authz.KindSession, authz.Session{ID: simulatedID, UserID: m.token.ID, Began: time.Now().Unix()}
		found, err := m.registry.LookupSession(ctx, l)
		found.Principal.Scopes = m.token.Scopes
		return found, err
	}
	l.Kind = m.token.Kind
	return m.registry.Lookup(ctx, m.token.ID, l)
}

// Decide implements [authz.Policy].
func (m *simulation) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	var err error
	m.input = in
	m.why, err = m.explainer.Explain(ctx, in)
	return m.why.Decision, err
}

func (m *simulation) heldScopes() []string {
	if m.registry != nil {
		return m.token.Scopes
	}
	return m.found.Principal.Scopes
}

// missing returns the required scopes that the token does not have, whatever the reason of the denial. A token with a valid override
// misses none.
func (m *simulation) missing() []string {
	missing := []string{}
	if m.why.Allow || m.overrides() {
		return missing
	}
	for _, scope := range m.needed() {
		if !m.explainer.Tables()[m.api].Holds(m.heldScopes(), scope) || m.principal().API != m.api {
			missing = append(missing, scope)
		}
	}
	return missing
}

// needed returns all required scopes of the route, and one of its any_of scopes: the first that the token has, or else the first.
func (m *simulation) needed() []string {
	table := m.explainer.Tables()[m.api]
	if len(m.why.AnyOf) == 0 {
		return m.why.RequiredScopes
	}
	i := max(0, slices.IndexFunc(m.why.AnyOf, func(scope string) bool { return table.Holds(m.heldScopes(), scope) }))
	if slices.Contains(m.why.RequiredScopes, m.why.AnyOf[i]) {
		return m.why.RequiredScopes
	}
	return append(slices.Clone(m.why.RequiredScopes), m.why.AnyOf[i])
}

// overrides reports whether the token has an override that applies to the level of the route.
func (m *simulation) overrides() bool {
	t := m.explainer.Tables()[m.api]
	ofUser := m.principal().Kind.OfUser()
	return slices.ContainsFunc(m.heldScopes(), func(scope string) bool {
		return ofUser && t.IsOverride(scope, table.LevelUser) ||
			m.level() == table.LevelWorkspace && t.IsOverride(scope, table.LevelWorkspace)
	})
}

// level returns the level of the route. Without a route, it is the workspace level.
func (m *simulation) level() table.Level {
	for _, r := range m.explainer.Tables()[m.api].Routes {
		if r.Name() == m.why.Route && r.Level != "" {
			return r.Level
		}
	}
	return table.LevelWorkspace
}

// principal returns the principal of the token, even if the token is revoked or expired.
func (m *simulation) principal() authz.Principal {
	if m.registry == nil {
		return m.found.Principal
	}
	p := authz.Principal{
		ID: m.token.ID, Kind: m.token.Kind, API: m.token.API, Environment: m.token.Environment, Scopes: m.token.Scopes,
		Attributes: m.token.Attributes, UserAttributes: m.user.Attributes,
	}
	if m.token.UserID != nil {
		p.UserID = *m.token.UserID
	}
	return p
}

func (m *simulation) print(s *invocation, fix string) error {
	e := explanation{
		Allow: m.why.Allow, Code: orNull(string(m.why.Code)), Reason: orNull(string(m.why.Reason)),
		RequiredScopes: orEmpty(m.why.RequiredScopes), AnyOf: orEmpty(m.why.AnyOf), Route: orNull(m.why.Route), Row: m.why.Row, Rule: m.why.Rule,
		Header: s.maskKeys(m.workspaceHeader()), // the value of --workspace may be a key by mistake
		Held:   orEmpty(m.heldScopes()), Missing: m.missing(), Fix: fix,
	}
	decision := "allow"
	if !e.Allow {
		decision = "deny: " + string(m.why.Code) + ", " + string(m.why.Reason)
	}
	route := "none"
	if e.Route != nil {
		route = fmt.Sprintf("%s (%s)", *e.Route, e.Row)
	}
	return printOne(s, e,
		[2]string{"decision", decision},
		[2]string{"rule", e.Rule},
		[2]string{"route", route},
		[2]string{"header", e.Header},
		[2]string{"required", strings.Join(e.RequiredScopes, " ")},
		[2]string{"one of", strings.Join(e.AnyOf, " ")},
		[2]string{"held", strings.Join(e.Held, " ")},
		[2]string{"missing", strings.Join(e.Missing, " ")},
		[2]string{"fix", e.Fix},
	)
}

// workspaceHeader returns the workspace header of the request, or "".
func (m *simulation) workspaceHeader() string {
	if m.workspace == "" {
		return ""
	}
	return m.cfg.APIs[m.api].Workspace.Header + ": " + displayed(m.workspace)
}

// displayed returns the reference, or W for the placeholder.
func displayed(reference string) string {
	if reference == placeholderID || reference == placeholderSlug {
		return "W"
	}
	return reference
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
