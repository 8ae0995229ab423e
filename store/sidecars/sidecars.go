// Package sidecars lists the running sidecars, and waits until none of them uses cached answers from before a change. The operator's
// commands use it.
package sidecars

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/keywicket/keywicket/store/changelog"
	"github.com/keywicket/keywicket/store/database"
)

// Sidecar describes a sidecar, as it was at its last heartbeat.
type Sidecar struct {
	ID       string `json:"id"`
	Version  string `json:"version"`
	Policies string `json:"policies"` // hash of the policies that the sidecar has loaded
	// Alive reports whether the last heartbeat is so recent that the sidecar may still use its cache.
	Alive bool `json:"alive"`
	// Lease is how long the sidecar could still use its cache at the time SeenAt. 0 means that every look-up queried the database.
	Lease time.Duration `json:"lease_ns"`
	// Lag is how long the sidecar's last reading of the change log took.
	Lag       time.Duration `json:"lag_ns"`
	StartedAt time.Time     `json:"started_at"`
	SeenAt    *time.Time    `json:"seen_at"` // time of the last heartbeat; nil if the sidecar has stopped

	bound, staleIfError time.Duration
	caughtUp            bool // the sidecar has read the change log up to the transaction that was passed to the method sidecars
	mayAnswer           bool // cache.stale_if_error may still let the sidecar use older cached answers
}

// List is the list of sidecars that the database contains. A List is safe for concurrent use.
type List struct{ db *sqlx.DB }

// New returns the list of a database.
func New(db *sqlx.DB) List { return List{db} }

// withTimeout limits a query to five seconds, even if the database does not react to a cancel request.
func (List) withTimeout(ctx context.Context, query func(context.Context) error) error {
	const limit = 5 * time.Second
	return database.DoWithTimeout(ctx, limit, query)
}

// Sidecars lists the sidecars that are alive or were alive within the last hour. The list is sorted by id.
func (l List) Sidecars(ctx context.Context) ([]Sidecar, error) { return l.sidecars(ctx, "0") }

// sidecars returns the same list as Sidecars. For each sidecar, it also returns whether the sidecar has read the change log up to
// the transaction with the id xid.
func (l List) sidecars(ctx context.Context, xid string) ([]Sidecar, error) {
	var rows []struct {
		Sidecar
		Lease        float64 `db:"lease"` // seconds
		Lag          float64 `db:"lag"`
		Bound        float64 `db:"bound"`
		StaleIfError float64 `db:"stale_if_error"`
		CaughtUp     bool    `db:"caught_up"`
		MayAnswer    bool    `db:"may_answer"`
	}
	err := l.withTimeout(ctx, func(ctx context.Context) error {
		return l.db.SelectContext(ctx, &rows, `
		SELECT id, version, policies, started_at AS startedat,
		       CASE WHEN isfinite(seen_at) THEN seen_at END AS seenat,
		       seen_at > clock_timestamp() - bound - $2::float8 * interval '1 second' AS alive,
		       EXTRACT(EPOCH FROM lease) AS lease, EXTRACT(EPOCH FROM lag) AS lag,
		       EXTRACT(EPOCH FROM bound) AS bound, EXTRACT(EPOCH FROM stale_if_error) AS stale_if_error,
		       pg_visible_in_snapshot($1::text::xid8, snapshot)
		           AND pg_snapshot_xmax(snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) AS caught_up,
		       isfinite(seen_at) AND stale_if_error > interval '0' AND
		           seen_at > clock_timestamp() - bound - stale_if_error - $2::float8 * interval '1 second' AS may_answer
		FROM keywicket.sidecars ORDER BY id`, xid, changelog.AliveFor.Seconds())
	})
	if err != nil {
		return nil, fmt.Errorf("list the sidecars: %w", err)
	}
	list := make([]Sidecar, len(rows))
	for i, row := range rows {
		s := row.Sidecar
		s.Lease, s.Lag = database.Seconds(row.Lease), database.Seconds(row.Lag)
		s.bound, s.staleIfError, s.caughtUp = database.Seconds(row.Bound), database.Seconds(row.StaleIfError), row.CaughtUp
		s.mayAnswer = row.MayAnswer
		list[i] = s
	}
	return list, nil
}

// WaitResult is the result of [List.WaitForSidecars].
type WaitResult struct {
	// Confirmed are the sidecars that have read the change in the change log.
	Confirmed []string `json:"confirmed"`
	// Silent are the sidecars that did not read the change within their staleness bound. These sidecars no longer use cached
	// answers from before the change.
	Silent []string `json:"silent"`
	// Waited is how long WaitForSidecars took.
	Waited time.Duration `json:"waited_ns"`
	// StaleIfError is the longest cache.stale_if_error of the silent sidecars. During this time, a silent sidecar that cannot
	// reach the database may use cached answers from before the change.
	StaleIfError time.Duration `json:"stale_if_error_ns"`
}

// WaitForSidecars waits until no sidecar uses cached answers from before a change that is already committed. When it returns, each
// sidecar has read the change in the change log, or the sidecar's staleness bound has passed. WaitForSidecars does not wait for
// sidecars of versions from before migration 00011.
func (l List) WaitForSidecars(ctx context.Context) (WaitResult, error) {
	started := time.Now()
	var xid string
	err := l.withTimeout(ctx, func(ctx context.Context) error {
		return l.db.GetContext(ctx, &xid, `
			WITH logged AS (INSERT INTO keywicket.changes (keys) VALUES ($1) RETURNING xid)
			SELECT xid::text FROM logged, pg_notify($2, $1)`, changelog.Acknowledge, changelog.Channel)
	})
	if err != nil {
		return WaitResult{}, fmt.Errorf("notify the sidecars: %w", err)
	}
	minimum, err := l.minimumWait(ctx)
	if err != nil {
		return WaitResult{}, err
	}
	const firstPause, maxPause = 5 * time.Millisecond, 50 * time.Millisecond
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		list, err := l.sidecars(ctx, xid)
		if err != nil {
			return WaitResult{}, err
		}
		b := WaitResult{Confirmed: []string{}, Silent: []string{}, Waited: time.Since(started)}
		bound := minimum
		for _, s := range list {
			switch {
			case s.caughtUp:
				b.Confirmed = append(b.Confirmed, s.ID)
			case s.SeenAt == nil:
			case !s.Alive && !s.mayAnswer: // such a sidecar can still use its cache only if the database's clock was set forward
				bound = max(bound, s.bound)
			default:
				b.Silent = append(b.Silent, s.ID)
				bound, b.StaleIfError = max(bound, s.bound), max(b.StaleIfError, s.staleIfError)
			}
		}
		if len(b.Silent) == 0 && bound == 0 || b.Waited > bound {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return WaitResult{}, ctx.Err()
		case <-time.After(min(pause, bound-b.Waited+time.Millisecond)):
		}
	}
}

// minimumWait returns how long to wait for sidecars that may be missing in the list. A crash of the server or a failover empties
// the list and also deletes the row of keywicket.world. So the list may be incomplete if this row is new.
func (l List) minimumWait(ctx context.Context) (time.Duration, error) {
	var bound float64
	err := l.withTimeout(ctx, func(ctx context.Context) error {
		return l.db.GetContext(ctx, &bound, `
			SELECT CASE WHEN EXISTS (SELECT FROM keywicket.world WHERE made_at < clock_timestamp() - upkeep.bound - interval '2 seconds')
			       THEN 0 ELSE EXTRACT(EPOCH FROM bound) END
			FROM keywicket.upkeep`)
	})
	if err != nil {
		return 0, fmt.Errorf("read the age of the list of sidecars: %w", err)
	}
	return database.Seconds(bound), nil
}

// String describes the result in one sentence for the operator.
func (b WaitResult) String() string {
	waited := b.Waited.Round(time.Millisecond).String()
	if len(b.Confirmed)+len(b.Silent) == 0 {
		return "no sidecar with a cache uses this database"
	}
	if len(b.Silent) == 0 {
		return count(len(b.Confirmed), "sidecar") + " confirmed after " + waited
	}
	text := fmt.Sprintf("%d of %s confirmed; the others did not confirm within their staleness bound (%s):",
		len(b.Confirmed), count(len(b.Confirmed)+len(b.Silent), "sidecar"), waited)
	for _, id := range b.Silent {
		text += " " + id
	}
	if b.StaleIfError > 0 {
		text += fmt.Sprintf(" (because of cache.stale_if_error, a sidecar that cannot reach the database may use earlier answers for %v)", b.StaleIfError)
	}
	return text
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}
