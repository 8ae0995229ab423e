package reliability

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/supabase"
)

// The revocation of a session takes effect within the bound, like the revocation of a token.
func TestRevokedSessions(t *testing.T) {
	t.Parallel()
	f := newFaults(t, harness.StartStack, "KEYWICKET_APIS_VELOCITY_SESSION_LEEWAY=1s")
	ada := harness.Keywicket[registry.User](t, f.Stack, "user", "create", "--email", "ada@example.com")
	join := func() {
		harness.Keywicket[registry.Member](t, f.Stack, "member", "set", "--workspace", f.home.Slug, "--user", ada.ID, "--role", "member")
	}
	join()
	revoked := "UNAUTHORIZED revoked"
	warm := func() (id string, r harness.Request) {
		id = rand.Text()
		r = harness.NewRequest("velocity", "POST /api/issues", f.issuer.Token(ada.ID, supabase.Fields{"session_id": id}), f.home.Slug)
		f.warmUp(t, r)
		return id, r
	}
	const row = `INSERT INTO keywicket.revoked_sessions (session_id) VALUES ($1)`

	t.Run("by the CLI", func(t *testing.T) {
		id, session := warm()
		_, other := warm()
		harness.Keywicket[registry.RevokedSessions](t, f.Stack, "session", "revoke", id)
		f.requireChange(t, session, time.Now(), bound, "allow", revoked)
		f.client.Expect(t, other, "allow")
	})
	t.Run("by a row that the product writes", func(t *testing.T) {
		id, session := warm()
		f.requireChange(t, session, f.exec(t, row, id), bound, "allow", revoked)
	})
	t.Run("with any token of the session", func(t *testing.T) {
		id, session := warm()
		refreshed := harness.NewRequest("velocity", "POST /api/issues", f.issuer.Token(ada.ID, supabase.Fields{"session_id": id, "jti": "2"}), f.home.Slug)
		f.warmUp(t, refreshed)
		committed := f.exec(t, row, id)
		f.requireChange(t, session, committed, bound, "allow", revoked)
		f.requireChange(t, refreshed, committed, bound, "allow", revoked)
	})
	t.Run("while the connection for hints is frozen", func(t *testing.T) {
		id, session := warm()
		heal := addToxic(t, f.feed, "timeout", `"timeout": 0`)
		defer heal()
		f.requireChange(t, session, f.exec(t, row, id), bound, "allow", revoked)
	})
	t.Run("in replica mode", func(t *testing.T) {
		id, session := warm()
		tx := f.db.MustBegin()
		tx.MustExec(`SET LOCAL session_replication_role = replica`)
		tx.MustExec(row, id)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		f.requireChange(t, session, time.Now(), bound, "allow", revoked)
	})
	t.Run("a member who is removed", func(t *testing.T) {
		_, session := warm()
		f.requireChange(t, session, f.exec(t, `DELETE FROM keywicket.members`), bound, "allow", "WORKSPACE_ACCESS_DENIED workspace_mismatch")
		join()
	})
	t.Run("all sessions of a user", func(t *testing.T) {
		_, one := warm()
		_, other := warm()
		harness.Keywicket[registry.RevokedSessions](t, f.Stack, "session", "revoke", "--user", "ada@example.com")
		committed := time.Now()
		f.requireChange(t, one, committed, bound, "allow", revoked)
		f.requireChange(t, other, committed, bound, "allow", revoked)
		harness.Await(t, "the user signs in again", func() bool {
			again := harness.NewRequest("velocity", "POST /api/issues", f.issuer.Token(ada.ID, supabase.Fields{"session_id": rand.Text()}), f.home.Slug)
			return f.client.Send(t, again).Outcome == "allow"
		})
	})
	t.Run("a user who is removed", func(t *testing.T) {
		_, session := warm()
		f.requireChange(t, session, f.exec(t, `DELETE FROM keywicket.users WHERE id = $1`, ada.ID), bound, "allow", "UNAUTHORIZED unknown")
	})
}
