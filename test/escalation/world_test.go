// Package escalation tests that nobody gets more rights through the console than they have. It has a generated table of callers,
// operations and targets, and attacks on the pages. All requests pass through Envoy. The sidecar, the console and Postgres are real.
package escalation

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/signin"
	"github.com/keywicket/keywicket/internal/testmain"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/browser"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/program"
)

// world is a stack with a console, its users and their credentials.
type world struct {
	*harness.Deployment
	signIn     *signin.Server
	db         *sqlx.DB
	config     string                        // a setting, as NAME=value
	chromium   *browser.Browser              // nil: not yet started
	workspaces map[string]registry.Workspace // by slug
	users      map[string]registry.User      // by the first part of the email
	victims    map[string]victim
	reaches    map[string]map[string]bool
}

// roles are the members of the workspaces. Gus is a guest in one workspace, and owns the other one. Nina is in no workspace.
var roles = map[string]map[string]string{
	"olga": {"acme": "owner"}, "adam": {"acme": "admin"}, "mia": {"acme": "member"}, "gus": {"acme": "guest", "globex": "owner"},
	"zed": {"globex": "owner"}, "nina": {}, "bea": {"acme": "owner"}, "rex": {"acme": "owner"},
}

// shared is the world of all tests. The tests run one after the other, because they compare the whole database before and after a
// request.
var shared = &world{victims: map[string]victim{}, reaches: map[string]map[string]bool{}, workspaces: map[string]registry.Workspace{}, users: map[string]registry.User{}}

func TestMain(m *testing.M) { testmain.Exit(run(m)) }

func run(m *testing.M) (code int, err error) {
	folder, err := os.MkdirTemp("", "escalation-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.close(), os.RemoveAll(folder)) }()
	if err := shared.start(folder); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// configuration returns the default configuration with a limit: in Velocity, only owners give a workspace's key full access.
func configuration() ([]byte, error) {
	const limit = "override_roles: []}"
	text, err := os.ReadFile("../../service/config/defaults.yaml")
	if strings.Count(string(text), limit) != 1 {
		err = errors.Join(err, errors.New("defaults.yaml no longer has the line that the test changes"))
	}
	return []byte(strings.Replace(string(text), limit, "override_roles: [owner]}", 1)), err
}

// start starts the stack, and creates the users. Bea is banned.
func (w *world) start(folder string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	text, err := configuration()
	if err != nil {
		return err
	}
	w.config = "KEYWICKET_CONFIG=" + filepath.Join(folder, "keywicket.yaml")
	if err := os.WriteFile(filepath.Join(folder, "keywicket.yaml"), text, 0o600); err != nil {
		return err
	}
	if w.signIn, err = signin.Start("127.0.0.1:0"); err != nil {
		return err
	}
	binary, err := program.Keywicket()
	if err != nil {
		return err
	}
	w.Deployment = &harness.Deployment{}
	w.Stack, err = demo.Start(ctx, demo.Config{
		Keywicket: binary, Console: true, Environ: append(w.signIn.Environ(), w.config, "KEYWICKET_CONSOLE_ADDRESS_LIMIT=0", harness.LongLookupTimeout),
	})
	if err != nil {
		return err
	}
	if w.Registry, err = registry.Open(ctx, w.DatabaseURL()); err != nil {
		return err
	}
	if w.Grants, err = issuer.Open(w.DatabaseURL()); err != nil {
		return err
	}
	if w.db, err = database.Open(w.DatabaseURL()); err != nil {
		return err
	}
	return w.populate(ctx)
}

func (w *world) populate(ctx context.Context) (err error) {
	for _, slug := range []string{"acme", "globex"} {
		if w.workspaces[slug], err = w.Registry.CreateWorkspace(ctx, registry.Workspace{Slug: slug, Name: slug}); err != nil {
			return err
		}
	}
	for name, memberships := range roles {
		if w.users[name], err = w.Registry.CreateUser(ctx, registry.User{Email: name + "@example.com"}); err != nil {
			return err
		}
		w.signIn.AddUser(w.users[name].ID, name+"@example.com")
		for slug, role := range memberships {
			if _, err := w.Registry.SetMember(ctx, slug, name+"@example.com", role); err != nil {
				return err
			}
		}
	}
	_, err = w.db.ExecContext(ctx, `UPDATE keywicket.users SET banned_until = 'infinity' WHERE id = $1`, w.users["bea"].ID)
	return err
}

// close stops what start has started.
func (w *world) close() error {
	var errs []error
	if w.chromium != nil {
		errs = append(errs, w.chromium.Close())
	}
	if w.db != nil {
		errs = append(errs, w.db.Close())
	}
	if w.Deployment != nil && w.Stack != nil {
		errs = append(errs, w.Stack.Close())
	}
	if w.signIn != nil {
		errs = append(errs, w.signIn.Close())
	}
	return errors.Join(errs...)
}
