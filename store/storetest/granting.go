package storetest

import (
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
)

// Velo is the format of access tokens.
var Velo = authz.CredentialFormat{Kind: authz.KindOAuthToken, Prefix: "velo_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38}

// GrantFixture is a fixture with an issuer and an app. The user ada can allow this app to act for her.
type GrantFixture struct {
	*Fixture
	*issuer.Issuer
	App registry.App
}

// NewGrantFixture creates the fixture in a new database.
func NewGrantFixture(t *testing.T) *GrantFixture {
	t.Helper()
	g := &GrantFixture{Fixture: NewFixture(t)}
	i, err := issuer.Open(WithOption(g.URL, "role", "keywicket_issuer"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	g.Issuer = i
	app, secret, err := g.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{"https://planner.example/cb"}})
	if err != nil || secret == "" {
		t.Fatal(err)
	}
	g.App = app
	return g
}

// NewCode approves the app for ada in the workspaces, and returns the code.
func (g *GrantFixture) NewCode(t *testing.T, workspaces ...string) authz.Secret {
	t.Helper()
	return Must(g.Approve(t.Context(), issuer.Approval{
		Client: g.App.ID, User: g.Ada.ID, Workspaces: workspaces, Scopes: []string{"issues:read", "issues:write"},
		RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43),
	})).Code
}

// AcceptCode is a check that accepts every code.
func AcceptCode(issuer.Code) error { return nil }

// ExchangeCode exchanges a code for tokens.
func (g *GrantFixture) ExchangeCode(t *testing.T, code authz.Secret) issuer.TokenPair {
	t.Helper()
	return Must(g.Exchange(t.Context(), code, Velo, AcceptCode))
}

// RefreshToken exchanges a refresh token for new tokens with all scopes. Every second use revokes the grant.
func (g *GrantFixture) RefreshToken(t *testing.T, token authz.Secret) (issuer.TokenPair, error) {
	t.Helper()
	return g.RefreshWithin(t, 0, token)
}

// RefreshWithin exchanges a refresh token for new tokens with all scopes. A second use within the window is accepted.
func (g *GrantFixture) RefreshWithin(t *testing.T, window time.Duration, token authz.Secret) (issuer.TokenPair, error) {
	t.Helper()
	request := issuer.RefreshRequest{Token: token, Client: g.App.ID, Format: Velo, ReuseWindow: window}
	return g.Refresh(t.Context(), request, AllScopes)
}

// AllScopes selects all granted scopes.
func AllScopes(granted []string) ([]string, error) { return granted, nil }

// AccessLookup returns the look-up of an access token in a workspace. If slug is empty, no workspace is requested.
func AccessLookup(token authz.Secret, slug string) authz.Lookup {
	return authz.Lookup{Kind: authz.KindOAuthToken, Digest: token.Digest(), API: "velocity", Workspace: authz.WorkspaceRef{Slug: slug}}
}

// SessionOf returns a session of the user.
func SessionOf(user string, began time.Time) authz.Session {
	return authz.Session{ID: "session of " + user, UserID: user, StartedAt: began.Unix()}
}

// InWorkspace returns the look-up of a session in a workspace. If slug is empty, no workspace is requested.
func InWorkspace(s authz.Session, slug string) authz.Lookup {
	return authz.Lookup{Kind: authz.KindSession, Session: s, API: "velocity", Workspace: authz.WorkspaceRef{Slug: slug}}
}
