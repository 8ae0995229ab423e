package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/store/database"
)

const (
	usageBatch    = 100             // maximum number of tokens in a transaction. Until its end, the transaction locks one row for each token.
	usageTimeout  = 2 * time.Second // time limit of one transaction
	usageAttempts = 3               // maximum number of attempts in a row, if connections are lost or the sidecar stops
	upkeepPause   = time.Minute     // time between two calls of the SQL function keep_up, which deletes old rows
)

// usage records which tokens and which grants are used, counts the requests of tokens, and writes both to the database in batches.
// In the database, last_used_at may be up to two minutes too early, because usage and the database each ignore a use within about a
// minute after the last recorded use. The counts of a token are written with its first use, then every countInterval, and at the
// end.
type usage struct {
	db    *sqlx.DB
	log   *slog.Logger
	clock func() time.Time
	start time.Time

	tokens, grants *uses
	failed         *batch // the last batch, if it could not be written

	stop, stopped chan struct{}
	closing       sync.Once
	closeErr      error
	cancel        context.CancelFunc // cancels the write in progress
}

// batch is a list of rows that one transaction writes.
type batch struct {
	rows     []row
	ofGrants bool
	xid      *atomic.Int64 // the id of the last transaction; nil or 0: the transaction has written nothing
}

// startUsage starts the goroutine that writes usage. For each write, the goroutine needs one connection of the pool `db`, for some
// milliseconds.
func startUsage(db *sqlx.DB, c Config, log *slog.Logger) *usage {
	ctx, cancel := context.WithCancel(context.Background())
	u := &usage{
		db: db, log: log, clock: c.Clock, start: c.Clock(), tokens: newUses(), grants: newUses(),
		stop: make(chan struct{}), stopped: make(chan struct{}), cancel: cancel,
	}
	go u.run(ctx, c.UsageInterval)
	return u
}

// count records a use. It allocates nothing if the token or the grant is in use. An app has many access tokens one after another, so
// usage records the grant instead, and counts no requests.
func (u *usage) count(p *authz.Principal, allowed bool) {
	switch {
	case p.Kind == authz.KindSession:
	case p.Kind == authz.KindOAuthToken:
		u.grants.add(p.GrantID, u.now(), 0, 0)
	case allowed:
		u.tokens.add(p.ID, u.now(), 1, 0)
	default:
		u.tokens.add(p.ID, u.now(), 0, 1)
	}
}

func (u *usage) now() ticks { return toTicks(u.clock().Sub(u.start)) }

func (u *usage) run(ctx context.Context, interval time.Duration) {
	defer close(u.stopped)
	tick, upkeep := time.NewTicker(interval), time.NewTicker(upkeepPause)
	defer tick.Stop()
	defer upkeep.Stop()
	for {
		select {
		case <-u.stop:
			return
		case <-upkeep.C:
			u.runUpkeep(ctx)
			continue
		case <-tick.C:
		}
		if err := u.flush(ctx, false); err != nil && ctx.Err() == nil {
			u.log.Warn("token usage could not be written and is kept for the next attempt",
				"error", err, "tokens", u.unwritten())
		}
		if dropped := u.tokens.takeDropped() + u.grants.takeDropped(); dropped > 0 {
			u.log.Warn("token usage was dropped because the usage of too many tokens is not written", "requests", dropped)
		}
	}
}

// flush writes the uses that are due, or all of them. Uses that it cannot write stay in memory.
func (u *usage) flush(ctx context.Context, all bool) error {
	if u.failed != nil {
		if err := u.write(ctx, u.failed); err != nil {
			return err
		}
	}
	now := u.now()
	for _, uses := range []*uses{u.tokens, u.grants} {
		var rows []row
		for i := range uses.shards {
			rows = uses.shards[i].appendDue(rows, now, all)
			for last := i == len(uses.shards)-1; len(rows) >= usageBatch || last && len(rows) > 0; {
				n := min(len(rows), usageBatch)
				if err := u.write(ctx, &batch{rows: rows[:n:n], ofGrants: uses == u.grants}); err != nil {
					return err
				}
				rows = rows[n:]
			}
		}
	}
	return nil
}

// unwritten returns the number of tokens and grants with an unwritten use.
func (u *usage) unwritten() int { return u.tokens.unwritten() + u.grants.unwritten() }

// All sidecars write rows in the same order, so they cannot deadlock. The queries skip deleted tokens and grants. The locks of the
// queries do not prevent other transactions from changing or deleting tokens. The queries get the age of each use instead of its
// time, because the database's clock may differ from the sidecar's clock.
const (
	tokenUsageQuery = `
INSERT INTO keywicket.token_usage AS u (token_id, last_used_at)
SELECT t.id, clock_timestamp() - used.age * interval '1 second'
FROM unnest($1::text[], $2::float8[]) AS used (id, age)
JOIN keywicket.tokens t ON t.id = used.id
WHERE NOT EXISTS (SELECT FROM keywicket.token_usage r WHERE r.token_id = used.id
                  AND r.last_used_at > clock_timestamp() - (used.age + 60) * interval '1 second')
ORDER BY t.id
ON CONFLICT (token_id) DO UPDATE SET last_used_at = excluded.last_used_at
WHERE u.last_used_at <= excluded.last_used_at - interval '1 minute'`

	grantUsageQuery = `
INSERT INTO keywicket.grant_usage AS u (grant_id, last_used_at)
SELECT g.id, clock_timestamp() - used.age * interval '1 second'
FROM unnest($1::text[], $2::float8[]) AS used (id, age)
JOIN keywicket.oauth_grants g ON g.id = used.id
WHERE NOT EXISTS (SELECT FROM keywicket.grant_usage r WHERE r.grant_id = used.id
                  AND r.last_used_at > clock_timestamp() - (used.age + 60) * interval '1 second')
ORDER BY g.id
ON CONFLICT (grant_id) DO UPDATE SET last_used_at = excluded.last_used_at
WHERE u.last_used_at <= excluded.last_used_at - interval '1 minute'`

	// All requests of a row count for the day of the last one.
	tokenUseQuery = `
INSERT INTO keywicket.token_use AS u (token_id, day, allowed, denied)
SELECT t.id, ((clock_timestamp() - used.age * interval '1 second') AT TIME ZONE 'UTC')::date, used.allowed, used.denied
FROM unnest($1::text[], $2::float8[], $3::int8[], $4::int8[]) AS used (id, age, allowed, denied)
JOIN keywicket.tokens t ON t.id = used.id
WHERE used.allowed + used.denied > 0
ORDER BY t.id
ON CONFLICT (token_id, day) DO UPDATE SET allowed = u.allowed + excluded.allowed, denied = u.denied + excluded.denied`

	// If a row or a table is locked, the use is written later. The commit does not wait for the disk or a standby: a crash of the
	// database loses less than a second of usage. Before migration 00021, the tables token_use and grant_usage do not exist.
	beginUsageQuery = `
SELECT pg_current_xact_id()::text::int8, to_regclass('keywicket.token_use') IS NOT NULL
FROM set_config('lock_timeout', '100', true) AS a, set_config('synchronous_commit', 'off', true) AS b`
)

// write writes a batch. If it returns an error, the batch becomes u.failed, and the next flush writes it again. A write is not
// idempotent, because the database adds up counts. So write first finds out whether an earlier transaction of the batch was committed.
func (u *usage) write(ctx context.Context, b *batch) error {
	u.failed = b
	err := database.RetryLost(ctx, usageAttempts, func() error {
		if committed, err := u.committed(ctx, b); err != nil || committed {
			return err
		}
		xid := new(atomic.Int64)
		b.xid = xid
		return database.DoWithTimeout(ctx, usageTimeout, func(ctx context.Context) error {
			return database.ReadCommitted(ctx, u.db, func(tx *sqlx.Tx) error { return u.insert(ctx, tx, b, xid) })
		})
	})
	if err != nil {
		return fmt.Errorf("write token usage: %w", err)
	}
	u.failed = nil
	now := u.now()
	for _, r := range b.rows {
		r.written(now)
	}
	return nil
}

// committed reports whether the last transaction of the batch was committed. The connection can be lost while it commits.
func (u *usage) committed(ctx context.Context, b *batch) (committed bool, err error) {
	if b.xid == nil || b.xid.Load() == 0 {
		return false, nil
	}
	status, err := database.WithTimeout(ctx, usageTimeout, func(ctx context.Context) (status string, err error) {
		err = u.db.GetContext(ctx, &status, `SELECT COALESCE(pg_xact_status($1::text::xid8), 'aborted')`, b.xid.Load())
		return status, err
	})
	if pq.As(err, pqerror.InvalidParameterValue) != nil { // after a failover, the id may be in the future: the new primary lost the transaction
		status, err = "aborted", nil
	}
	switch {
	case err != nil:
		return false, err
	case status == "in progress":
		return false, errors.New("the previous attempt has not ended")
	}
	return status == "committed", nil
}

// insert writes the rows of a batch.
func (u *usage) insert(ctx context.Context, tx *sqlx.Tx, b *batch, xid *atomic.Int64) error {
	var id int64
	var migrated bool
	if err := tx.QueryRowContext(ctx, beginUsageQuery).Scan(&id, &migrated); err != nil {
		return err
	}
	xid.Store(id)
	n := len(b.rows)
	ids, ages, counts := make(pq.StringArray, n), make(pq.Float64Array, n), [2]pq.Int64Array{make(pq.Int64Array, n), make(pq.Int64Array, n)}
	counted, now := false, u.clock().Sub(u.start)
	for i, r := range b.rows {
		ids[i], ages[i] = r.id, max(0, now-r.last.time()).Seconds()
		counts[0][i], counts[1][i] = int64(r.allowed), int64(r.denied)
		counted = counted || r.allowed != 0 || r.denied != 0
	}
	if b.ofGrants {
		if !migrated {
			return nil
		}
		_, err := tx.ExecContext(ctx, grantUsageQuery, ids, ages)
		return err
	}
	if _, err := tx.ExecContext(ctx, tokenUsageQuery, ids, ages); err != nil || !counted || !migrated {
		return err
	}
	_, err := tx.ExecContext(ctx, tokenUseQuery, ids, ages, counts[0], counts[1])
	return err
}

// runUpkeep calls keywicket.keep_up, which deletes old rows of the change log, old counts, the usage of deleted tokens and grants,
// and old rows of the list of sidecars. If several sidecars call keep_up in the same minute, only the first call deletes rows.
func (u *usage) runUpkeep(ctx context.Context) {
	err := database.DoWithTimeout(ctx, usageTimeout, func(ctx context.Context) error {
		return database.ReadCommitted(ctx, u.db, func(tx *sqlx.Tx) error {
			_, err := tx.ExecContext(ctx, `SELECT keywicket.keep_up()`)
			return err
		})
	})
	if err != nil && ctx.Err() == nil {
		u.log.Warn("the change log could not be cleaned", "error", err)
	}
}

// close writes all unwritten uses. It stops when the context ends.
func (u *usage) close(ctx context.Context) error {
	u.closing.Do(func() {
		close(u.stop)
		select {
		case <-u.stopped:
		case <-ctx.Done():
			u.cancel()
			<-u.stopped
		}
		defer u.cancel()
		var err error
		for range usageAttempts { // an attempt fails, for example, if a row is locked
			if err = u.flush(ctx, true); err == nil {
				return
			}
		}
		u.closeErr = fmt.Errorf("the usage of %d tokens is lost: %w", u.unwritten(), err)
	})
	return u.closeErr
}
