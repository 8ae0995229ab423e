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
	"github.com/keywicket/keywicket/store"
)

type explainCommand struct {
	Method    string   `arg:"" help:"HTTP method, such as GET."`
	Path      string   `arg:"" help:"Path, as a client would send it."`
	TokenID   string   `help:"Id of the token that would be presented; of an app's access token, as a log shows it." name:"token-id" xor:"who" required:"" placeholder:"ID"`
	User      string   `help:"User, by id or email, whose session's token would be presented; one with a second factor, where that is required." xor:"who" required:"" placeholder:"U"`
	Scope     []string `help:"Scopes of an imagined token, instead of a real one; of a user, in the role of an owner, if one is a user's." xor:"who" required:"" placeholder:"SCOPE"`
	Workspace string   `help:"Workspace that the request would name: id or slug." placeholder:"W"`
	API       string   `help:"API that the request is for; by default that of the token, the one that takes sessions, or the one that has the scopes." name:"api" placeholder:"NAME"`

	PoliciesDir string `help:"Folder of policies, instead of those built in." name:"policies-dir" placeholder:"DIR"`
}

// explanation is the decision document, with where it came from and what would change it.
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

// Run takes the request through the very code of a check. Only three things differ: the look-up finds the token by its
// id, the policy runs as it was written, and nothing is served.
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
	m, err := c.imagine(s, cfg, explainer)
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

// imagined is a check that nobody sent. It stands for the directory and the policy, and keeps what they were asked.
type imagined struct {
	explainer *policies.Explainer
	cfg       config
	api       string
	method    string
	path      string
	registry  *store.Registry // nil without a real token
	token     store.Token     // likewise
	user      store.User      // of the token; zero: it is a workspace's
	granted   []string        // ids of workspaces, if the token is an app's
	found     authz.Found     // without a real token
	format    authz.CredentialFormat
	workspace string           // value of the workspace header; empty: none
	named     authz.Membership // the workspace of that header; zero: there is none

	input authz.Input // of the last decision, as is the explanation
	why   policies.Explanation
}

func (c *explainCommand) imagine(s *invocation, cfg config, e *policies.Explainer) (*imagined, error) {
	m := &imagined{explainer: e, cfg: cfg, api: c.API, method: c.Method, path: c.Path, workspace: c.Workspace}
	var err error
	if c.Scope == nil {
		if m.registry, err = s.openRegistry(); err != nil {
			return nil, err
		}
	}
	switch {
	case c.TokenID != "":
		m.token, err = m.registry.Token(s.ctx, c.TokenID)
		if errors.Is(err, store.ErrNotFound) {
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
		return m, m.imaginePrincipal(api, c.Scope)
	}
	m.format = api.Credentials[0] // any that the API knows: the look-up goes by the token's id
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
	case errors.Is(err, store.ErrNotFound): // the client would send it all the same
	case err != nil:
		return nil, err
	default:
		m.named = authz.Membership{ID: w.ID, Slug: w.Slug, Attributes: w.Attributes}
		m.workspace = reference(api, w.ID, w.Slug)
	}
	return m, nil
}

// session stands for the token of one that the user has just begun.
func (c *explainCommand) session(ctx context.Context, cfg config, r *store.Registry) (store.Token, error) {
	taking := cfg.apisWith(c.API, func(a authz.API) bool { return a.Session.Issuer != "" })
	if len(taking) == 0 { // the issuer may be in the sidecar's configuration alone
		taking = cfg.apisWith(c.API, func(a authz.API) bool {
			return slices.ContainsFunc(a.Credentials, func(f authz.CredentialFormat) bool { return f.Kind.OfUser() })
		})
	}
	switch {
	case len(taking) == 0:
		return store.Token{}, errors.New("no such API is for users")
	case len(taking) > 1:
		return store.Token{}, usageError{fmt.Errorf("%s are for users: give --api", strings.Join(taking, " and "))}
	}
	u, err := r.User(ctx, c.User)
	return store.Token{
		ID: u.ID, API: taking[0], Kind: authz.KindSession, Environment: authz.Live, Scopes: cfg.APIs[taking[0]].Session.Scopes, UserID: &u.ID,
	}, err
}

// apiOf is the only API whose catalogue has all of the scopes, or the default one of several.
func apiOf(scopes []string, cfg config, tables map[string]policies.Table) (string, error) {
	names := slices.Sorted(maps.Keys(cfg.APIs))
	having := make(map[string]int) // API → how many of the scopes are its own
	var places []string
	verb := " is of "
	for _, scope := range scopes {
		var of []string
		for _, name := range names {
			if _, ok := tables[name].Scope(scope); ok {
				of = append(of, name)
				having[name]++
			}
		}
		if len(of) == 0 {
			return "", fmt.Errorf("no API has the scope %q; %s", scope, catalogues(names, tables))
		}
		places = append(places, scope+verb+strings.Join(of, " and "))
		verb = " of "
	}
	all := slices.DeleteFunc(names, func(name string) bool { return having[name] < len(scopes) })
	switch {
	case len(all) == 1:
		return all[0], nil
	case slices.Contains(all, cfg.DefaultAPI):
		return cfg.DefaultAPI, nil
	}
	advice := "give --api"
	if len(all) == 0 {
		advice += ", and scopes of that one"
	}
	return "", usageError{fmt.Errorf("%s: %s", strings.Join(places, ", "), advice)}
}

func catalogues(apis []string, tables map[string]policies.Table) string {
	var list []string
	for _, name := range apis {
		scopes := tables[name].ScopeNames(policies.LevelWorkspace, policies.LevelUser)
		list = append(list, name+" has "+strings.Join(scopes, ", "))
	}
	return strings.Join(list, "; ")
}

// A workspace that stands for any. It is shown as W.
const (
	imaginedID   = "000000000000000000000000"
	imaginedSlug = "workspace"
)

// imaginePrincipal makes a workspace's credential, or a user's if a scope is of the user.
func (m *imagined) imaginePrincipal(api authz.API, scopes []string) error {
	table := m.explainer.Tables()[m.api]
	ofUser := false
	for _, scope := range scopes {
		level, ok := table.Scope(scope)
		if !ok {
			return fmt.Errorf("%q is no scope of %s; scopes are %s", scope, m.api,
				strings.Join(table.ScopeNames(policies.LevelWorkspace, policies.LevelUser), ", "))
		}
		ofUser = ofUser || level == policies.LevelUser
	}
	kinds := madeHere(api)
	i := slices.IndexFunc(kinds, func(f authz.CredentialFormat) bool { return f.Kind.OfUser() == ofUser })
	if i < 0 {
		return fmt.Errorf("%s has no kind of token that could hold these scopes", m.api)
	}
	m.format = kinds[i]
	own := authz.Membership{ID: imaginedID, Slug: imaginedSlug}
	switch { // the imagined principal is of the workspace that is asked for
	case authz.ValidWorkspaceID(m.workspace):
		own.ID = m.workspace
	case authz.ValidSlug(m.workspace):
		own.Slug = m.workspace
	}
	m.found = authz.Found{
		Principal: authz.Principal{ID: "imagined", Kind: m.format.Kind, API: m.api, Environment: m.format.Environment, Scopes: scopes},
		Workspace: own,
	}
	if ofUser {
		m.found.Principal.UserID = "imagined"
		m.found.Workspace.Role = "owner"
	}
	switch {
	case m.workspace != "":
		m.workspace = reference(api, own.ID, own.Slug)
		m.named = m.found.Workspace
	case ofUser:
		m.found.Workspace = authz.Membership{}
	}
	return nil
}

func reference(api authz.API, id, slug string) string {
	if api.Workspace.By == authz.ByID {
		return id
	}
	return slug
}

// check asks the authorizer.
func (m *imagined) check(ctx context.Context) error {
	header := authz.Fields{{Name: authz.AuthorizationHeader, Value: "Bearer " + m.format.NewKey().Reveal()}}
	if m.workspace != "" {
		header = append(header, authz.HeaderValue{Name: m.cfg.APIs[m.api].Workspace.Header, Value: m.workspace})
	}
	// The token of a session is imagined as a key, so that nothing has to be verified.
	authorizer, err := authz.New(authz.Config{APIs: m.cfg.APIs, AllowedHeaders: m.cfg.AllowedHeaders, Sessions: unasked{}}, m, m)
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

// unasked is never asked: see check.
type unasked struct{}

// Verify implements authz.Sessions.
func (unasked) Verify(context.Context, string, authz.Secret) (authz.Verified, error) {
	return authz.Verified{}, errors.New("explain verifies no sessions")
}

// Reading implements authz.Policy.
func (m *imagined) Reading(api string) authz.Reading { return m.explainer.Reading(api) }

// Lookup implements authz.Directory.
func (m *imagined) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	if m.registry == nil {
		return m.found, nil
	}
	if m.token.Kind == authz.KindSession {
		l.Kind, l.Session = authz.KindSession, authz.Session{ID: "imagined", UserID: m.token.ID, Began: time.Now().Unix()}
		found, err := m.registry.LookupSession(ctx, l)
		found.Principal.Scopes = m.token.Scopes
		return found, err
	}
	l.Kind = m.token.Kind
	return m.registry.Lookup(ctx, m.token.ID, l)
}

// Decide implements authz.Policy.
func (m *imagined) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	var err error
	m.input = in
	m.why, err = m.explainer.Explain(ctx, in)
	return m.why.Decision, err
}

func (m *imagined) held() []string {
	if m.registry != nil {
		return m.token.Scopes
	}
	return m.found.Principal.Scopes
}

// missing are the required scopes that the token does not have, whatever it is denied for. An override stands for all of
// them, where the token can have it at all.
func (m *imagined) missing() []string {
	missing := []string{}
	if m.why.Allow || m.overrides() {
		return missing
	}
	for _, scope := range m.needed() {
		if !m.explainer.Tables()[m.api].Holds(m.held(), scope) || m.principal().API != m.api {
			missing = append(missing, scope)
		}
	}
	return missing
}

// needed are the scopes of the route: all that are required, and one of those of which one is.
func (m *imagined) needed() []string {
	table := m.explainer.Tables()[m.api]
	if len(m.why.AnyOf) == 0 {
		return m.why.RequiredScopes
	}
	i := max(0, slices.IndexFunc(m.why.AnyOf, func(scope string) bool { return table.Holds(m.held(), scope) }))
	if slices.Contains(m.why.RequiredScopes, m.why.AnyOf[i]) {
		return m.why.RequiredScopes
	}
	return append(slices.Clone(m.why.RequiredScopes), m.why.AnyOf[i])
}

func (m *imagined) overrides() bool {
	table := m.explainer.Tables()[m.api]
	ofUser := m.principal().Kind.OfUser()
	return slices.ContainsFunc(m.held(), func(scope string) bool {
		return ofUser && table.IsOverride(scope, policies.LevelUser) ||
			m.level() == policies.LevelWorkspace && table.IsOverride(scope, policies.LevelWorkspace)
	})
}

// level is that of the route; without one, the workspace.
func (m *imagined) level() policies.Level {
	for _, r := range m.explainer.Tables()[m.api].Routes {
		if r.Name() == m.why.Route && r.Level != "" {
			return r.Level
		}
	}
	return policies.LevelWorkspace
}

// principal is whom the token stands for, or did.
func (m *imagined) principal() authz.Principal {
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

func (m *imagined) print(s *invocation, fix string) error {
	e := explanation{
		Allow: m.why.Allow, Code: orNull(string(m.why.Code)), Reason: orNull(string(m.why.Reason)),
		RequiredScopes: orEmpty(m.why.RequiredScopes), AnyOf: orEmpty(m.why.AnyOf), Route: orNull(m.why.Route), Row: m.why.Row, Rule: m.why.Rule,
		Header: s.masked(m.assumed()), // what was given for a workspace may be a key
		Held:   orEmpty(m.held()), Missing: m.missing(), Fix: fix,
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

// assumed is the workspace header that the request has.
func (m *imagined) assumed() string {
	if m.workspace == "" {
		return ""
	}
	return m.cfg.APIs[m.api].Workspace.Header + ": " + shown(m.workspace)
}

// shown writes the workspace that stands for any as an operator would.
func shown(reference string) string {
	if reference == imaginedID || reference == imaginedSlug {
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
