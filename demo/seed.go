package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo/signin"
	"github.com/keywicket/keywicket/store/registry"
)

// The workspaces of the demo. Acme's id and the last two slugs come from the examples in the API documents of VelaFlows and
// Velocity.
const (
	Acme       = "64f1a2b3c4d5e6f7a8b9c0d1"
	acmeSlug   = "acme"
	yourSlug   = "your-workspace"
	targetSlug = "target-workspace"
)

// key is a credential of the demo, with its API, owner and scopes.
type key struct {
	name            string
	format          authz.CredentialFormat
	api             string
	workspace, user string
	scopes          []string
	expiresIn       time.Duration
	revoked         bool
	imported        authz.Secret // a key that the product issued before; empty: a new key
	variable        string       // the shell variable in which Print shows a session's token; empty: not a session
}

var (
	skLive = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_live_", Environment: authz.Live, VisiblePrefix: 16, BodyLength: 40}
	skTest = authz.CredentialFormat{Kind: authz.KindWorkspaceToken, Prefix: "sk_test_", Environment: authz.Sandbox, VisiblePrefix: 16, BodyLength: 40}
	vel    = authz.CredentialFormat{Kind: authz.KindWorkspaceKey, Prefix: "vel_", Environment: authz.Live, VisiblePrefix: 12, BodyLength: 38}
	velu   = authz.CredentialFormat{Kind: authz.KindPersonalKey, Prefix: "velu_", Environment: authz.Live, VisiblePrefix: 13, BodyLength: 38}
)

var (
	readScopes  = []string{"issues:read", "projects:read", "documents:read", "workspace:read"}
	writeScopes = append([]string{"issues:write", "projects:write", "documents:write"}, readScopes...)
)

// keys are the credentials of the demo. Three of them are the example keys in the API documents of VelaFlows and
// Velocity. The demo imports them, as a product imports its existing keys.
var keys = []key{
	{name: "dashboard", format: skLive, api: "velaflows", workspace: acmeSlug,
		scopes:   []string{"inbox:read", "crm:read", "contacts:read", "analytics:read"},
		imported: "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t0"},
	{name: "chatbot", format: skLive, api: "velaflows", workspace: acmeSlug,
		scopes: []string{"inbox:read", "inbox:write", "channels:read", "channels:write", "ai:read"}},
	{name: "administrator", format: skLive, api: "velaflows", workspace: acmeSlug, scopes: []string{"admin:all"}},
	{name: "sandbox", format: skTest, api: "velaflows", workspace: acmeSlug, scopes: []string{"inbox:read"}},
	{name: "expired", format: skLive, api: "velaflows", workspace: acmeSlug, scopes: []string{"inbox:read"}, expiresIn: 100 * time.Millisecond},
	{name: "revoked", format: skLive, api: "velaflows", workspace: acmeSlug, scopes: []string{"inbox:read"}, revoked: true},
	{name: "read-only", format: vel, api: "velocity", workspace: yourSlug, scopes: readScopes, imported: "vel_your_api_key_here"},
	{name: "read-write", format: vel, api: "velocity", workspace: yourSlug, scopes: writeScopes},
	{name: "settings", format: vel, api: "velocity", workspace: yourSlug, scopes: []string{"workspace:admin"}},
	{name: "ada's", format: velu, api: "velocity", user: "ada@example.com",
		scopes: []string{"user:read", "workspaces:list", "issues:read", "issues:write"}, imported: "velu_your_personal_key_here"},
	{name: "ada's admin", format: velu, api: "velocity", user: "ada@example.com", scopes: []string{"admin"}},
	{name: "ada's session", api: "velocity", user: "ada@example.com", variable: "SESSION"},
	{name: "ada's signed out", api: "velocity", user: "ada@example.com", variable: "SIGNED_OUT", revoked: true},
}

// seed fills the database, and returns a map from the keys' names to their secrets. It creates an app and the user Ada. Ada owns
// your-workspace, and is a guest in target-workspace.
func seed(ctx context.Context, databaseURL string, sessions *signin.Server) (map[string]authz.Secret, error) {
	r, err := registry.Open(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	for _, w := range []registry.Workspace{
		{ID: Acme, Slug: acmeSlug, Name: "Acme"},
		{Slug: yourSlug, Name: "Your workspace"},
		{Slug: targetSlug, Name: "Target workspace"},
	} {
		if _, err := r.CreateWorkspace(ctx, w); err != nil {
			return nil, err
		}
	}
	ada, err := r.CreateUser(ctx, registry.User{Email: "ada@example.com"})
	if err != nil {
		return nil, err
	}
	for workspace, role := range map[string]string{yourSlug: "owner", targetSlug: "guest"} {
		if _, err := r.SetMember(ctx, workspace, "ada@example.com", role); err != nil {
			return nil, err
		}
	}
	sessions.AddUser(ada.ID, ada.Email)
	_, _, err = r.CreateApp(ctx, registry.NewApp{ID: clientID, API: "velocity", Name: "Planner", RedirectURIs: []string{callback}})
	if err != nil {
		return nil, err
	}
	secrets := make(map[string]authz.Secret, len(keys))
	for _, k := range keys {
		if k.variable != "" {
			if secrets[k.name], err = session(ctx, r, sessions, ada.ID, k); err != nil {
				return nil, fmt.Errorf("seed %s: %w", k.name, err)
			}
			continue
		}
		n := registry.NewToken{
			Format: k.format, API: k.api, Name: k.name, Scopes: k.scopes, Workspace: k.workspace, User: k.user, Key: k.imported,
		}
		if k.expiresIn != 0 {
			n.ExpiresIn = &k.expiresIn
		}
		token, secret, err := r.CreateToken(ctx, n)
		if err == nil && k.revoked {
			_, err = r.RevokeToken(ctx, token.ID)
		}
		if err == nil && k.expiresIn != 0 {
			err = awaitExpiry(ctx, r, token.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("seed the key %s: %w", k.name, err)
		}
		secrets[k.name] = secret
	}
	return secrets, nil
}

// session returns the token of a new session. The token is valid for a day. If the key's field revoked is set, session revokes the
// session.
func session(ctx context.Context, r *registry.Registry, sessions *signin.Server, user string, k key) (authz.Secret, error) {
	id := rand.Text()
	token, err := sessions.Token(user, id, 24*time.Hour)
	if err == nil && k.revoked {
		_, err = r.RevokeSession(ctx, id)
	}
	return authz.Secret(token), err
}

// awaitExpiry waits until the database reports the token as expired.
func awaitExpiry(ctx context.Context, r *registry.Registry, id string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		token, err := r.Token(ctx, id)
		if err != nil || token.Status == registry.Expired {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
