package explain

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

// simulatedID is the id of a simulated token, user or session.
const simulatedID = "imagined"

// simulation is a check of a request that no client sent. It implements the directory and the policy for the authorizer, and keeps
// the input and the explanation of the last decision.
type simulation struct {
	explainer       *policies.Explainer
	cfg             Config
	api             string
	method          string
	path            string
	anonymous       bool               // the request has no credential
	registry        *registry.Registry // nil if the token is simulated, or if there is no credential
	token           registry.Token     // zero value if the token is simulated, or if there is no credential
	banned          bool               // the user of the token is banned; fix sets it
	user            registry.User      // user of the token; zero value for a workspace's token
	granted         []string           // ids of the granted workspaces, for an app's access token
	lookupResult    authz.LookupResult // result of the look-up of a simulated token
	format          authz.CredentialFormat
	workspace       string           // value of the workspace header; empty: no header
	headerWorkspace authz.Membership // the workspace of that header; zero value if the workspace does not exist

	// input and explanation are the input and the explanation of the last decision.
	input       authz.Input
	explanation policies.Explanation
}

// simulate returns the simulation of a request. It uses the database only for a real token, a user or a workspace.
func (x *Explainer) simulate(ctx context.Context, c Request) (*simulation, error) {
	m := &simulation{explainer: x.policies, cfg: x.cfg, api: c.API, method: c.Method, path: c.Path, workspace: c.Workspace}
	if c.TokenID != "" || c.User != "" {
		m.registry = x.registry
	}
	m.anonymous = m.registry == nil && c.Scopes == nil
	var err error
	switch {
	case c.TokenID != "":
		m.token, err = m.registry.Token(ctx, c.TokenID)
		if errors.Is(err, database.ErrNotFound) {
			var found registry.AccessToken
			found, err = m.registry.AccessToken(ctx, c.TokenID)
			m.token, m.granted = found.Token, found.WorkspaceIDs
		}
	case c.User != "":
		m.token, err = x.session(ctx, c)
	case m.api == "" && m.anonymous:
		m.api, err = x.apiOfRoute(ctx, c)
	case m.api == "":
		m.api, err = x.apiOf(c.Scopes)
	}
	if err != nil {
		return nil, err
	}
	if m.api == "" {
		m.api = m.token.API
	}
	api, ok := x.cfg.APIs[m.api]
	if !ok {
		return nil, UndefinedError{fmt.Errorf("no API %q: give --api with one of these values: %s", m.api, strings.Join(slices.Sorted(maps.Keys(x.cfg.APIs)), ", "))}
	}
	if m.registry == nil {
		return m, x.simulatePrincipal(ctx, m, api, c.Scopes)
	}
	m.format = api.Credentials[0] // any format of the API: the look-up uses the token's id
	if m.token.UserID != nil {
		if m.user, err = m.registry.User(ctx, *m.token.UserID); err != nil {
			return nil, err
		}
	}
	if c.Workspace == "" {
		return m, nil
	}
	w, err := m.registry.Workspace(ctx, c.Workspace)
	switch {
	case errors.Is(err, database.ErrNotFound): // a client could send a header with an unknown workspace too
	case err != nil:
		return nil, err
	default:
		m.headerWorkspace = authz.Membership{ID: w.ID, Slug: w.Slug, Attributes: w.Attributes}
		m.workspace = reference(api, w.ID, w.Slug)
	}
	return m, nil
}

// The placeholder represents any workspace. The output shows W instead.
const (
	placeholderID   = "000000000000000000000000"
	placeholderSlug = "workspace"
)

// simulatePrincipal sets the result of the look-up: a workspace's credential, or a user's credential if one of the scopes is a
// user-level scope. Without a credential, there is no principal.
func (x *Explainer) simulatePrincipal(ctx context.Context, m *simulation, api authz.API, scopes []string) error {
	t := m.explainer.Tables()[m.api]
	ofUser := false
	for _, scope := range scopes {
		level, ok := t.Scope(scope)
		if !ok {
			return UndefinedError{fmt.Errorf("%q is not a scope of %s; scopes are %s", scope, m.api,
				strings.Join(t.ScopeNames(table.LevelWorkspace, table.LevelUser), ", "))}
		}
		ofUser = ofUser || level == table.LevelUser
	}
	formats := api.OperatorFormats()
	i := slices.IndexFunc(formats, func(f authz.CredentialFormat) bool { return f.Kind.OfUser() == ofUser })
	switch {
	case m.anonymous:
		m.format = api.Credentials[0] // any format of the API: an attempt with a token sends a key of this format
	case i < 0:
		return fmt.Errorf("%s has no kind of token that can have these scopes", m.api)
	default:
		m.format = formats[i]
	}
	own, known, err := x.workspaceOf(ctx, m.workspace) // the simulated principal belongs to the workspace of the request
	if err != nil {
		return err
	}
	m.lookupResult = authz.LookupResult{
		Principal: authz.Principal{ID: simulatedID, Kind: m.format.Kind, API: m.api, Environment: m.format.Environment, Scopes: scopes},
		Workspace: own,
	}
	if ofUser {
		m.lookupResult.Principal.UserID = simulatedID
		m.lookupResult.Workspace.Role = "owner"
	}
	if m.anonymous {
		m.lookupResult.Principal = authz.Principal{}
	}
	switch {
	case m.anonymous && !known: // an attempt with a token has to send another header
	case m.workspace != "":
		m.workspace = reference(api, own.ID, own.Slug)
		m.headerWorkspace = m.lookupResult.Workspace
	case ofUser:
		m.lookupResult.Workspace = authz.Membership{}
	}
	return nil
}

// workspaceOf returns the workspace with the id or slug. If the database does not know the workspace, or if there is no database,
// placeholders represent the unknown values. The result `known` is false if there certainly is no such workspace.
func (x *Explainer) workspaceOf(ctx context.Context, ref string) (found authz.Membership, known bool, err error) {
	known = true
	if x.registry != nil && ref != "" {
		w, err := x.registry.Workspace(ctx, ref)
		if known = !errors.Is(err, database.ErrNotFound); known {
			return authz.Membership{ID: w.ID, Slug: w.Slug, Attributes: w.Attributes}, true, err
		}
	}
	w := authz.Membership{ID: placeholderID, Slug: placeholderSlug}
	switch {
	case authz.ValidWorkspaceID(ref):
		w.ID = ref
	case authz.ValidSlug(ref):
		w.Slug = ref
	}
	return w, known, nil
}

// reference returns the value of the workspace header: the id or the slug, as the API's configuration requires.
func reference(api authz.API, id, slug string) string {
	if api.Workspace.By == authz.ByID {
		return id
	}
	return slug
}

// check runs the request through the authorizer. The result is in m.input and m.explanation.
func (m *simulation) check(ctx context.Context) error {
	var header authz.Fields
	if !m.anonymous {
		header = authz.Fields{{Name: authz.AuthorizationHeader, Value: "Bearer " + m.format.NewKey().Reveal()}}
	}
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
func (unusedSessions) Verify(context.Context, string, authz.Secret) (authz.VerifiedSession, error) {
	return authz.VerifiedSession{}, errors.New("explain does not verify session tokens")
}

// Needs implements [authz.Policy].
func (m *simulation) Needs(api string) authz.PolicyNeeds { return m.explainer.Needs(api) }

// Lookup implements [authz.Directory].
func (m *simulation) Lookup(ctx context.Context, l authz.Lookup) (authz.LookupResult, error) {
	if m.registry == nil {
		return m.lookupResult, nil
	}
	if m.token.Kind == authz.KindSession {
		if !m.acceptsSession() {
			return authz.LookupResult{Denial: authz.ReasonUnknown}, nil
		}
		l.Kind, l.Session = authz.KindSession, authz.Session{ID: simulatedID, UserID: m.token.ID, StartedAt: time.Now().Unix()}
		found, err := m.registry.LookupSession(ctx, l)
		found.Principal.Scopes = m.token.Scopes
		return found, err
	}
	l.Kind = m.token.Kind
	return m.registry.Lookup(ctx, m.token.ID, l)
}

// acceptsSession reports whether the API accepts sessions on the path of the request. A check that cannot accept the session does not
// look it up, and has the same result.
func (m *simulation) acceptsSession() bool { return m.cfg.APIs[m.api].Session.AcceptsAt(m.input.Path) }

// Decide implements [authz.Policy].
func (m *simulation) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	var err error
	m.input = in
	m.explanation, err = m.explainer.Explain(ctx, in)
	return m.explanation.Decision, err
}

// principal returns the principal of the token, even if the token is revoked or expired.
func (m *simulation) principal() authz.Principal {
	if m.registry == nil {
		return m.lookupResult.Principal
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

// workspaceHeader returns the workspace header of the request, or "".
func (m *simulation) workspaceHeader() string {
	if m.workspace == "" {
		return ""
	}
	return m.cfg.APIs[m.api].Workspace.Header + ": " + shownReference(m.workspace)
}

// shownReference returns the reference, or W for the placeholder.
func shownReference(reference string) string {
	if reference == placeholderID || reference == placeholderSlug {
		return "W"
	}
	return reference
}
