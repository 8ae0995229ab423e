package directory_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/directory"
	"github.com/keywicket/keywicket/store/registry"
	"github.com/keywicket/keywicket/store/storetest"
)

// clock is a clock that a test can set forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// countWrites makes the database count the rows of token_usage that are written from now on.
func countWrites(t *testing.T, f *storetest.Fixture) (written func() int) {
	t.Helper()
	f.Exec(t, `CREATE TABLE public.writes (token_id text)`)
	f.Exec(t, `CREATE FUNCTION public.count_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
		BEGIN INSERT INTO public.writes VALUES (NEW.token_id); RETURN NEW; END $$`)
	f.Exec(t, `CREATE TRIGGER count_writes AFTER INSERT OR UPDATE ON keywicket.token_usage
		FOR EACH ROW EXECUTE FUNCTION public.count_write()`)
	return func() int { return storetest.Value[int](t, f.DB, `SELECT count(*) FROM public.writes`) }
}

// usedAgo returns how long ago a token was used, measured with the database's clock. A negative result means that the token was
// never used.
func usedAgo(t *testing.T, f *storetest.Fixture, token registry.Token) time.Duration {
	t.Helper()
	seconds := storetest.Value[float64](t, f.DB, `SELECT COALESCE((SELECT extract(epoch FROM clock_timestamp() - last_used_at)
		FROM keywicket.token_usage WHERE token_id = $1), -1)`, token.ID)
	return time.Duration(seconds * float64(time.Second))
}

// use looks up a token, and counts an allowed request if the token is valid, as a check does.
func use(t *testing.T, d *directory.Directory, key authz.Secret) {
	t.Helper()
	useAs(t, d, storetest.Lookup(key), true)
}

func useAs(t *testing.T, d *directory.Directory, l authz.Lookup, allowed bool) {
	t.Helper()
	if found := storetest.Must(d.Lookup(t.Context(), l)); found.Denial == "" {
		d.CountUse(&found.Principal, allowed)
	}
}

func TestUsageIsWrittenInTheBackground(t *testing.T) {
	f := storetest.NewFixture(t)
	used, key := f.WorkspaceToken(t)
	unused, _ := f.WorkspaceToken(t)
	d := f.Directory(t, func(c *directory.Config) { c.UsageInterval = 5 * time.Millisecond })
	use(t, d, key)
	storetest.Eventually(t, "the use is written", func() bool { return usedAgo(t, f, used) >= 0 })
	if ago := usedAgo(t, f, used); ago > 10*time.Second {
		t.Errorf("the recorded use is %v ago", ago)
	}
	if ago := usedAgo(t, f, unused); ago >= 0 {
		t.Errorf("an unused token was used %v ago", ago)
	}
}

func TestUsageIsWrittenAtShutdown(t *testing.T) {
	f := storetest.NewFixture(t)
	c := new(clock)
	d := f.Directory(t, func(config *directory.Config) { config.Clock = c.now })
	var tokens []registry.Token
	for range 3 {
		token, key := f.WorkspaceToken(t)
		tokens = append(tokens, token)
		use(t, d, key)
	}
	c.advance(30 * time.Second)
	for range 2 { // the second call does nothing
		if err := d.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, token := range tokens {
		if ago := usedAgo(t, f, token); ago < 30*time.Second || ago > 40*time.Second {
			t.Errorf("a use half a minute before the shutdown was recorded as %v ago", ago)
		}
	}
}

func TestUsageIsWrittenOncePerTokenAndMinute(t *testing.T) {
	f := storetest.NewFixture(t)
	written := countWrites(t, f)
	token, key := f.WorkspaceToken(t)
	probe, probeKey := f.WorkspaceToken(t)
	c := new(clock)
	d := f.Directory(t, func(config *directory.Config) { config.Clock, config.UsageInterval = c.now, 2*time.Millisecond })
	for range 100 {
		use(t, d, key)
	}
	storetest.Eventually(t, "the first use is written", func() bool { return written() == 1 })
	c.advance(50 * time.Second)
	use(t, d, key)
	use(t, d, probeKey) // when this use is written, all earlier uses have been written
	storetest.Eventually(t, "the probe is written", func() bool { return usedAgo(t, f, probe) >= 0 })
	if n := written(); n != 2 {
		t.Errorf("%d rows were written for two tokens in their first minute", n)
	}

	// The database itself also requires a minute between two recorded uses, by its own clock.
	f.Exec(t, `UPDATE keywicket.token_usage SET last_used_at = last_used_at - interval '2 minutes'`)
	before := written()
	c.advance(30 * time.Second)
	use(t, d, key)
	storetest.Eventually(t, "the use in the next minute is written", func() bool { return written() == before+1 })
	if ago := usedAgo(t, f, token); ago < 0 || ago > 10*time.Second {
		t.Errorf("the recorded use is %v ago", ago)
	}
}

func TestSeveralSidecarsTogetherWriteOncePerMinute(t *testing.T) {
	f := storetest.NewFixture(t)
	written := countWrites(t, f)
	_, key := f.WorkspaceToken(t)
	var wg sync.WaitGroup
	for range 4 {
		d := f.Directory(t, nil)
		use(t, d, key)
		wg.Go(func() {
			if err := d.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := written(); n != 1 {
		t.Errorf("four sidecars wrote one token's use %d times in a minute", n)
	}
}

func TestSidecarsThatWriteTheSameTokensDoNotDeadlock(t *testing.T) {
	f := storetest.NewFixture(t)
	var keys []authz.Secret
	for range 200 {
		_, key := f.WorkspaceToken(t)
		keys = append(keys, key)
	}
	var directories []*directory.Directory
	for range 4 {
		d := f.Directory(t, nil)
		for _, key := range keys {
			use(t, d, key)
		}
		directories = append(directories, d)
	}
	var wg sync.WaitGroup
	for _, d := range directories {
		wg.Go(func() {
			if err := d.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := storetest.Value[int](t, f.DB, `SELECT count(*) FROM keywicket.token_usage`); n != len(keys) {
		t.Errorf("%d of %d uses are written", n, len(keys))
	}
}

// The product deletes tokens in a long transaction while some of these tokens are used. The deletion and the writing of usage must
// not wait for each other, and the deletion must not fail.
func TestUsageDoesNotBlockDeletion(t *testing.T) {
	f := storetest.NewFixture(t)
	log := new(storetest.Log)
	d, err := directory.Open(directory.Config{URL: storetest.SidecarURL(f.URL), LookupTimeout: 10 * time.Second,
		UsageInterval: 5 * time.Millisecond, NoCache: true}, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	const tokens = 500
	ids, keys := make(pq.StringArray, tokens), make([]authz.Secret, tokens)
	for i := range ids {
		var token registry.Token
		token, keys[i] = f.WorkspaceToken(t)
		ids[i] = token.ID
	}
	remaining, remainingKey := f.WorkspaceToken(t)

	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `SET LOCAL lock_timeout = '10s'`))
	for i, id := range ids {
		storetest.Must(tx.ExecContext(t.Context(), `DELETE FROM keywicket.tokens WHERE id = $1`, id))
		if i%10 == 0 { // use this deleted token, and a token from the other end of the list
			use(t, d, keys[i])
			use(t, d, keys[tokens-1-i])
		}
	}
	use(t, d, remainingKey)
	storetest.Eventually(t, "the use of another token is written during the transaction", func() bool { return usedAgo(t, f, remaining) >= 0 })
	storetest.Must(tx.ExecContext(t.Context(), `DELETE FROM keywicket.token_usage WHERE token_id = ANY ($1)`, ids))
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "could not be written") {
		t.Error(log.String())
	}
}

// A lock on a row of token_usage, or on the whole table, delays only the writing of usage. Look-ups do not wait for the lock.
func TestUsageDoesNotWaitLongForLocks(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t)
	log := new(storetest.Log)
	d, err := directory.Open(directory.Config{URL: storetest.SidecarURL(f.URL), LookupTimeout: 10 * time.Second, MaxOpenConnections: 1,
		UsageInterval: 5 * time.Millisecond, NoCache: true}, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.token_usage IN ACCESS EXCLUSIVE MODE`))
	use(t, d, key)
	storetest.Eventually(t, "two attempts time out", func() bool { return strings.Count(log.String(), "lock timeout") >= 2 })
	use(t, d, key) // this look-up uses the only connection
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	storetest.Eventually(t, "the use is written", func() bool { return usedAgo(t, f, token) >= 0 })
}

func TestFailedBatchIsRetried(t *testing.T) {
	f := storetest.NewFixture(t)
	token, key := f.WorkspaceToken(t)
	log := new(storetest.Log)
	d, err := directory.Open(directory.Config{URL: storetest.SidecarURL(f.URL), LookupTimeout: 10 * time.Second,
		UsageInterval: 5 * time.Millisecond}, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	f.Exec(t, `REVOKE INSERT ON keywicket.token_usage FROM keywicket_sidecar`)
	use(t, d, key)
	storetest.Eventually(t, "two attempts fail", func() bool { return strings.Count(log.String(), "could not be written") >= 2 })
	if !strings.Contains(log.String(), `"tokens":1`) {
		t.Errorf("the log does not contain the number of pending uses: %s", log)
	}
	f.Exec(t, `GRANT INSERT ON keywicket.token_usage TO keywicket_sidecar`)
	storetest.Eventually(t, "the next attempt writes the use", func() bool { return usedAgo(t, f, token) >= 0 })
}

func TestUsageSurvivesALostConnection(t *testing.T) {
	f := storetest.NewFixture(t)
	first, firstKey := f.WorkspaceToken(t)
	second, secondKey := f.WorkspaceToken(t)
	p := storetest.NewProxy(t, f.URL)
	d := f.Directory(t, func(c *directory.Config) { c.URL, c.UsageInterval = p.URL(c.URL), 5*time.Millisecond })
	use(t, d, firstKey)
	storetest.Eventually(t, "the first use is written", func() bool { return usedAgo(t, f, first) >= 0 })
	p.FaultOnOpenConnections(storetest.Reset)
	use(t, d, secondKey)
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if usedAgo(t, f, second) < 0 {
		t.Error("the use after the loss of the connection is not written")
	}
	if n := p.Faults(); n == 0 {
		t.Error("no connection was reset")
	}
}

func TestCloseEndsWithItsContextAndReportsTheLoss(t *testing.T) {
	f := storetest.NewFixture(t)
	_, key := f.WorkspaceToken(t)
	d := f.Directory(t, nil)
	use(t, d, key)
	tx := storetest.Must(f.DB.BeginTxx(t.Context(), nil))
	defer func() { _ = tx.Rollback() }()
	storetest.Must(tx.ExecContext(t.Context(), `LOCK keywicket.token_usage IN ACCESS EXCLUSIVE MODE`))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := d.Close(ctx)
	if took := time.Since(started); took > 2*time.Second || !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), "usage of 1 tokens is lost") {
		t.Errorf("after %v: %v", took, err)
	}
	if _, err := d.Lookup(t.Context(), storetest.Lookup(key)); err == nil {
		t.Error("a closed directory answered a look-up")
	}
}
