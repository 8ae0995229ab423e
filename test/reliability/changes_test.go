package reliability

import (
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/product"
)

// The test changes everything that the answer for a request depends on, not only the token.
func TestChangesReachTheCache(t *testing.T) {
	t.Parallel()
	f := newFaults(t, harness.StartStack)
	ada := harness.Keywicket[registry.User](t, f.Stack, "user", "create", "--email", "ada@example.com")
	set := func(role string) time.Time {
		harness.Keywicket[registry.Member](t, f.Stack, "member", "set", "--workspace", f.home.Slug, "--user", ada.ID, "--role", role)
		return time.Now()
	}
	set("member")
	key := harness.Keywicket[harness.Token](t, f.Stack, "token", "create", "--prefix", "velu_", "--user", ada.ID, "--name", "ada's",
		"--scope", "issues:read,issues:write")
	write := harness.NewRequest("velocity", "POST /api/issues", key.Token, f.home.Slug)
	f.warmUp(t, write)
	f.requireChange(t, write, set("guest"), bound, "allow", "FORBIDDEN missing_scope")
	f.requireChange(t, write, set("member"), bound, "FORBIDDEN missing_scope", "allow")
	f.requireChange(t, write, f.exec(t, `DELETE FROM keywicket.members`), bound, "allow", "WORKSPACE_ACCESS_DENIED workspace_mismatch")
	f.requireChange(t, write, set("owner"), bound, "WORKSPACE_ACCESS_DENIED workspace_mismatch", "allow")
	f.requireChange(t, write, f.exec(t, `UPDATE keywicket.workspaces SET slug = 'renamed'`), bound, "allow",
		"WORKSPACE_ACCESS_DENIED workspace_mismatch")
	renamed := harness.NewRequest("velocity", "POST /api/issues", key.Token, "renamed")
	f.warmUp(t, renamed)
	f.requireChange(t, renamed, f.exec(t, `DELETE FROM keywicket.users`), bound, "allow", "UNAUTHORIZED unknown")

	// A new token works within the bound. The test uses its key before the token exists, so the sidecar has cached the denial
	// "unknown".
	_, format := product.FormatOf("sk_live_")
	secret := format.NewKey()
	created := harness.NewRequest("velaflows", harness.Conversations, secret.Reveal(), f.home.ID)
	f.client.Expect(t, created, "UNAUTHORIZED unknown")
	f.client.Expect(t, created, "UNAUTHORIZED unknown")
	digest := secret.Digest()
	f.requireChange(t, created, f.exec(t, `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		VALUES ('velaflows', 'workspace_token', 'live', 'sk_live_', $1, 'n', '{inbox:read}', $2)`, digest[:], f.home.ID),
		bound, "UNAUTHORIZED unknown", "allow")
}

// The sidecar notices that the triggers were disabled, even if the triggers are enabled again immediately.
func TestTriggersAreDisabled(t *testing.T) {
	t.Parallel()
	f := newFaults(t, harness.StartStack)
	requestWith := func(token harness.Token) harness.Request {
		return harness.NewRequest("velaflows", harness.Conversations, token.Token, f.home.ID)
	}
	revokedDuringPause, revokedWhileDisabled := f.warm(t), f.warm(t)
	tx := f.db.MustBegin()
	tx.MustExec(`ALTER TABLE keywicket.tokens DISABLE TRIGGER tell_update`)
	tx.MustExec(revoke, revokedDuringPause.ID)
	tx.MustExec(`ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_update`)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	f.requireChange(t, requestWith(revokedDuringPause), time.Now(), bound, "allow", "UNAUTHORIZED revoked")

	f.warmUp(t, requestWith(revokedWhileDisabled))
	f.exec(t, `ALTER TABLE keywicket.tokens DISABLE TRIGGER ALL`)
	f.requireChange(t, requestWith(revokedWhileDisabled), f.exec(t, revoke, revokedWhileDisabled.ID), bound, "allow", "UNAUTHORIZED revoked")
	if f.leaseHeld(t) {
		t.Error("the sidecar uses its cache although changes are not logged")
	}
}

// A change reaches the sidecar within the bound, even if the sidecar receives no hints. In this test, the sidecar listens in
// another database of the same server. No change sends a notification there.
func TestSidecarListensInAnotherDatabase(t *testing.T) {
	t.Parallel()
	f := newFaults(t, func(t testing.TB, c demo.Config) *demo.Stack {
		databases := c.Database
		c.Database = func(databaseURL string) (lookups, feed string) {
			lookups, feed = databases(databaseURL)
			u, err := url.Parse(feed)
			if err != nil {
				t.Fatal(err)
			}
			u.Path = "/template1"
			return lookups, u.String()
		}
		return harness.StartStack(t, c)
	})
	token := f.warm(t)
	var listeners []string
	if err := f.db.Select(&listeners, `SELECT datname FROM pg_stat_activity WHERE query LIKE 'LISTEN %'`); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(listeners, []string{"template1"}) {
		t.Fatalf("the connections that listen are in the databases %q", listeners)
	}
	if !f.leaseHeld(t) {
		t.Error("the sidecar does not use its cache")
	}
	f.requireChange(t, harness.NewRequest("velaflows", harness.Conversations, token.Token, f.home.ID), f.exec(t, revoke, token.ID), bound,
		"allow", "UNAUTHORIZED revoked")
}
