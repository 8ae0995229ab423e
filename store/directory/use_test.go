package directory_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// dayCount has the requests of a token on a day. The day is the number of days since today in UTC.
type dayCount struct {
	Day             int
	Allowed, Denied int
}

func countsOf(t *testing.T, f *storetest.Fixture, id string) (counts []dayCount) {
	t.Helper()
	if err := f.DB.SelectContext(t.Context(), &counts, `SELECT day - (now() AT TIME ZONE 'UTC')::date AS day, allowed, denied
		FROM keywicket.token_use WHERE token_id = $1 ORDER BY day`, id); err != nil {
		t.Fatal(err)
	}
	return counts
}

func requireCounts(t *testing.T, f *storetest.Fixture, token registry.Token, allowed, denied int) {
	t.Helper()
	if got := countsOf(t, f, token.ID); len(got) != 1 || got[0] != (dayCount{Allowed: allowed, Denied: denied}) {
		t.Errorf("the token has the counts %+v, not %d allowed and %d denied", got, allowed, denied)
	}
}

func closeDirectory(t *testing.T, d *directory.Directory) {
	t.Helper()
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRequestsOfValidTokensAreCounted(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t)
	personal, personalKey := f.UserToken(t)
	revoked, revokedKey := f.WorkspaceToken(t)
	storetest.Must(f.RevokeToken(t.Context(), revoked.ID))
	d := f.Directory(t, nil)
	for range 3 {
		useAs(t, d, storetest.Lookup(key), true)
		useAs(t, d, storetest.Lookup(key), true)
		useAs(t, d, storetest.Lookup(key), false)
	}
	useAs(t, d, storetest.Lookup(personalKey), false)
	useAs(t, d, storetest.Lookup(revokedKey), true)
	useAs(t, d, authz.Lookup{Kind: authz.KindSession, API: "velocity", Session: storetest.SessionOf(f.Ada.ID, time.Now())}, true)
	closeDirectory(t, d)
	requireCounts(t, f, token, 6, 3)
	requireCounts(t, f, personal, 0, 1)
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.token_use`); n != 2 || usedAgo(t, f, revoked) >= 0 {
		t.Errorf("%d tokens have counts", n)
	}
	if usedAgo(t, f, personal) < 0 {
		t.Error("a denied request with a valid key is no use")
	}
}

// A product may choose the ids of its tokens.
func TestEveryIDIsCounted(t *testing.T) {
	f := storetest.NewFixture(t)
	ids := []string{"1", "TOKEN-' 2", strings.Repeat("long ", 100), "5F1A2B3C-90AB-4CDE-8123-456789ABCDEF", "5f1a2b3c-90ab-4cde-8123-456789abcdef"}
	d := f.Directory(t, nil)
	for i, id := range ids {
		token, key := f.WorkspaceToken(t)
		f.Exec(t, `UPDATE keywicket.tokens SET id = $1 WHERE id = $2`, id, token.ID)
		for range i + 1 {
			use(t, d, key)
		}
	}
	closeDirectory(t, d)
	for i, id := range ids {
		requireCounts(t, f, registry.Token{ID: id}, i+1, 0)
	}
}

// A day is a day in UTC, regardless of the time zone of the connection. A request counts for the day of the last use that is written
// with it.
func TestDaysAreInUTC(t *testing.T) {
	for _, zone := range []string{"UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"} { // one of them has another date than UTC at any time
		f := storetest.NewFixture(t)
		// A sidecar's connection has the time zone UTC, but a connection of a pooler may have another one.
		f.Exec(t, `CREATE FUNCTION public.set_zone() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN PERFORM set_config('timezone', '`+zone+`', true); RETURN NULL; END $$`)
		f.Exec(t, `CREATE TRIGGER set_zone BEFORE INSERT ON keywicket.token_usage FOR EACH STATEMENT EXECUTE FUNCTION public.set_zone()`)
		token, key := f.WorkspaceToken(t)
		c := new(clock)
		d := f.Directory(t, func(config *directory.Config) { config.Clock, config.UsageInterval = c.now, time.Millisecond })
		use(t, d, key)
		storetest.Eventually(t, "the first use is written", func() bool { return len(countsOf(t, f, token.ID)) == 1 })
		requireCounts(t, f, token, 1, 0)
		c.advance(countInterval - time.Second)
		use(t, d, key)
		use(t, d, key)
		c.advance(48 * time.Hour) // the sidecar measures the age of a use with its own clock, so these requests were two days ago
		closeDirectory(t, d)
		if got := countsOf(t, f, token.ID); len(got) != 2 || got[0].Day != -2 || got[0].Allowed != 2 || got[1].Allowed != 1 {
			t.Errorf("in %s, the token has the counts %+v", zone, got)
		}
	}
}

const countInterval = 10 * time.Minute

// All sidecars together count every request, while they write at the same time.
func TestCountsOfSeveralSidecarsAddUp(t *testing.T) {
	f := storetest.NewFixture(t)
	const tokens, sidecars, goroutines, requests = 150, 3, 4, 600
	c := new(clock)
	var ids []string
	for range tokens {
		token, _ := f.WorkspaceToken(t)
		ids = append(ids, token.ID)
	}
	var running sync.WaitGroup
	for range sidecars {
		d := f.Directory(t, func(config *directory.Config) { config.Clock, config.UsageInterval = c.now, time.Millisecond })
		var using sync.WaitGroup
		for g := range goroutines {
			using.Go(func() {
				for i := range requests {
					p := authz.Principal{ID: ids[(i*7+g)%tokens], Kind: authz.KindWorkspaceKey}
					d.CountUse(&p, i%3 > 0)
					if i%50 == 0 {
						c.advance(countInterval) // so that all counts are due
						time.Sleep(2 * time.Millisecond)
					}
				}
			})
		}
		running.Go(func() {
			using.Wait()
			if err := d.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	const total = sidecars * goroutines * requests
	if allowed, denied := sums(t, f); allowed != total*2/3 || denied != total/3 {
		t.Errorf("%d + %d of %d requests are counted", allowed, denied, total)
	}
}

func sums(t *testing.T, f *storetest.Fixture) (allowed, denied int) {
	t.Helper()
	return storetest.Value[int](t, f.DB, `SELECT COALESCE(sum(allowed), 0) FROM keywicket.token_use`),
		storetest.Value[int](t, f.DB, `SELECT COALESCE(sum(denied), 0) FROM keywicket.token_use`)
}

// If the table is locked, the counts stay in memory, and no request is lost or counted twice.
func TestFailedWriteLosesNoCount(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t)
	log := new(storetest.Log)
	d, err := directory.Open(directory.Config{URL: storetest.SidecarURL(f.URL), LookupTimeout: 10 * time.Second,
		UsageInterval: 5 * time.Millisecond, NoCache: true}, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.token_use IN ACCESS EXCLUSIVE MODE`))
	use(t, d, key)
	storetest.Eventually(t, "an attempt fails", log.Contains("could not be written"))
	use(t, d, key)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, "the first use is written", func() bool { return len(countsOf(t, f, token.ID)) == 1 })
	use(t, d, key)
	closeDirectory(t, d)
	requireCounts(t, f, token, 3, 0)
}

// If the connection is lost while the transaction commits, the sidecar finds out whether the transaction was committed.
func TestLostConnectionDuringCommitCountsOnce(t *testing.T) {
	for name, end := range map[string]string{"committed": `RETURN NULL;`, "rolled back": `RAISE 'the transaction fails';`} {
		t.Run(name, func(t *testing.T) {
			f := storetest.NewFixture(t)
			// The COMMIT waits half a second, and then succeeds or fails.
			f.Exec(t, `CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); `+end+` END $$`)
			f.Exec(t, `CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON keywicket.token_use DEFERRABLE INITIALLY DEFERRED
				FOR EACH ROW EXECUTE FUNCTION public.slow()`)
			token, key := f.WorkspaceToken(t)
			p := storetest.NewProxy(t, f.URL)
			d := f.Directory(t, func(c *directory.Config) { c.URL, c.UsageInterval = p.URL(c.URL), 50*time.Millisecond })
			use(t, d, key)
			storetest.Eventually(t, "the transaction commits", func() bool {
				return storetest.Value[int](t, f.DB, `SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COMMIT%' AND wait_event = 'PgSleep'`) == 1
			})
			p.FaultOnOpenConnections(storetest.Reset)
			f.Exec(t, `DROP TRIGGER slow ON keywicket.token_use`) // waits for the transaction
			storetest.Eventually(t, "the reply to the COMMIT is lost", func() bool { return p.Faults() > 0 })
			use(t, d, key)
			closeDirectory(t, d)
			requireCounts(t, f, token, 2, 0)
		})
	}
}

// A sidecar that is newer than the database writes the last use, and does not keep the counts.
func TestUsageBeforeItsMigration(t *testing.T) {
	f := storetest.NewFixture(t)
	f.Exec(t, `DROP TABLE keywicket.token_use, keywicket.grant_usage`)
	token, key := f.WorkspaceToken(t)
	d := f.Directory(t, nil)
	use(t, d, key)
	d.CountUse(&authz.Principal{ID: "t", GrantID: "g", Kind: authz.KindOAuthToken}, true)
	closeDirectory(t, d)
	if usedAgo(t, f, token) < 0 {
		t.Error("the last use is not written")
	}
}

// The use of an app's access tokens is recorded for their grant.
func TestLastUseOfGrants(t *testing.T) {
	g := storetest.NewGrantFixture(t)
	d := g.Directory(t, nil)
	token := g.ExchangeCode(t, g.NewCode(t))
	unused := g.ExchangeCode(t, g.NewCode(t))
	useAs(t, d, storetest.AccessLookup(token.Access, ""), true)
	useAs(t, d, storetest.AccessLookup(token.Access, ""), false)
	closeDirectory(t, d)
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM keywicket.grant_usage WHERE grant_id = $1
		AND last_used_at BETWEEN now() - interval '1 minute' AND now()`, token.Grant); n != 1 {
		t.Error("the use of the grant is not recorded")
	}
	if n := storetest.Value[int](t, g.DB, `SELECT count(*) FROM keywicket.grant_usage WHERE grant_id = $1`, unused.Grant); n != 0 {
		t.Error("an unused grant has a last use")
	}
	if allowed, denied := sums(t, g.Fixture); allowed+denied != 0 {
		t.Errorf("%d requests of apps are counted for tokens", allowed+denied)
	}
}

// A token's counts are written with its first use, and then every ten minutes.
func TestCountsAreWrittenRarely(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t)
	c := new(clock)
	d := f.Directory(t, func(config *directory.Config) { config.Clock, config.UsageInterval = c.now, time.Millisecond })
	use(t, d, key)
	storetest.Eventually(t, "the first use is written", func() bool { return len(countsOf(t, f, token.ID)) == 1 })
	version := func() string {
		return storetest.Value[string](t, f.DB, `SELECT xmin::text FROM keywicket.token_use WHERE token_id = $1`, token.ID)
	}
	first := version()
	for range 9 {
		f.Exec(t, `UPDATE keywicket.token_usage SET last_used_at = last_used_at - interval '5 minutes'`)
		c.advance(time.Minute + 2*time.Second)
		use(t, d, key)
		storetest.Eventually(t, "the last use is written", func() bool { return usedAgo(t, f, token) < 4*time.Minute })
	}
	if version() != first {
		t.Error("the counts are written more often than every ten minutes")
	}
	c.advance(countInterval)
	storetest.Eventually(t, "the counts are written", func() bool { return version() != first })
	requireCounts(t, f, token, 10, 0)
}

func TestStatusOfATransaction(t *testing.T) {
	f := storetest.NewFixture(t)
	d := f.Directory(t, nil)
	begin := func() (*sqlx.Tx, int64) {
		tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
		var xid int64
		if err := tx.GetContext(t.Context(), &xid, `SELECT pg_current_xact_id()::text::int8`); err != nil {
			t.Fatal(err)
		}
		return tx, xid
	}
	tx, xid := begin()
	if _, err := d.Committed(t.Context(), xid); err == nil {
		t.Error("no error for a running transaction")
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if committed, err := d.Committed(t.Context(), xid); !committed || err != nil {
		t.Errorf("a committed transaction: %t, %v", committed, err)
	}
	tx, xid = begin()
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if committed, err := d.Committed(t.Context(), xid); committed || err != nil {
		t.Errorf("an aborted transaction: %t, %v", committed, err)
	}
	if committed, err := d.Committed(t.Context(), xid+1_000_000); committed || err != nil {
		t.Errorf("a transaction that a new primary has lost: %t, %v", committed, err)
	}
}
