package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store"
)

var velo = authz.CredentialFormat{Kind: authz.KindOAuthToken, Prefix: "velo_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38}

// granting is an issuer with an app to which ada grants access.
type granting struct {
	*fixture
	*store.Issuer
	app store.App
}

func newGranting(t *testing.T) *granting {
	t.Helper()
	g := &granting{fixture: newFixture(t)}
	issuer, err := store.OpenIssuer(with(g.url, "role", "keywicket_issuer"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = issuer.Close() })
	g.Issuer = issuer
	app, secret, err := g.CreateApp(t.Context(), store.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{"https://planner.example/cb"}})
	if err != nil || secret == "" {
		t.Fatal(err)
	}
	g.app = app
	return g
}

func (g *granting) code(t *testing.T, workspaces ...string) authz.Secret {
	t.Helper()
	return must(g.Approve(t.Context(), store.Approval{
		Client: g.app.ID, User: g.ada.ID, Workspaces: workspaces, Scopes: []string{"issues:read", "issues:write"},
		RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43),
	})).Code
}

func acceptCode(store.Code) error { return nil }

func (g *granting) exchange(t *testing.T, code authz.Secret) store.Issued {
	t.Helper()
	return must(g.Exchange(t.Context(), code, velo, acceptCode))
}

func (g *granting) refresh(t *testing.T, token authz.Secret) (store.Issued, error) {
	t.Helper()
	return g.Refresh(t.Context(), token, velo, func(r store.Refreshing) ([]string, error) { return r.Scopes, nil })
}

func access(token authz.Secret, slug string) authz.Lookup {
	return authz.Lookup{Kind: authz.KindOAuthToken, Digest: token.Digest(), API: "velocity", Workspace: authz.WorkspaceRef{Slug: slug}}
}

func sessionOf(user string, began time.Time) authz.Session {
	return authz.Session{ID: "session of " + user, UserID: user, Began: began.Unix()}
}

func inWorkspace(s authz.Session, slug string) authz.Lookup {
	return authz.Lookup{Kind: authz.KindSession, Session: s, API: "velocity", Workspace: authz.WorkspaceRef{Slug: slug}}
}
