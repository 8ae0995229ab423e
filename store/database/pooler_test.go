package database_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/internal/sample"
	"github.com/keywicket/keywicket/store/database"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/issuer"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/schema"
	"github.com/keywicket/keywicket/store/storetest"
	"github.com/keywicket/keywicket/store/tokenimport"
	"github.com/keywicket/keywicket/test/pgbouncer"
)

// pooled is a fixture with a pooler. Its database can be reached through the pooler and directly. Clients with the same login use
// the same connections of the pooler.
type pooled struct {
	*storetest.Fixture
	pooler           *pgbouncer.Pooler
	operator, server string // URLs through the pooler: operator is for the superuser, and server is for a login of sidecars and issuers
	direct           string // the same URL as server, but without the pooler
}

// poolers contains a configuration for each mode of a pooler. The pools are large enough for the tests. In session mode, each
// client connection needs its own Postgres connection.
var poolers = map[string]pgbouncer.Config{
	"transactions": {Mode: pgbouncer.Transaction, PoolSize: 5},
	"sessions":     {Mode: pgbouncer.Session, PoolSize: 60},
}

func newPooled(t *testing.T, config pgbouncer.Config) *pooled {
	t.Helper()
	p := &pooled{Fixture: storetest.NewFixture(t)}
	// A pooler does not support the startup parameter "role".
	role, password := strings.ToLower("pooled_"+rand.Text()[:8]), rand.Text()
	p.Exec(t, `CREATE ROLE `+role+` LOGIN PASSWORD '`+password+`' IN ROLE keywicket_sidecar, keywicket_issuer`)
	t.Cleanup(func() {
		if err := storetest.Administer(context.Background(), `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	login := storetest.Must(url.Parse(p.URL))
	login.User = url.UserPassword(role, password)
	p.direct = login.String()
	config.Logins = []string{p.URL, p.direct}
	p.pooler = startPooler(t, config)
	p.operator, p.server = storetest.Must(p.pooler.URL(p.URL)), storetest.Must(p.pooler.URL(p.direct))
	return p
}

func startPooler(t *testing.T, config pgbouncer.Config) *pgbouncer.Pooler {
	t.Helper()
	pooler, err := pgbouncer.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooler.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(pooler.Log())
		}
	})
	return pooler
}

// sidecar opens a directory behind the pooler.
func (p *pooled) sidecar(c directory.Config) (*directory.Directory, error) {
	c.URL, c.LookupTimeout, c.UsageInterval, c.MaxOpenConnections = p.server, 10*time.Second, 200*time.Millisecond, 4
	return directory.Open(c, nil)
}

// load runs all functions concurrently for some seconds. It repeats each function until the time is over.
func load(t *testing.T, functions ...func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), sample.Duration(4*time.Second))
	defer cancel()
	var all sync.WaitGroup
	for _, f := range functions {
		all.Go(func() {
			for ctx.Err() == nil {
				f(context.WithoutCancel(ctx)) // so that a call that has begun is not canceled
			}
		})
	}
	all.Wait()
}

// otherProgram returns a function that sends queries as another program with the same login and the same driver. On each
// connection, the driver gives its prepared statements the numbers from 1. It sends unprepared queries in two round trips. The
// queries have the same parameters and columns as keywicket's queries, but return other answers. The function ignores the
// results.
func (p *pooled) otherProgram(t *testing.T, databaseURL string) func(context.Context) {
	t.Helper()
	db, err := sqlx.Open("postgres", databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(3)
	const (
		found = `SELECT (date_part('epoch', pg_postmaster_start_time()) * 1000000)::int8, place, '', 'foreign', 'personal_key', 'live', 'foreign',
			'{everything}'::text[], '', '', '', NULL::float8`
		credentials = ` FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS asked (digest, api, in_id, in_slug, place)`
		sessions    = ` FROM unnest($1::text[], $2::text[], $3::int8[], $4::text[], $5::text[]) WITH ORDINALITY AS asked (a, b, c, d, e, place)`
	)
	prepared := map[string][]any{
		found + credentials:                            {"{NULL}", "{velocity}", `{""}`, `{""}`},
		found + `, 'foreign', 'foreign'` + credentials: {"{NULL}", "{velocity}", `{""}`, `{""}`},
		found + `, true` + sessions:                    {"{s}", "{u}", "{1}", `{""}`, `{""}`},
	}
	run := func(ctx context.Context, query func(context.Context, ...any) (*sql.Rows, error), args ...any) {
		rows, err := query(ctx, args...)
		if err != nil {
			return
		}
		for rows.Next() {
			continue
		}
		_ = errors.Join(rows.Err(), rows.Close())
	}
	return func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		for query, args := range prepared {
			if s, err := db.PrepareContext(ctx, query); err == nil {
				for range 3 {
					run(ctx, s.QueryContext, args...)
				}
				_ = s.Close()
			}
		}
		for _, query := range []string{
			`SELECT $1::text AS id, 'foreign' AS slug, 'foreign' AS name, now() AS created_at`,
			`SELECT $1::text AS id, 'foreign@example.com' AS email, now() AS created_at, true AS mfa_enrolled, NULL::timestamptz AS banned_until`,
			`SELECT 'foreign' WHERE $1::text IS NULL`,
		} {
			run(ctx, func(ctx context.Context, args ...any) (*sql.Rows, error) { return db.QueryContext(ctx, query, args...) }, "foreign")
		}
	}
}

// report counts answers, wrong answers and errors.
type report struct {
	answers, wrong, failed atomic.Int64
	mu                     sync.Mutex
	examples               []string
}

func (results *report) record(n *atomic.Int64, format string, args ...any) {
	if n.Add(1) > 5 {
		return
	}
	results.mu.Lock()
	defer results.mu.Unlock()
	results.examples = append(results.examples, fmt.Sprintf(format, args...))
}

func (results *report) check(t *testing.T) {
	t.Helper()
	t.Logf("%d answers, %d of them wrong, and %d errors", results.answers.Load(), results.wrong.Load(), results.failed.Load())
	if results.wrong.Load() > 0 || results.failed.Load() > 0 || results.answers.Load() < 100 {
		t.Errorf("%d answers, %d of them wrong, and %d errors:\n%s", results.answers.Load(), results.wrong.Load(), results.failed.Load(), strings.Join(results.examples, "\n"))
	}
}

// expectedLookup is a look-up with its expected answer.
type expectedLookup struct {
	lookup authz.Lookup
	want   authz.LookupResult
}

// expectedLookups returns look-ups of valid and revoked credentials of each kind, with the expected answers.
func (p *pooled) expectedLookups(t *testing.T) (all []expectedLookup) {
	t.Helper()
	direct, grants := p.Directory(t, nil), storetest.Must(issuer.Open(p.direct))
	t.Cleanup(func() { _ = grants.Close() })
	app, _, err := p.CreateApp(t.Context(), registry.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{"https://planner.example/cb"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		scopes := []string{fmt.Sprintf("scope:%d", i)}
		user := storetest.Must(p.CreateUser(t.Context(), registry.User{Email: fmt.Sprintf("user%d@example.com", i)}))
		storetest.Must(p.SetMember(t.Context(), "acme", user.ID, "member"))
		token, key := p.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Scopes: scopes, Workspace: "acme"})
		personal, personalKey := p.Create(t, registry.NewToken{Format: storetest.Velu, API: "velocity", Name: "t", Scopes: scopes, User: user.ID})
		approved := storetest.Must(grants.Approve(t.Context(), issuer.Approval{Client: app.ID, User: user.ID, Workspaces: []string{p.Acme.ID},
			Scopes: scopes, RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43)}))
		issued := storetest.Must(grants.Exchange(t.Context(), approved.Code, storetest.Velo, storetest.AcceptCode))
		session := storetest.SessionOf(user.ID, time.Now())
		revoked := i%4 == 0
		if revoked {
			storetest.Must(p.RevokeToken(t.Context(), token.ID))
			storetest.Must(p.RevokeToken(t.Context(), personal.ID))
			storetest.Must(p.RevokeGrant(t.Context(), approved.Grant))
			storetest.Must(p.RevokeSession(t.Context(), session.ID))
		}
		in := storetest.Lookup(personalKey)
		in.Workspace.Slug = "acme"
		for _, q := range []struct {
			lookup authz.Lookup
			id     string // id of the principal; an empty id is not checked
		}{
			{storetest.Lookup(key), token.ID}, {in, personal.ID}, {storetest.InWorkspace(session, "acme"), user.ID}, {storetest.AccessLookup(issued.Access, "acme"), ""},
		} {
			want := storetest.Must(direct.Lookup(t.Context(), q.lookup))
			if allowed := want.Denial == "" && want.Principal.ID != "" && (q.id == "" || want.Principal.ID == q.id); allowed == revoked {
				t.Fatalf("the answer to %+v is %+v", q, want)
			}
			all = append(all, expectedLookup{q.lookup, want})
		}
	}
	return all
}

// unknownLookup returns a look-up of a credential that was never issued.
func unknownLookup(kind authz.Kind) expectedLookup {
	l := authz.Lookup{Kind: kind, API: "velocity", Workspace: authz.WorkspaceRef{Slug: "acme"}}
	if kind == authz.KindSession {
		l.Session = storetest.SessionOf("nobody "+rand.Text(), time.Now())
	} else {
		l.Digest = authz.Secret(rand.Text()).Digest()
	}
	return expectedLookup{l, authz.LookupResult{Denial: authz.ReasonUnknown}}
}

// A look-up returns the correct answer even if other programs use the same connections of the pooler.
func TestAnswersAreCorrectThroughAPooler(t *testing.T) {
	for name, config := range poolers {
		t.Run(name, func(t *testing.T) {
			p := newPooled(t, config)
			expectedLookups := p.expectedLookups(t)
			results := new(report)
			lookUp := func(ctx context.Context, d *directory.Directory, q expectedLookup) {
				defer func() {
					if e := recover(); e != nil {
						results.record(&results.failed, "panic: %v", e)
					}
				}()
				got, err := d.Lookup(ctx, q.lookup)
				if err != nil {
					results.record(&results.failed, "an error: %v", err)
					return
				}
				results.answers.Add(1)
				got.Cache = q.want.Cache
				if !reflect.DeepEqual(got, q.want) {
					results.record(&results.wrong, "got %+v, want %+v", got, q.want)
				}
			}
			lookUpAll := func(ctx context.Context, d *directory.Directory) {
				for i, q := range expectedLookups {
					lookUp(ctx, d, q)
					if i%4 == 0 {
						for _, kind := range []authz.Kind{authz.KindPersonalKey, authz.KindSession, authz.KindOAuthToken} {
							lookUp(ctx, d, unknownLookup(kind))
						}
					}
				}
			}
			work := []func(context.Context){
				p.otherProgram(t, p.server), p.otherProgram(t, p.server),
				// This function starts and stops sidecars, which prepare their queries in different orders.
				func(ctx context.Context) {
					d, err := p.sidecar(directory.Config{NoCache: true})
					if err != nil {
						results.record(&results.failed, "open: %v", err)
						return
					}
					defer func() { _ = d.Close(ctx) }()
					for _, i := range []int{1, 2, 3, 5, 6, 7} {
						lookUp(ctx, d, expectedLookups[i])
					}
				},
			}
			pooler := map[pgbouncer.Mode]database.Pooler{pgbouncer.Transaction: database.PoolerTransaction, pgbouncer.Session: database.PoolerNone}[config.Mode]
			for _, c := range []directory.Config{{NoCache: true}, {NoCache: true, Pooler: pooler}, {}, {Pooler: pooler}} {
				d := storetest.Must(p.sidecar(c))
				t.Cleanup(func() { _ = d.Close(context.Background()) })
				for range 3 {
					work = append(work, func(ctx context.Context) { lookUpAll(ctx, d) })
				}
			}
			load(t, work...)
			results.check(t)
		})
	}
}

// Through a pooler, the operator's commands return the correct content of the database. The test compares the results of the
// commands with those of a client that does not use the pooler.
func TestCommandsAreCorrectThroughAPooler(t *testing.T) {
	for name, config := range poolers {
		t.Run(name, func(t *testing.T) {
			p := newPooled(t, config)
			results := new(report)
			var n atomic.Int64
			work := []func(context.Context){p.otherProgram(t, p.operator), p.otherProgram(t, p.server)}
			for range 2 {
				r, err := registry.Open(t.Context(), p.operator)
				if err != nil {
					t.Errorf("open: %v", err)
					continue
				}
				t.Cleanup(func() { _ = r.Close() })
				grants := storetest.Must(issuer.Open(p.server))
				t.Cleanup(func() { _ = grants.Close() })
				for range 2 {
					work = append(work, func(ctx context.Context) {
						defer func() {
							if e := recover(); e != nil {
								results.record(&results.failed, "panic: %v", e)
							}
						}()
						o := &operator{pooled: p, registry: r, issuer: grants, report: results, n: int(n.Add(1))}
						o.work(ctx)
					})
				}
			}
			load(t, work...)
			results.check(t)
		})
	}
}

// operator runs each command once, and compares the command's output with the content of the database.
type operator struct {
	*pooled
	*report
	registry *registry.Registry // connects through the pooler
	issuer   *issuer.Issuer
	n        int
}

// checkReport compares the output of a command with the result of a query, which is one value. If the command failed, checkReport
// does not compare, and returns false.
func (o *operator) checkReport(ctx context.Context, command string, err error, want any, query string, args ...any) bool {
	if err != nil {
		o.record(&o.failed, "%s: %v", command, err)
		return false
	}
	o.answers.Add(1)
	var got string
	if err := o.DB.GetContext(ctx, &got, query, args...); err != nil && !errors.Is(err, sql.ErrNoRows) {
		o.record(&o.failed, "%s: read the expected value: %v", command, err)
		return false
	}
	if got != fmt.Sprint(want) {
		o.record(&o.wrong, "%s: reported %v, not %q", command, want, got)
	}
	return true
}

// expectRefusal checks that a command was refused.
func (o *operator) expectRefusal(command string, err, want error) {
	o.answers.Add(1)
	switch {
	case err == nil:
		o.record(&o.wrong, "%s: the command is not refused", command)
	case !errors.Is(err, want):
		o.record(&o.failed, "%s: %v", command, err)
	}
}

func (o *operator) work(ctx context.Context) {
	r, slug := o.registry, fmt.Sprintf("w-%d", o.n)
	email := slug + "@example.com"
	w, err := r.CreateWorkspace(ctx, registry.Workspace{Slug: slug, Name: slug})
	if !o.checkReport(ctx, "workspace create", err, w.ID+slug+w.Name, `SELECT id || slug || name FROM keywicket.workspaces WHERE slug = $1`, slug) {
		return
	}
	u, err := r.CreateUser(ctx, registry.User{Email: email})
	if !o.checkReport(ctx, "user create", err, u.ID+u.Email, `SELECT id || email FROM keywicket.users WHERE email = $1`, email) {
		return
	}
	_, err = r.Workspace(ctx, "no-"+slug)
	o.expectRefusal("workspace of an unknown slug", err, database.ErrNotFound)
	o.expectRefusal("member remove of a user who is not a member", r.RemoveMember(ctx, slug, email), database.ErrNotFound)
	const role = `SELECT role FROM keywicket.members WHERE workspace_id = $1 AND user_id = $2`
	for _, as := range []string{"member", "admin"} {
		m, err := r.SetMember(ctx, slug, email, as)
		o.checkReport(ctx, "member set", err, m.Role, role, w.ID, u.ID)
	}
	o.tokens(ctx, w, u)
	o.app(ctx, w, u)

	session := "session " + slug
	revoked, err := r.RevokeSession(ctx, session)
	o.checkReport(ctx, "session revoke", err, revoked.RevokedAt.UnixMicro(),
		`SELECT (EXTRACT(EPOCH FROM revoked_at) * 1000000)::int8 FROM keywicket.revoked_sessions WHERE session_id = $1`, session)
	revoked, err = r.RevokeUserSessions(ctx, email)
	o.checkReport(ctx, "session revoke --user", err, revoked.RevokedAt.UnixMicro(),
		`SELECT (EXTRACT(EPOCH FROM revoked_at) * 1000000)::int8 FROM keywicket.revoked_sessions WHERE user_id = $1`, u.ID)
	o.checkReport(ctx, "member remove", r.RemoveMember(ctx, slug, email), "", role, w.ID, u.ID)
}

func (o *operator) tokens(ctx context.Context, w registry.Workspace, u registry.User) {
	r := o.registry
	const status = `SELECT id || CASE WHEN revoked_at IS NULL THEN 'active' ELSE 'revoked' END FROM keywicket.tokens WHERE digest = $1`
	var tokenIDs []string
	for _, n := range []registry.NewToken{
		{Format: storetest.Vel, API: "velocity", Name: "t", Scopes: []string{"issues:read"}, Workspace: w.Slug},
		{Format: storetest.Velu, API: "velocity", Name: "t", Scopes: []string{"issues:read"}, User: u.Email},
	} {
		token, key, err := r.CreateToken(ctx, n)
		digest := key.Digest()
		if !o.checkReport(ctx, "token create", err, token.ID+"active", status, digest[:]) {
			continue
		}
		if n.Workspace != "" {
			tokenIDs = append(tokenIDs, token.ID)
		}
		token, err = r.RevokeToken(ctx, token.ID)
		o.checkReport(ctx, "token revoke", err, token.ID+string(token.Status), status, digest[:])
	}
	_, err := r.RevokeToken(ctx, "no token")
	o.expectRefusal("token revoke of an unknown id", err, database.ErrNotFound)

	lines := make([]tokenimport.Line, 3)
	keys := make([][]byte, len(lines))
	for i := range lines {
		key := storetest.Vel.NewKey()
		digest := key.Digest()
		keys[i] = digest[:]
		lines[i] = tokenimport.Line{Number: i + 1, Key: key, Name: "t", Workspace: w.Slug}
	}
	n, err := tokenimport.Run(ctx, r, storetest.VelImport(storetest.LinesOf(lines...)))
	o.checkReport(ctx, "token import", err, n, `SELECT count(*) FROM keywicket.tokens WHERE digest IN ($1, $2, $3)`, keys[0], keys[1], keys[2])

	list, err := r.Tokens(ctx, registry.TokenFilter{Workspace: w.Slug})
	var ids []string
	for _, t := range list {
		ids = append(ids, t.ID)
	}
	slices.Sort(ids)
	o.checkReport(ctx, "token list", err, strings.Join(ids, " "),
		`SELECT string_agg(id, ' ' ORDER BY id COLLATE "C") FROM keywicket.tokens WHERE workspace_id = $1`, w.ID)
	if len(tokenIDs) > 0 && err == nil && !slices.Contains(ids, tokenIDs[0]) {
		o.record(&o.wrong, "token list: %s is missing", tokenIDs[0])
	}
}

func (o *operator) app(ctx context.Context, w registry.Workspace, u registry.User) {
	r := o.registry
	const (
		secretOf = `SELECT id FROM keywicket.oauth_apps WHERE secret_digest = $1`
		revoked  = `SELECT revoked_at IS NOT NULL FROM keywicket.`
	)
	app, secret, err := r.CreateApp(ctx, registry.NewApp{API: "velocity", Name: "Planner", RedirectURIs: []string{"https://planner.example/cb"}, Confidential: true})
	digest := secret.Digest()
	if !o.checkReport(ctx, "oauth-app create", err, app.ID, secretOf, digest[:]) {
		return
	}
	app, secret, err = r.RotateAppSecret(ctx, app.ID)
	digest = secret.Digest()
	if !o.checkReport(ctx, "oauth-app rotate", err, app.ID, secretOf, digest[:]) {
		return
	}
	client, err := o.issuer.Client(ctx, app.ID)
	if o.checkReport(ctx, "the issuer's client", err, client.ID, secretOf, digest[:]) && !client.HasSecret(secret) {
		o.record(&o.wrong, "the issuer rejects the secret")
	}
	approved, err := o.issuer.Approve(ctx, issuer.Approval{Client: app.ID, User: u.ID, Workspaces: []string{w.ID}, Scopes: []string{"issues:read"},
		RedirectURI: "https://planner.example/cb", Challenge: strings.Repeat("c", 43)})
	if o.checkReport(ctx, "approve", err, approved.Grant, `SELECT id FROM keywicket.oauth_grants WHERE app_id = $1`, app.ID) {
		issued, err := o.issuer.Exchange(ctx, approved.Code, storetest.Velo, storetest.AcceptCode)
		digest := issued.Access.Digest()
		o.checkReport(ctx, "exchange", err, issued.Grant, `SELECT grant_id FROM keywicket.oauth_access_tokens WHERE digest = $1`, digest[:])
		list, err := r.Grants(ctx, app.ID, "")
		ids := ""
		for _, g := range list {
			ids += g.ID
		}
		o.checkReport(ctx, "grant list", err, ids, `SELECT id FROM keywicket.oauth_grants WHERE app_id = $1`, app.ID)
		grant, err := r.RevokeGrant(ctx, approved.Grant)
		o.checkReport(ctx, "grant revoke", err, grant.Status == registry.Revoked, revoked+`oauth_grants WHERE id = $1`, approved.Grant)
	}
	id := app.ID
	app, err = r.RevokeApp(ctx, id)
	o.checkReport(ctx, "oauth-app revoke", err, app.Status == registry.Revoked, revoked+`oauth_apps WHERE id = $1`, id)
}

// A pooler in transaction mode does not forward notifications. Without notifications, the sidecar reads revocations from the log
// within the staleness bound. With FeedURL, it receives notifications over a connection that bypasses the pooler.
func TestRevocationsWorkThroughAPooler(t *testing.T) {
	const bound = time.Second
	for name, config := range poolers {
		for _, bypass := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, FeedURL bypasses the pooler: %t", name, bypass), func(t *testing.T) {
				p := newPooled(t, config)
				c := directory.Config{}
				if bypass {
					c.FeedURL = p.direct
				}
				d := storetest.Must(p.sidecar(c))
				t.Cleanup(func() { _ = d.Close(context.Background()) })
				storetest.Eventually(t, "the sidecar is ready", func() bool { return d.Ready(t.Context()) == nil })
				var slowest time.Duration
				for range 6 {
					token, key := p.WorkspaceToken(t)
					storetest.Eventually(t, "the token is cached", func() bool {
						found, err := d.Lookup(t.Context(), storetest.Lookup(key))
						return err == nil && found.Denial == "" && found.Cache == authz.CacheHit
					})
					storetest.Must(p.RevokeToken(t.Context(), token.ID))
					revoked := time.Now()
					for {
						elapsed := time.Since(revoked)
						found, err := d.Lookup(t.Context(), storetest.Lookup(key))
						if err == nil && found.Denial == authz.ReasonRevoked {
							slowest = max(slowest, elapsed)
							break
						}
						if elapsed > bound {
							t.Fatalf("%v after the revocation: %+v, %v", elapsed, found, err)
						}
					}
				}
				t.Logf("after a revocation, it took at most %v until look-ups were denied", slowest)
				if _, hints := d.ChangeCounts(); bypass && hints == 0 {
					t.Error("no notification was received over the connection that bypasses the pooler")
				}
			})
		}
	}
}

// If another program changes settings, the pooler's connection keeps the changes. Such changes must not affect the sidecar: a
// token expires on time, and the sidecar writes the use of a token.
func TestPoolerKeepsSettingsOfOthers(t *testing.T) {
	p := newPooled(t, pgbouncer.Config{Mode: pgbouncer.Transaction, PoolSize: 1})
	foreign := storetest.Must(sqlx.Open("postgres", p.server))
	t.Cleanup(func() { _ = foreign.Close() })
	storetest.Must(foreign.ExecContext(t.Context(), `SET extra_float_digits = -15; SET bytea_output = 'escape'; SET intervalstyle = 'sql_standard';
		SET default_transaction_isolation = 'serializable'; SET default_transaction_read_only = on`))
	d := storetest.Must(p.sidecar(directory.Config{}))
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	storetest.Eventually(t, "the sidecar is ready", func() bool { return d.Ready(t.Context()) == nil })
	// With extra_float_digits = -15, Postgres rounds a float8 between 1.5 and 2 to 2. If the remaining lifetime were a
	// float8, the sidecar would accept the token for too long.
	const lifetime = 2 * time.Second
	token, key := p.Create(t, registry.NewToken{Format: storetest.Vel, API: "velocity", Name: "t", Workspace: "acme", ExpiresIn: new(lifetime)})
	expires := time.Now().Add(lifetime)
	storetest.Eventually(t, "the token is cached", func() bool {
		return storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key))).Cache == authz.CacheHit
	})
	for {
		started := time.Now()
		found := storetest.Must(d.Lookup(t.Context(), storetest.Lookup(key)))
		if found.Denial == authz.ReasonExpired {
			break
		}
		if late := started.Sub(expires); late > 0 {
			t.Fatalf("%v after its expiry, the answer is %+v", late, found)
		}
	}
	d.CountUse(&authz.Principal{ID: token.ID, Kind: authz.KindWorkspaceKey}, true)
	storetest.Eventually(t, "the use of the token is written", func() bool {
		return storetest.Value[int](t, p.DB, `SELECT count(*) FROM keywicket.token_usage JOIN keywicket.token_use USING (token_id)
			WHERE token_id = $1 AND allowed = 1`, token.ID) == 1
	})
}

// Migrations can run through a pooler. If several operators migrate concurrently, each migration still runs only once.
func TestMigrationsWorkThroughAPooler(t *testing.T) {
	pools := maps.Clone(poolers)
	pools["minimum pool size for a migration"] = pgbouncer.Config{Mode: pgbouncer.Transaction, PoolSize: 2}
	for name, config := range pools {
		for _, operators := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s, %d concurrent operators", name, operators), func(t *testing.T) {
				direct := storetest.EmptyDatabase(t)
				config := config
				config.Logins = []string{direct}
				through := storetest.Must(startPooler(t, config).URL(direct))
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				var applied atomic.Int64
				var all sync.WaitGroup
				for range operators {
					db := storetest.OpenDB(t, through)
					all.Go(func() {
						migrated, err := schema.Migrate(ctx, db)
						if err != nil {
							t.Error(err)
						}
						applied.Add(int64(len(migrated)))
					})
				}
				all.Wait()
				db := storetest.OpenDB(t, direct)
				status := storetest.Must(schema.Status(t.Context(), db))
				for _, m := range status {
					if m.AppliedAt == nil {
						t.Errorf("%s is pending", m.Name)
					}
				}
				if int(applied.Load()) != len(status) {
					t.Errorf("%d migrations are reported, not %d", applied.Load(), len(status))
				}
				// A lock that stays on one of the pooler's connections would block the next migration.
				if n := storetest.Value[int](t, db, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
					AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`); n != 0 {
					t.Errorf("%d locks are left", n)
				}
			})
		}
	}
}
