package reliability

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keywicket/keywicket/store/sidecars"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/wire"
)

func TestRevokedMeansRevoked(t *testing.T) {
	t.Parallel()
	f := newFaults(t, harness.StartRaceStack)
	revoked := "UNAUTHORIZED revoked"
	requestWith := func(token harness.Token) harness.Request {
		return harness.NewRequest("velaflows", harness.Conversations, token.Token, f.home.ID)
	}

	t.Run("by the CLI", func(t *testing.T) {
		token := f.warm(t)
		harness.Keywicket[harness.ListedToken](t, f.Stack, "token", "revoke", token.ID)
		f.requireChange(t, requestWith(token), time.Now(), bound, "allow", revoked)
	})
	t.Run("by an SQL statement of another client", func(t *testing.T) {
		token := f.warm(t)
		f.requireChange(t, requestWith(token), f.exec(t, revoke, token.ID), bound, "allow", revoked)
	})
	t.Run("while the token is looked up", func(t *testing.T) {
		token := harness.IssueToken(t, f.Stack, "sk_live_", f.home.ID, "inbox:read")
		f.warm(t) // makes the sidecar open a connection for look-ups
		heal := addToxic(t, f.lookups, "latency", `"latency": 250`)
		loads := make(chan string)
		go func() { loads <- f.client.Send(t, requestWith(token)).Outcome }()
		time.Sleep(100 * time.Millisecond) // Postgres has read the row, and its answer is on its way
		committed := f.exec(t, revoke, token.ID)
		if got := <-loads; got != "allow" {
			t.Errorf("the look-up that began before the revocation: %s", got)
		}
		heal()
		f.requireChange(t, requestWith(token), committed, bound, "allow", revoked)
	})
	t.Run("by the CLI with --wait", func(t *testing.T) {
		token := f.warm(t)
		done := harness.Keywicket[struct {
			Status  string
			Barrier sidecars.WaitResult
		}](t, f.Stack, "token", "revoke", token.ID, "--wait")
		f.client.Expect(t, requestWith(token), revoked)
		if done.Status != "revoked" || len(done.Barrier.Confirmed) != 1 || len(done.Barrier.Silent) != 0 {
			t.Errorf("%+v", done)
		}
		list := harness.Keywicket[[]sidecars.Sidecar](t, f.Stack, "sidecar", "list")
		if len(list) != 1 || list[0].ID != done.Barrier.Confirmed[0] || !list[0].Alive || list[0].Lease == 0 || len(list[0].Policies) != 12 {
			t.Errorf("%+v", list)
		}
	})
	t.Run("while the connection for hints is frozen", func(t *testing.T) {
		token := f.warm(t)
		heal := addToxic(t, f.feed, "timeout", `"timeout": 0`)
		defer heal()
		f.requireChange(t, requestWith(token), f.exec(t, revoke, token.ID), bound, "allow", revoked)
	})
	t.Run("while the connections for look-ups and the log are frozen", func(t *testing.T) {
		token := f.warm(t)
		heal := addToxic(t, f.lookups, "timeout", `"timeout": 0`)
		defer heal()
		committed := f.exec(t, revoke, token.ID)
		for time.Since(committed) <= bound {
			time.Sleep(bound / 50)
		}
		if got := f.client.Send(t, requestWith(token)); got.Outcome != "UNAVAILABLE unavailable" {
			t.Errorf("after the bound the answer is %s", got.Outcome)
		}
	})
	t.Run("while the database cannot be reached for a while", func(t *testing.T) {
		token := f.warm(t)
		f.lookups.Stop()
		harness.Await(t, "the sidecar's lease has expired", func() bool { return !f.leaseHeld(t) })
		committed := f.exec(t, revoke, token.ID)
		if err := f.lookups.Start(); err != nil {
			t.Fatal(err)
		}
		harness.Await(t, "the sidecar has a lease again", func() bool { return f.leaseHeld(t) })
		f.requireChange(t, requestWith(token), committed, 0, "allow", revoked)
	})
	t.Run("in replica mode", func(t *testing.T) {
		token := f.warm(t)
		tx := f.db.MustBegin()
		tx.MustExec(`SET LOCAL session_replication_role = replica`)
		tx.MustExec(revoke, token.ID)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		f.requireChange(t, requestWith(token), time.Now(), bound, "allow", revoked)
	})
	t.Run("with a thousand other changes", func(t *testing.T) {
		token := f.warm(t)
		before := f.metric(t, `keywicket_cache_epochs_total{cause="notice"}`)
		f.exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
			SELECT 'velaflows', 'workspace_token', 'live', 'sk_live_', sha256(convert_to('key ' || n, 'UTF8')), 'n', '{}', $1
			FROM generate_series(1, 1000) n`, f.home.ID)
		f.requireChange(t, requestWith(token), f.exec(t, `UPDATE keywicket.tokens SET revoked_at = now()`), bound, "allow", revoked)
		if got := f.metric(t, `keywicket_cache_epochs_total{cause="notice"}`); got == before || got > before+2 {
			t.Errorf("two mass changes caused %v notifications", got-before) // one notification if the sidecar reads both changes at the same time
		}
	})
	t.Run("when every connection of the sidecar is terminated", func(t *testing.T) {
		token := f.warm(t)
		f.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'demo_sidecar'`)
		f.requireChange(t, requestWith(token), f.exec(t, revoke, token.ID), bound, "allow", revoked)
	})
	t.Run("when the sidecar is frozen between the revocation and the request", func(t *testing.T) {
		token := f.warm(t)
		c := wire.Protocols["direct"](t, f.Stack, "")
		defer func() { _ = c.Close() }()
		check := wire.Request{Target: "/api/v1/inbox/conversations", Header: [][2]string{
			{"authorization", "Bearer " + token.Token}, {"x-workspace-id", f.home.ID}}}
		if got := c.Send(t, check).Outcome; got != "allow" {
			t.Fatal(got)
		}
		if err := f.Sidecar.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		f.exec(t, revoke, token.ID)
		var asking sync.WaitGroup
		var allowed atomic.Int64
		time.Sleep(bound + bound/2)
		for range 50 { // these requests start long after the change, and get answers when the sidecar continues
			asking.Go(func() {
				if c.Send(t, check).Outcome == "allow" {
					allowed.Add(1)
				}
			})
		}
		time.Sleep(bound + bound/2)
		if err := f.Sidecar.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		asking.Wait()
		if n := allowed.Load(); n != 0 {
			t.Errorf("%d requests that started after the bound were allowed", n)
		}
	})
	t.Run("when every token is deleted", func(t *testing.T) {
		token := f.warm(t)
		f.requireChange(t, requestWith(token), f.exec(t, `TRUNCATE keywicket.tokens CASCADE`), bound, "allow", "UNAUTHORIZED unknown")
	})
}
