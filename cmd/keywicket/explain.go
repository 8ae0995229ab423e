package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies"
	"github.com/keywicket/keywicket/store"
)

type explainCommand struct {
	Method    string   `arg:"" help:"HTTP method, such as GET."`
	Path      string   `arg:"" help:"Path, as a client would send it."`
	TokenID   string   `help:"Id of the token that would be presented." name:"token-id" xor:"who" required:"" placeholder:"ID"`
	Scope     []string `help:"Scopes of an imagined token, instead of a real one; of a user, in the role of an owner, if one is a user's." xor:"who" required:"" placeholder:"SCOPE"`
	Workspace string   `help:"Workspace that the request would name: id or slug." placeholder:"W"`
	API       string   `help:"API that the request is for; by default that of the token, or the one that has the scopes." name:"api" placeholder:"NAME"`
}

// explanation is the decision document, with where it came from and what would change it.
type explanation struct {
	Allow          bool     `json:"allow"`
	Code           *string  `json:"code"`
	Reason         *string  `json:"reason"`
	RequiredScopes []string `json:"required_scopes"`
	Route          *string  `json:"route"`
	Row            string   `json:"row,omitempty"`
	Rule           string   `json:"rule"`
	Held           []string `json:"held"`
	Missing        []string `json:"missing"`
	Fix            string   `json:"fix,omitempty"`
}

// Run takes the request through the very code of a check. Only three things differ: the look-up finds the token by its
// id, the policy runs as it was written, and nothing is served.
func (c *explainCommand) Run(s *session, cfg config) error {
	explainer, err := policies.LoadExplainer(s.ctx, cfg.Policies)
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
	authorizer, err := authz.New(authz.Config{APIs: cfg.APIs, AllowedHeaders: cfg.AllowedHeaders}, m, m)
	if err != nil {
		return err
	}
	if _, err := authorizer.Check(s.ctx, m.request(c.Method, c.Path)); err != nil {
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
	registry  *store.Registry // nil without a real token
	token     store.Token     // likewise
	found     authz.Found     // without a real token
	format    authz.CredentialFormat
	workspace string // value of the workspace header; empty: none

	input authz.Input // of the last decision, as is the explanation
	why   policies.Explanation
}

func (c *explainCommand) imagine(s *session, cfg config, e *policies.Explainer) (*imagined, error) {
	m := &imagined{explainer: e, cfg: cfg, api: c.API, workspace: c.Workspace}
	if c.TokenID != "" {
		var err error
		if m.registry, err = s.openRegistry(); err != nil {
			return nil, err
		}
		if m.token, err = m.registry.Token(s.ctx, c.TokenID); err != nil {
			return nil, err
		}
		if m.api == "" {
			m.api = m.token.API
		}
	} else if m.api == "" {
		m.api = apiOf(c.Scope, e.Tables())
	}
	api, ok := cfg.APIs[m.api]
	if !ok {
		return nil, fmt.Errorf("no API %q: give --api, one of %s", m.api, strings.Join(slices.Sorted(maps.Keys(cfg.APIs)), ", "))
	}
	if m.registry == nil {
		return m, m.imaginePrincipal(api, c.Scope)
	}
	m.format = api.Credentials[0] // any that the API knows: the look-up goes by the token's id
	if c.Workspace != "" {
		if w, err := m.registry.Workspace(s.ctx, c.Workspace); err == nil {
			m.workspace = reference(api, w.ID, w.Slug)
		}
	}
	return m, nil
}

// apiOf is the only API whose catalogue has all of the scopes.
func apiOf(scopes []string, tables map[string]policies.Table) string {
	var having []string
	for name, table := range tables {
		if !slices.ContainsFunc(scopes, func(scope string) bool { _, ok := table.Scope(scope); return !ok }) {
			having = append(having, name)
		}
	}
	if len(having) == 1 {
		return having[0]
	}
	return ""
}

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
	i := slices.IndexFunc(api.Credentials, func(f authz.CredentialFormat) bool { return f.Kind.OfUser() == ofUser })
	if i < 0 {
		return fmt.Errorf("%s has no kind of token that could hold these scopes", m.api)
	}
	m.format = api.Credentials[i]
	m.found = authz.Found{
		Principal: authz.Principal{ID: "imagined", Kind: m.format.Kind, API: m.api, Environment: m.format.Environment, Scopes: scopes},
		Workspace: authz.Membership{ID: imaginedID, Slug: imaginedSlug},
	}
	if ofUser {
		m.found.Principal.UserID = "imagined"
		m.found.Workspace.Role = "owner"
	}
	switch {
	case m.workspace != "": // any: the imagined principal is of the workspace that is asked for
		m.workspace = reference(api, imaginedID, imaginedSlug)
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

func (m *imagined) request(method, path string) authz.Request {
	header := map[string][]string{authz.AuthorizationHeader: {"Bearer " + m.format.NewKey().Reveal()}}
	if m.workspace != "" {
		header[m.cfg.APIs[m.api].Workspace.Header] = []string{m.workspace}
	}
	return authz.Request{API: m.api, Method: method, Path: path, Header: header, Context: map[string]string{"api": m.api}}
}

// Lookup implements authz.Directory.
func (m *imagined) Lookup(ctx context.Context, l authz.Lookup) (authz.Found, error) {
	if m.registry == nil {
		return m.found, nil
	}
	return m.registry.Lookup(ctx, m.token.ID, l)
}

// Decide implements authz.Policy.
func (m *imagined) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	var err error
	m.input = in
	m.why, err = m.explainer.Explain(ctx, in)
	return m.why.Decision, err
}

// allows says whether the request would pass with the input changed.
func (m *imagined) allows(ctx context.Context, change func(*authz.Input)) (bool, error) {
	in := m.input
	change(&in)
	why, err := m.explainer.Explain(ctx, in)
	return why.Allow, err
}

func (m *imagined) held() []string {
	if m.input.Principal != nil {
		return m.input.Principal.Scopes
	}
	return m.token.Scopes
}

// missing are the required scopes that the token does not have. An override may stand for them.
func (m *imagined) missing() []string {
	missing := []string{}
	if m.why.Reason == authz.ReasonMissingScope {
		for _, scope := range m.why.RequiredScopes {
			if !slices.Contains(m.held(), scope) {
				missing = append(missing, scope)
			}
		}
	}
	return missing
}

func (m *imagined) print(s *session, fix string) error {
	e := explanation{
		Allow: m.why.Allow, Code: orNull(string(m.why.Code)), Reason: orNull(string(m.why.Reason)),
		RequiredScopes: orEmpty(m.why.RequiredScopes), Route: orNull(m.why.Route), Row: m.why.Row, Rule: m.why.Rule,
		Held: orEmpty(m.held()), Missing: m.missing(), Fix: fix,
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
		[2]string{"required", strings.Join(e.RequiredScopes, " ")},
		[2]string{"held", strings.Join(e.Held, " ")},
		[2]string{"missing", strings.Join(e.Missing, " ")},
		[2]string{"fix", e.Fix},
	)
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
