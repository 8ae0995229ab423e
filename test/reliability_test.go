package test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/jmoiron/sqlx"
	"github.com/rs/zerolog"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/test/supabase"
)

// These tests cause each fault of docs/reliability.md in a running sidecar, one at a time, and check the bound. A request
// that starts later than the bound after a change was committed is never answered from before the change.
const bound = time.Second

// faults is a stack whose sidecar connects to its database through two proxies that can simulate faults.
type faults struct {
	*demo.Stack
	lookups, feed *toxiproxy.Proxy
	db            *sqlx.DB
	home          registry.Workspace
	issuer        *supabase.Issuer
	client        *http.Client
}

func newFaults(t *testing.T, environ ...string) *faults {
	t.Helper()
	f := &faults{issuer: supabase.Start()}
	t.Cleanup(f.issuer.Close)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	by := func(to **toxiproxy.Proxy, name string, databaseURL string) string {
		u, err := url.Parse(databaseURL)
		if err != nil {
			t.Fatal(err)
		}
		if *to == nil {
			*to = toxiproxy.NewProxy(server, name, "127.0.0.1:0", u.Host)
			if err := (*to).Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup((*to).Stop)
		}
		u.Host = (*to).Listen
		return u.String()
	}
	f.Stack = separateStack(t, demo.Config{
		Environ: slices.Concat([]string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}, f.issuer.Environ(), environ),
		Database: func(u string) (lookups, feed string) {
			return by(&f.lookups, "lookups", u), by(&f.feed, "feed", u)
		},
	})
	f.db = openDatabase(t, f.Stack)
	f.home = tenant(t, f.Stack)
	_, f.client = newWire(t, f.Stack, 4)
	return f
}

// toxic adds one of toxiproxy's faults to a proxy. remove ends the fault.
func toxic(t *testing.T, p *toxiproxy.Proxy, kind, attributes string) (remove func()) {
	t.Helper()
	w, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name": "t", "type": %q, "stream": "downstream", "attributes": {%s}}`, kind, attributes)))
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := p.Toxics.RemoveToxic(t.Context(), w.Name); err != nil {
			t.Error(err)
		}
	}
}

// metric reads one metric of the sidecar.
func (f *faults) metric(t *testing.T, series string) float64 {
	t.Helper()
	_, text := probeOf(t, f.Stack, "/metrics")
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (f *faults) leaseHeld(t *testing.T) bool {
	return f.metric(t, "keywicket_cache_lease_seconds") > 0
}

// warm returns a token of the home workspace that the sidecar has cached: it has answered for it without a query.
func (f *faults) warm(t *testing.T) issued {
	t.Helper()
	token := issue(t, f.Stack, "sk_live_", f.home.ID, "inbox:read")
	f.warmUp(t, ask("velaflows", conversations, token.Token, f.home.ID))
	return token
}

func (f *faults) warmUp(t *testing.T, r request) {
	t.Helper()
	hits := func() (n float64) {
		for _, kind := range []string{"workspace_token", "personal_key", "oauth_token", "session"} {
			n += f.metric(t, `keywicket_cache_lookups_total{cache="hit",kind="`+kind+`",outcome="found"}`)
		}
		return n
	}
	await(t, "the sidecar remembers the token", func() bool {
		before := hits()
		return r.send(t, f.client).outcome == "allow" && hits() > before
	})
}

// requireChange repeats the request from when the change was committed until well after the bound. Every request that starts after
// the bound has to get the new answer. Before, both answers are valid.
func (f *faults) requireChange(t *testing.T, r request, committed time.Time, within time.Duration, old, want string) {
	t.Helper()
	var first time.Duration
	for late := 0; late < 10; {
		started := time.Since(committed)
		got := r.send(t, f.client).outcome
		switch {
		case got == want && first == 0:
			first = started
		case got == old && started > within:
			t.Errorf("%v after the change the answer is still %s", started, got)
		case got != want && got != old && got != "UNAVAILABLE unavailable":
			t.Errorf("%v after the change the answer is %s, neither %s nor %s", started, got, old, want)
		}
		if started > within {
			late++
		}
		switch {
		case got == "UNAVAILABLE unavailable": // at once, while the database is gone
			time.Sleep(within / 50)
		case started < within:
			time.Sleep(min(within/50, within-started))
		}
	}
	if first == 0 {
		t.Errorf("the answer was never %s", want)
	}
	t.Logf("%s: %v after the change", want, first.Round(time.Millisecond))
}

func (f *faults) exec(t *testing.T, statement string, args ...any) (committed time.Time) {
	t.Helper()
	if _, err := f.db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return time.Now()
}

const revoke = `UPDATE keywicket.tokens SET revoked_at = now() WHERE id = $1`

func TestRevokedMeansRevoked(t *testing.T) {
	f := newFaults(t)
	revoked := "UNAUTHORIZED revoked"
	of := func(token issued) request { return ask("velaflows", conversations, token.Token, f.home.ID) }

	t.Run("by the CLI", func(t *testing.T) {
		token := f.warm(t)
		operator[listed](t, f.Stack, "token", "revoke", token.ID)
		f.requireChange(t, of(token), time.Now(), bound, "allow", revoked)
	})
	t.Run("by SQL of any client", func(t *testing.T) {
		token := f.warm(t)
		f.requireChange(t, of(token), f.exec(t, revoke, token.ID), bound, "allow", revoked)
	})
	t.Run("while it is loaded", func(t *testing.T) {
		token := issue(t, f.Stack, "sk_live_", f.home.ID, "inbox:read")
		f.warm(t) // the look-ups' connections are open
		heal := toxic(t, f.lookups, "latency", `"latency": 250`)
		loads := make(chan string)
		go func() { loads <- of(token).send(t, f.client).outcome }()
		time.Sleep(100 * time.Millisecond) // the row was read, and its answer is on its way
		committed := f.exec(t, revoke, token.ID)
		if got := <-loads; got != "allow" {
			t.Errorf("the load that the revocation overtook: %s", got)
		}
		heal()
		f.requireChange(t, of(token), committed, bound, "allow", revoked)
	})
	t.Run("by the CLI, which waits", func(t *testing.T) {
		token := f.warm(t)
		done := operator[struct {
			Status  string
			Barrier registry.Barrier
		}](t, f.Stack, "token", "revoke", token.ID, "--wait")
		wantOutcome(t, f.client, of(token), revoked)
		if done.Status != "revoked" || len(done.Barrier.Confirmed) != 1 || len(done.Barrier.Silent) != 0 {
			t.Errorf("%+v", done)
		}
		list := operator[[]registry.Sidecar](t, f.Stack, "sidecar", "list")
		if len(list) != 1 || list[0].ID != done.Barrier.Confirmed[0] || !list[0].Alive || list[0].Lease == 0 || len(list[0].Policies) != 12 {
			t.Errorf("%+v", list)
		}
	})
	t.Run("while hints are frozen", func(t *testing.T) {
		token := f.warm(t)
		heal := toxic(t, f.feed, "timeout", `"timeout": 0`)
		defer heal()
		f.requireChange(t, of(token), f.exec(t, revoke, token.ID), bound, "allow", revoked)
	})
	t.Run("while everything is frozen", func(t *testing.T) {
		token := f.warm(t)
		heal := toxic(t, f.lookups, "timeout", `"timeout": 0`)
		defer heal()
		committed := f.exec(t, revoke, token.ID)
		for time.Since(committed) <= bound {
			time.Sleep(bound / 50)
		}
		if got := of(token).send(t, f.client); got.outcome != "UNAVAILABLE unavailable" {
			t.Errorf("after the bound the answer is %s", got.outcome)
		}
	})
	t.Run("while the database cannot be reached for a while", func(t *testing.T) {
		token := f.warm(t)
		f.lookups.Stop()
		await(t, "the sidecar's lease has expired", func() bool { return !f.leaseHeld(t) })
		committed := f.exec(t, revoke, token.ID)
		if err := f.lookups.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, "the sidecar has a lease again", func() bool { return f.leaseHeld(t) })
		f.requireChange(t, of(token), committed, 0, "allow", revoked)
	})
	t.Run("in replica mode", func(t *testing.T) {
		token := f.warm(t)
		tx := f.db.MustBegin()
		tx.MustExec(`SET LOCAL session_replication_role = replica`)
		tx.MustExec(revoke, token.ID)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		f.requireChange(t, of(token), time.Now(), bound, "allow", revoked)
	})
	t.Run("with a thousand other changes", func(t *testing.T) {
		token := f.warm(t)
		before := f.metric(t, `keywicket_cache_epochs_total{cause="notice"}`)
		f.exec(t, `INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
			SELECT 'velaflows', 'workspace_token', 'live', 'sk_live_', sha256(convert_to('key ' || n, 'UTF8')), 'n', '{}', $1
			FROM generate_series(1, 1000) n`, f.home.ID)
		f.requireChange(t, of(token), f.exec(t, `UPDATE keywicket.tokens SET revoked_at = now()`), bound, "allow", revoked)
		if got := f.metric(t, `keywicket_cache_epochs_total{cause="notice"}`); got == before || got > before+2 {
			t.Errorf("two mass changes are %v notifications", got-before) // one, if they are read together
		}
	})
	t.Run("when every connection of the database is terminated", func(t *testing.T) {
		token := f.warm(t)
		f.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'demo_sidecar'`)
		f.requireChange(t, of(token), f.exec(t, revoke, token.ID), bound, "allow", revoked)
	})
	t.Run("when the sidecar is stopped in between", func(t *testing.T) {
		token := f.warm(t)
		c := wires["direct"](t, f.Stack, "")
		defer func() { _ = c.Close() }()
		check := message{target: "/api/v1/inbox/conversations", header: [][2]string{
			{"authorization", "Bearer " + token.Token}, {"x-workspace-id", f.home.ID}}}
		if got := c.put(t, check).outcome; got != "allow" {
			t.Fatal(got)
		}
		if err := f.Sidecar.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		f.exec(t, revoke, token.ID)
		var asking sync.WaitGroup
		var allowed atomic.Int64
		time.Sleep(bound + bound/2)
		for range 50 { // they start long after the change, and are answered when the sidecar continues
			asking.Go(func() {
				if c.put(t, check).outcome == "allow" {
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
		f.requireChange(t, of(token), f.exec(t, `TRUNCATE keywicket.tokens CASCADE`), bound, "allow", "UNAUTHORIZED unknown")
	})
}

// Changes of everything that an answer depends on, not only of the token.
func TestChangesAreHeard(t *testing.T) {
	f := newFaults(t)
	ada := operator[registry.User](t, f.Stack, "user", "create", "--email", "ada@example.com")
	set := func(role string) time.Time {
		operator[registry.Member](t, f.Stack, "member", "set", "--workspace", f.home.Slug, "--user", ada.ID, "--role", role)
		return time.Now()
	}
	set("member")
	key := operator[issued](t, f.Stack, "token", "create", "--prefix", "velu_", "--user", ada.ID, "--name", "ada's",
		"--scope", "issues:read,issues:write")
	write := ask("velocity", "POST /api/issues", key.Token, f.home.Slug)
	f.warmUp(t, write)
	f.requireChange(t, write, set("guest"), bound, "allow", "FORBIDDEN missing_scope")
	f.requireChange(t, write, set("member"), bound, "FORBIDDEN missing_scope", "allow")
	f.requireChange(t, write, f.exec(t, `DELETE FROM keywicket.members`), bound, "allow", "WORKSPACE_ACCESS_DENIED workspace_mismatch")
	f.requireChange(t, write, set("owner"), bound, "WORKSPACE_ACCESS_DENIED workspace_mismatch", "allow")
	f.requireChange(t, write, f.exec(t, `UPDATE keywicket.workspaces SET slug = 'renamed'`), bound, "allow",
		"WORKSPACE_ACCESS_DENIED workspace_mismatch")
	renamed := ask("velocity", "POST /api/issues", key.Token, "renamed")
	f.warmUp(t, renamed)
	f.requireChange(t, renamed, f.exec(t, `DELETE FROM keywicket.users`), bound, "allow", "UNAUTHORIZED unknown")

	// "Active from the moment they're created", although it was refused a moment before.
	_, format := formatOf("sk_live_")
	secret := format.NewKey()
	created := ask("velaflows", conversations, secret.Reveal(), f.home.ID)
	wantOutcome(t, f.client, created, "UNAUTHORIZED unknown")
	wantOutcome(t, f.client, created, "UNAUTHORIZED unknown")
	digest := secret.Digest()
	f.requireChange(t, created, f.exec(t, `
		INSERT INTO keywicket.tokens (api, kind, environment, visible_prefix, digest, name, scopes, workspace_id)
		VALUES ('velaflows', 'workspace_token', 'live', 'sk_live_', $1, 'n', '{inbox:read}', $2)`, digest[:], f.home.ID),
		bound, "UNAUTHORIZED unknown", "allow")
}

// As for tokens, a revocation of a session takes effect within the bound.
func TestRevokedSessions(t *testing.T) {
	f := newFaults(t, "KEYWICKET_APIS_VELOCITY_SESSION_LEEWAY=1s")
	ada := operator[registry.User](t, f.Stack, "user", "create", "--email", "ada@example.com")
	join := func() {
		operator[registry.Member](t, f.Stack, "member", "set", "--workspace", f.home.Slug, "--user", ada.ID, "--role", "member")
	}
	join()
	revoked := "UNAUTHORIZED revoked"
	warm := func() (id string, r request) {
		id = rand.Text()
		r = ask("velocity", "POST /api/issues", f.issuer.Token(ada.ID, supabase.Fields{"session_id": id}), f.home.Slug)
		f.warmUp(t, r)
		return id, r
	}
	const row = `INSERT INTO keywicket.revoked_sessions (session_id) VALUES ($1)`

	t.Run("by the CLI", func(t *testing.T) {
		id, session := warm()
		_, other := warm()
		operator[registry.RevokedSessions](t, f.Stack, "session", "revoke", id)
		f.requireChange(t, session, time.Now(), bound, "allow", revoked)
		wantOutcome(t, f.client, other, "allow")
	})
	t.Run("by a row that the product writes", func(t *testing.T) {
		id, session := warm()
		f.requireChange(t, session, f.exec(t, row, id), bound, "allow", revoked)
	})
	t.Run("with any token of the session", func(t *testing.T) {
		id, session := warm()
		refreshed := ask("velocity", "POST /api/issues", f.issuer.Token(ada.ID, supabase.Fields{"session_id": id, "jti": "2"}), f.home.Slug)
		f.warmUp(t, refreshed)
		committed := f.exec(t, row, id)
		f.requireChange(t, session, committed, bound, "allow", revoked)
		f.requireChange(t, refreshed, committed, bound, "allow", revoked)
	})
	t.Run("while hints are frozen", func(t *testing.T) {
		id, session := warm()
		heal := toxic(t, f.feed, "timeout", `"timeout": 0`)
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
		operator[registry.RevokedSessions](t, f.Stack, "session", "revoke", "--user", "ada@example.com")
		committed := time.Now()
		f.requireChange(t, one, committed, bound, "allow", revoked)
		f.requireChange(t, other, committed, bound, "allow", revoked)
		await(t, "the user signs in again", func() bool {
			again := ask("velocity", "POST /api/issues", f.issuer.Token(ada.ID, supabase.Fields{"session_id": rand.Text()}), f.home.Slug)
			return again.send(t, f.client).outcome == "allow"
		})
	})
	t.Run("a user who is removed", func(t *testing.T) {
		_, session := warm()
		f.requireChange(t, session, f.exec(t, `DELETE FROM keywicket.users WHERE id = $1`, ada.ID), bound, "allow", "UNAUTHORIZED unknown")
	})
}

// A user's grant to an app ends when the grant or the app is revoked, when its code is used twice, or when the user is
// deleted.
func TestRevokedGrants(t *testing.T) {
	f := newFaults(t)
	ada := operator[registry.User](t, f.Stack, "user", "create", "--email", "ada@example.com")
	operator[registry.Member](t, f.Stack, "member", "set", "--workspace", f.home.Slug, "--user", ada.ID, "--role", "member")
	oauthIssuer, err := issuer.Open(f.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = oauthIssuer.Close() })
	_, format := formatOf("velo_")
	type app struct{ ID string }
	register := func() app {
		return operator[app](t, f.Stack, "oauth-app", "create", "--name", "Planner", "--redirect-uri", "https://planner.example/cb")
	}
	// warm returns an access token that the sidecar has cached, resolved to the one workspace that was granted.
	warm := func(a app) (code authz.Secret, issued issuer.Issued, r request) {
		approved, err := oauthIssuer.Approve(t.Context(), issuer.Approval{
			Client: a.ID, User: ada.ID, Workspaces: []string{f.home.ID}, Scopes: []string{"issues:read"},
			RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43),
		})
		if err == nil {
			issued, err = oauthIssuer.Exchange(t.Context(), approved.Code, format, func(issuer.Code) error { return nil })
		}
		if err != nil {
			t.Fatal(err)
		}
		r = ask("velocity", "GET /api/issues", issued.Access.Reveal(), "")
		f.warmUp(t, r)
		return approved.Code, issued, r
	}
	revoked := "UNAUTHORIZED revoked"

	t.Run("the grant, by the CLI", func(t *testing.T) {
		a := register()
		_, _, token := warm(a)
		grants := operator[[]registry.Grant](t, f.Stack, "grant", "list", "--app", a.ID, "--user", ada.ID)
		if len(grants) != 1 {
			t.Fatalf("%+v", grants)
		}
		operator[registry.Grant](t, f.Stack, "grant", "revoke", grants[0].ID)
		f.requireChange(t, token, time.Now(), bound, "allow", revoked)
	})
	t.Run("the app, by the CLI", func(t *testing.T) {
		a := register()
		_, _, one := warm(a)
		_, _, other := warm(a)
		operator[registry.App](t, f.Stack, "oauth-app", "revoke", a.ID)
		f.requireChange(t, one, time.Now(), bound, "allow", revoked)
		f.requireChange(t, other, time.Now(), bound, "allow", revoked)
	})
	t.Run("by a second use of the code, while hints are frozen", func(t *testing.T) {
		code, _, token := warm(register())
		heal := toxic(t, f.feed, "timeout", `"timeout": 0`)
		defer heal()
		if _, err := oauthIssuer.Exchange(t.Context(), code, format, func(issuer.Code) error { return nil }); err == nil {
			t.Error("a code was accepted twice")
		}
		f.requireChange(t, token, time.Now(), bound, "allow", revoked)
	})
	t.Run("the scope that was not granted", func(t *testing.T) {
		_, issued, _ := warm(register())
		wantOutcome(t, f.client, ask("velocity", "POST /api/issues", issued.Access.Reveal(), ""), "FORBIDDEN missing_scope", "issues:write")
		wantOutcome(t, f.client, ask("velocity", "GET /api/issues", issued.Refresh.Reveal(), ""), "UNAUTHORIZED unknown")
	})
	t.Run("the user", func(t *testing.T) {
		_, _, token := warm(register())
		f.requireChange(t, token, f.exec(t, `DELETE FROM keywicket.users`), bound, "allow", "UNAUTHORIZED unknown")
	})
}

// The sidecar notices that the triggers were disabled, also if they are enabled again at once.
func TestTriggersAreDisabled(t *testing.T) {
	f := newFaults(t)
	of := func(token issued) request { return ask("velaflows", conversations, token.Token, f.home.ID) }
	silent, open := f.warm(t), f.warm(t)
	tx := f.db.MustBegin()
	tx.MustExec(`ALTER TABLE keywicket.tokens DISABLE TRIGGER tell_update`)
	tx.MustExec(revoke, silent.ID)
	tx.MustExec(`ALTER TABLE keywicket.tokens ENABLE ALWAYS TRIGGER tell_update`)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	f.requireChange(t, of(silent), time.Now(), bound, "allow", "UNAUTHORIZED revoked")

	f.warmUp(t, of(open))
	f.exec(t, `ALTER TABLE keywicket.tokens DISABLE TRIGGER ALL`)
	f.requireChange(t, of(open), f.exec(t, revoke, open.ID), bound, "allow", "UNAUTHORIZED revoked")
	if f.leaseHeld(t) {
		t.Error("the sidecar uses its cache although changes are not logged")
	}
}

// Postgres is restarted under load, with a revocation before and after the restart.
func TestPostgresRestartsUnderLoad(t *testing.T) {
	f := newFaults(t)
	kept, before, after := f.warm(t), f.warm(t), f.warm(t)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		_, client := newWire(t, f.Stack, 1)
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, token := range []issued{kept, before, after} {
					ask("velaflows", conversations, token.Token, f.home.ID).send(t, client)
				}
			}
		})
	}
	committed := f.exec(t, revoke, before.ID)
	if err := f.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(bound)
	if err := f.Postgres.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.requireChange(t, ask("velaflows", conversations, before.Token, f.home.ID), committed, bound, "allow", "UNAUTHORIZED revoked")
	var again time.Time
	await(t, "the database takes a change", func() bool {
		_, err := f.db.ExecContext(t.Context(), revoke, after.ID)
		again = time.Now()
		return err == nil
	})
	f.requireChange(t, ask("velaflows", conversations, after.Token, f.home.ID), again, bound, "allow", "UNAUTHORIZED revoked")
	close(stop)
	load.Wait()
	await(t, "the cache is in use again", func() bool { return f.leaseHeld(t) })
	wantOutcome(t, f.client, ask("velaflows", conversations, kept.Token, f.home.ID), "allow")
}

// stale_if_error allows credentials that were cached before, and reports it.
func TestStaleIfError(t *testing.T) {
	f := newFaults(t, "KEYWICKET_CACHE_STALE_IF_ERROR=5s")
	token := f.warm(t)
	of := ask("velaflows", conversations, token.Token, f.home.ID)
	brief := issue(t, f.Stack, "sk_live_", f.home.ID, "inbox:read", "--expires-in", "4s")
	briefly := ask("velaflows", conversations, brief.Token, f.home.ID)
	// The log has the creation of the tokens too. The sidecar may read it after it has cached the tokens.
	operator[registry.RevokedSessions](t, f.Stack, "session", "revoke", "nobody", "--wait")
	wantOutcome(t, f.client, of, "allow")
	wantOutcome(t, f.client, briefly, "allow")
	if err := f.Postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	await(t, "the sidecar's lease has expired", func() bool { return !f.leaseHeld(t) })
	wantOutcome(t, f.client, of, "allow")
	if got := ask("velaflows", conversations, issuedNowhere(), f.home.ID).send(t, f.client); got.status != http.StatusServiceUnavailable {
		t.Errorf("an uncached token: %s", got.outcome)
	}
	if f.metric(t, `keywicket_cache_lookups_total{cache="stale",kind="workspace_token",outcome="found"}`) == 0 {
		t.Error("no metric counts stale answers")
	}
	for time.Since(stopped) < 4*time.Second {
		time.Sleep(50 * time.Millisecond)
	}
	if got := briefly.send(t, f.client); got.status != http.StatusServiceUnavailable {
		t.Errorf("a token that has expired meanwhile: %s", got.outcome)
	}
	wantOutcome(t, f.client, of, "allow")
	f.requireChange(t, of, stopped, 5*time.Second, "allow", "UNAVAILABLE unavailable")
}

func issuedNowhere() string {
	_, format := formatOf("sk_live_")
	return format.NewKey().Reveal()
}

// A warm check makes no query. A thousand simultaneous first uses of a token make one.
func TestWarmChecksMakeNoQuery(t *testing.T) {
	s := separateStack(t, demo.Config{
		// A shared load continues for later callers, also after the first callers have timed out.
		Environ:          []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=10s", "KEYWICKET_CACHE_STALENESS_BOUND=30s"},
		PostgresSettings: map[string]string{"shared_preload_libraries": "pg_stat_statements"},
	})
	home := tenant(t, s)
	key := issue(t, s, "sk_live_", home.ID, "inbox:read")
	await(t, "the sidecar has read the changes for the workspace and the key", func() bool {
		_, text := probeOf(t, s, "/metrics")
		return regexp.MustCompile(`(?m)^keywicket_cache_changes_total [2-9]`).MatchString(text)
	})
	counted := statements(t, s)
	c := wires["direct"](t, s, "")
	defer func() { _ = c.Close() }()
	check := message{target: "/api/v1/inbox/conversations", header: [][2]string{
		{"authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}}
	before := lookups(counted)
	var asking sync.WaitGroup
	for range 1000 {
		asking.Go(func() { c.put(t, check) }) // some time out on a small machine, and are a 503
	}
	asking.Wait()
	if got := lookups(counted) - before; got != 1 {
		t.Errorf("1,000 first uses at once made %d look-ups", got)
	}
	others := 0
	before = lookups(counted)
	for range 1000 {
		if c.put(t, check).outcome != "allow" {
			others++
		}
	}
	if got := lookups(counted) - before; got != 0 {
		t.Errorf("1,000 warm checks made %d look-ups", got)
	}
	if others != 0 {
		t.Errorf("%d warm checks were not allowed", others)
	}
}

// Hints from the wrong database cost some time. They have no other effect.
func TestHintsFromAnotherDatabase(t *testing.T) {
	f := newFaults(t, "KEYWICKET_DATABASE_FEED_URL=postgres://nobody@127.0.0.1:1/nowhere?sslmode=disable")
	token := f.warm(t)
	f.requireChange(t, ask("velaflows", conversations, token.Token, f.home.ID), f.exec(t, revoke, token.ID), bound, "allow", "UNAUTHORIZED revoked")
}
