package cache

import (
	"time"
)

// Cause is why everything was forgotten.
type Cause string

// The causes of an epoch.
const (
	CauseStart  Cause = "start"  // the first reading of the change log
	CauseNotice Cause = "notice" // a change of so much that it is not named one by one
	CauseWorld  Cause = "world"  // another server, other tables, or triggers that were not in force for a while
	CauseGap    Cause = "gap"    // the log was cleaned of rows that had not been read
)

// Poll is one reading of the change log. It is sent to the database after [Cache.Poll] returned it.
type Poll struct {
	// Since is the snapshot of the last reading. Empty: there was none.
	Since string

	number uint64
	sent   time.Duration
}

// Reply is what the database says to a [Poll], as of one snapshot.
type Reply struct {
	// Snapshot sees everything that the cache knows of once the reply is told.
	Snapshot string
	// Mark counts the marks that the cleaning of the log has set. Rows were deleted unread only if two were set since the
	// last reading.
	Mark int64
	// World identifies the server, the tables and the triggers. Where it is the one of before, each change is in the log.
	// Empty: changes may be missing from the log.
	World string
	// Verified is how long before the reply the World was looked at.
	Verified time.Duration
	// Changes are the keys of each row of the log that the snapshot sees, and Since did not.
	Changes [][]Key
	// All says that anything may have changed.
	All bool
}

// log is where the reading of the change log stands. One goroutine reads.
type log struct {
	number   uint64 // of the last poll
	snapshot string
	mark     int64
	world    string
}

// Poll and Told are for the goroutine that reads the change log. They wait for nothing.

// Poll begins a reading. Replies to earlier ones are void from then on.
func (c *Cache) Poll() Poll {
	c.log.number++
	return Poll{Since: c.log.snapshot, number: c.log.number, sent: c.now()}
}

// Told takes the reply to a poll. Without trust, the changes in it count, and the lease is not extended.
func (c *Cache) Told(p Poll, r Reply, trust bool) {
	if p.number != c.log.number {
		return
	}
	switch {
	case c.log.snapshot == "":
		c.forget(CauseStart)
	case r.World != c.log.world:
		c.forget(CauseWorld)
	case r.Mark != c.log.mark && r.Mark != c.log.mark+1:
		c.forget(CauseGap)
	case r.All:
		c.forget(CauseNotice)
	}
	for _, keys := range r.Changes {
		c.generations.changed(keys)
	}
	n := len(r.Changes)
	if r.All {
		n++
	}
	c.changes.Add(uint64(n)) //nolint:gosec // a length
	c.log.snapshot, c.log.mark, c.log.world = r.Snapshot, r.Mark, r.World
	c.lease.lag.Store(int64(c.now() - p.sent))
	switch {
	case r.World == "":
		c.lease.end()
	case trust:
		c.lease.extend(p.sent - r.Verified)
	}
}

// Hinted takes a change that was heard of before the log was read. It may be called at any time and for any key: it only makes
// the cache forget. No keys: anything may have changed.
func (c *Cache) Hinted(keys []Key) {
	if len(keys) == 0 {
		c.generations.changedAll()
	} else {
		c.generations.changed(keys)
	}
	c.hints.Add(1)
}

func (c *Cache) forget(cause Cause) {
	c.generations.changedAll()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epochs[cause]++
}

// Heart tells whether the log was ever read, and whether memory may be believed now.
func (c *Cache) Heart() (ever, now bool) { return c.lease.ever.Load(), c.lease.held(c.now()) }
