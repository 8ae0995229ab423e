package directory

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/keywicket/keywicket/store/database"
)

const (
	// minNoteInterval is the minimum time between two notes (recorded uses) of a token. It is one second longer than the minute
	// that the database requires. With exactly one minute, a write may arrive slightly too early, and the database ignores it. This
	// could happen to every other write.
	minNoteInterval = 61 * time.Second

	maxPending = 65_536 // maximum number of tokens in usage.pending, which then needs about 10 MB

	usageBatch   = 100             // maximum number of tokens in a transaction. Until its end, the transaction locks one row for each token.
	usageTimeout = 2 * time.Second // time limit of one transaction
	upkeepPause  = time.Minute     // time between two calls of the SQL function keep_up, which deletes old rows
)

// usage records which tokens are used, and writes the uses to the database in batches. In the database, last_used_at may be up to
// two minutes too early, because usage and the database each ignore a use within about a minute after the last recorded use.
type usage struct {
	db    *sqlx.DB
	log   *slog.Logger
	clock func() time.Time
	start time.Time

	notes notes

	mu      sync.Mutex
	pending map[string]time.Duration // for each token: time of its last use, since start
	dropped int                      // number of tokens that did not fit into pending

	stop, stopped chan struct{}
	closing       sync.Once
	closeErr      error
	cancel        context.CancelFunc // cancels the write in progress
}

// startUsage starts the goroutine that writes usage. For each write, the goroutine needs one connection of the pool `db`, for some
// milliseconds.
func startUsage(db *sqlx.DB, c Config, log *slog.Logger) *usage {
	ctx, cancel := context.WithCancel(context.Background())
	u := &usage{
		db: db, log: log, clock: c.Clock, start: c.Clock(), notes: newNotes(),
		pending: make(map[string]time.Duration),
		stop:    make(chan struct{}), stopped: make(chan struct{}), cancel: cancel,
	}
	go u.run(ctx, c.UsageInterval)
	return u
}

// note records a use. If the token was already noted in the last minNoteInterval, note uses no lock and allocates nothing.
func (u *usage) note(id string) {
	if now := u.now(); u.notes.note(id, now) {
		u.enqueue(id, now)
	}
}

func (u *usage) now() time.Duration { return u.clock().Sub(u.start) }

func (u *usage) enqueue(id string, at time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if last, ok := u.pending[id]; ok {
		u.pending[id] = max(last, at)
	} else if len(u.pending) < maxPending {
		u.pending[strings.Clone(id)] = at // clone id, because it may be a part of a larger string in a cache entry
	} else {
		u.dropped++
	}
}

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
		if err := u.flush(ctx); err != nil && ctx.Err() == nil {
			u.log.Warn("token usage could not be written and is kept for the next attempt",
				"error", err, "tokens", u.unwritten())
		}
	}
}

// flush writes the pending uses. If flush cannot write some uses, these uses become pending again.
func (u *usage) flush(ctx context.Context) error {
	u.mu.Lock()
	pending, dropped := u.pending, u.dropped
	u.pending, u.dropped = make(map[string]time.Duration), 0
	u.mu.Unlock()

	if dropped > 0 {
		u.log.Warn("token usage was dropped because too many uses are pending", "tokens", dropped)
	}
	var failed error
	batch := make(map[string]time.Duration, min(len(pending), usageBatch))
	write := func() {
		if failed == nil {
			failed = u.write(ctx, batch)
		}
		if failed != nil {
			for id, at := range batch {
				u.enqueue(id, at)
			}
		}
		clear(batch)
	}
	for id, at := range pending {
		batch[id] = at
		if len(batch) == usageBatch {
			write()
		}
	}
	if len(batch) > 0 {
		write()
	}
	return failed
}

// unwritten returns the number of tokens whose use is not written: the use is pending or was dropped.
func (u *usage) unwritten() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.pending) + u.dropped
}

// usageQuery gets the age of each use instead of its time, because the database's clock may differ from the sidecar's clock. All
// sidecars write rows in the same order, so they cannot deadlock. The query skips deleted tokens. The locks of the query do not
// prevent other transactions from changing or deleting tokens.
const usageQuery = `
INSERT INTO keywicket.token_usage AS u (token_id, last_used_at)
SELECT t.id, clock_timestamp() - used.age * interval '1 second'
FROM unnest($1::text[], $2::float8[]) AS used (id, age)
JOIN keywicket.tokens t ON t.id = used.id
ORDER BY t.id
ON CONFLICT (token_id) DO UPDATE SET last_used_at = excluded.last_used_at
WHERE u.last_used_at <= excluded.last_used_at - interval '1 minute'`

func (u *usage) write(ctx context.Context, batch map[string]time.Duration) error {
	ids, ages := make(pq.StringArray, 0, len(batch)), make(pq.Float64Array, 0, len(batch))
	now := u.now()
	for id, at := range batch {
		ids = append(ids, id)
		ages = append(ages, max(0, now-at).Seconds())
	}
	err := database.DoWithTimeout(ctx, usageTimeout, func(ctx context.Context) error {
		const attempts = 3
		return database.RetryLost(ctx, attempts, func() error {
			return database.ReadCommitted(ctx, u.db, func(tx *sqlx.Tx) error {
				// If a row or the table is locked, the use is written later.
				if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = 100`); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, usageQuery, ids, ages)
				return err
			})
		})
	})
	if err != nil {
		return fmt.Errorf("write token usage: %w", err)
	}
	return nil
}

// runUpkeep calls keywicket.keep_up, which deletes old rows of the change log, the usage of deleted tokens, and old rows of the
// list of sidecars. If several sidecars call keep_up in the same minute, only the first call deletes rows.
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

// close writes the pending uses. It stops when the context ends.
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
		if err := u.flush(ctx); err != nil {
			u.closeErr = fmt.Errorf("the usage of %d tokens is lost: %w", u.unwritten(), err)
		}
	})
	return u.closeErr
}
