package harness

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/supabase"
)

// Deployment is a stack that all tests of a package share, because its parts take seconds to start. Its sidecar has
// the race detector if the tests have it.
type Deployment struct {
	*demo.Stack
	Registry *registry.Registry
	Grants   *issuer.Issuer
	Sessions *supabase.Issuer // issues Velocity's sessions

	closers []func() error
}

// Staleness is the staleness bound of a sidecar with the setting ShortStaleness: for at most this time after a change, the
// sidecar may use older data.
const (
	Staleness      = 100 * time.Millisecond
	ShortStaleness = "KEYWICKET_CACHE_STALENESS_BOUND=100ms"
)

// LongLookupTimeout is an environment variable that almost doubles the time limit of a look-up, for slow machines.
const LongLookupTimeout = "KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"

func startDeployment(ctx context.Context) (_ *Deployment, err error) {
	d := &Deployment{Sessions: supabase.Start()}
	d.OnClose(func() error { d.Sessions.Close(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	stack, end, err := startWithRaceDetector(ctx, demo.Config{
		Environ:          append(d.Sessions.Environ(), LongLookupTimeout, ShortStaleness),
		PostgresSettings: map[string]string{"shared_preload_libraries": "pg_stat_statements"},
	})
	if err != nil {
		return nil, err
	}
	d.Stack = stack
	d.OnClose(end)
	if d.Registry, err = registry.Open(ctx, d.DatabaseURL()); err != nil {
		return nil, err
	}
	d.OnClose(d.Registry.Close)
	if d.Grants, err = issuer.Open(d.DatabaseURL()); err != nil {
		return nil, err
	}
	d.OnClose(d.Grants.Close)
	return d, nil
}

// OnClose registers a function. When the deployment ends, it calls the registered functions, the newest first.
func (d *Deployment) OnClose(f func() error) { d.closers = append(d.closers, f) }

func (d *Deployment) close() (err error) {
	for _, f := range slices.Backward(d.closers) {
		err = errors.Join(err, f())
	}
	return err
}

// UpstreamRequests returns how many requests have reached an upstream.
func (d *Deployment) UpstreamRequests() int64 { return d.Live.Count() + d.Sandbox.Count() }

// CreateToken creates a token with the prefix, and returns it with its secret.
func (d *Deployment) CreateToken(t testing.TB, prefix string, n registry.NewToken) (registry.Token, string) {
	t.Helper()
	n.API, n.Format = product.FormatOf(prefix)
	token, secret, err := d.Registry.CreateToken(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return token, secret.Reveal()
}

// AwaitExpiry waits until the token has expired according to the database's clock.
func (d *Deployment) AwaitExpiry(t testing.TB, id string) {
	t.Helper()
	Await(t, "the token has expired", func() bool {
		token, err := d.Registry.Token(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return token.Status == registry.Expired
	})
}

// CreateOwner creates a user, and a workspace that the user owns. It returns the user's ID and the workspace's slug.
func (d *Deployment) CreateOwner(t testing.TB) (user, workspace string) {
	t.Helper()
	name := strings.ToLower(rand.Text())
	u, err := d.Registry.CreateUser(t.Context(), registry.User{Email: name + "@example.com"})
	if err == nil {
		_, err = d.Registry.CreateWorkspace(t.Context(), registry.Workspace{Slug: name, Name: "Ada's"})
	}
	if err == nil {
		_, err = d.Registry.SetMember(t.Context(), name, u.ID, "owner")
	}
	if err != nil {
		t.Fatal(err)
	}
	return u.ID, name
}

// Grant makes the user consent to an app, and returns the app's tokens. It bypasses the issuer's pages, which other tests
// cover.
func (d *Deployment) Grant(t testing.TB, user string, scopes []string, workspaces ...string) issuer.TokenPair {
	t.Helper()
	const callback = "https://planner.example/cb"
	app, _, err := d.Registry.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{callback}})
	if err != nil {
		t.Fatal(err)
	}
	approval := issuer.Approval{Client: app.ID, User: user, Scopes: scopes, RedirectURI: callback, Challenge: strings.Repeat("c", 43)}
	for _, w := range workspaces {
		found, err := d.Registry.Workspace(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		approval.Workspaces = append(approval.Workspaces, found.ID)
	}
	_, format := product.FormatOf("velo_")
	approved, err := d.Grants.Approve(t.Context(), approval)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := d.Grants.Exchange(t.Context(), approved.Code, format, func(issuer.Code) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return issued
}
