package cache

import (
	"time"
)

// Cause is the reason why all cached answers were discarded.
type Cause string

// An epoch starts when all cached answers are discarded. These are the possible causes.
const (
	CauseStart  Cause = "start"  // the first reading of the change log
	CauseNotice Cause = "notice" // so many rows have changed that the log does not list their keys
	CauseWorld  Cause = "world"  // the server or the tables are different, or the triggers were disabled for a while
	CauseGap    Cause = "gap"    // the cleaning of the log deleted rows that had not been read
)

// Poll is one reading of the change log. [Cache.BeginPoll] returns a Poll, and the caller then reads the log.
type Poll struct {
	// Since is the snapshot of the previous reading. It is empty for the first reading.
	Since string

	number uint64
	sent   time.Duration
}

// Reply is the database's reply to a [Poll]. All its data comes from one snapshot.
type Reply struct {
	// Snapshot is the snapshot of the reading. The reply contains every change that is visible in this snapshot.
	Snapshot string
	// Mark counts the marks that the cleaning of the log has set. A mark is a snapshot. Each cleaning deletes the rows that are
	// visible in the mark of the previous cleaning, and sets a new mark. So unread rows were deleted only if at least two marks
	// were set since the previous reading.
	Mark int64
	// World identifies the state of the server, the tables and the triggers. If World is the same as in the previous reading, the
	// log contains every change. An empty World means that changes may be missing from the log.
	World string
	// Verified is the time between the check of World and the reply.
	Verified time.Duration
	// Changes has an element for each row of the log that is visible in Snapshot but was not visible in Since. The element
	// contains the row's keys.
	Changes [][]Key
	// All reports that anything may have changed.
	All bool
}

// logState is the position up to which the change log was read. Only one goroutine reads the log.
type logState struct {
	number   uint64 // number of the last poll
	snapshot string
	mark     int64
	world    string
}

// Only the goroutine that reads the change log may call BeginPoll and Apply. The two methods do not block.

// BeginPoll begins a reading. After that, Apply ignores replies to earlier polls.
func (c *Cache) BeginPoll() Poll {
	c.log.number++
	return Poll{Since: c.log.snapshot, number: c.log.number, sent: c.now()}
}

// Apply applies the reply to a poll. If trust is false, Apply applies the changes but does not extend the lease.
func (c *Cache) Apply(p Poll, r Reply, trust bool) {
	if p.number != c.log.number {
		return
	}
	switch {
	case c.log.snapshot == "":
		c.startEpoch(CauseStart)
	case r.World != c.log.world:
		c.startEpoch(CauseWorld)
	case r.Mark != c.log.mark && r.Mark != c.log.mark+1:
		c.startEpoch(CauseGap)
	case r.All:
		c.startEpoch(CauseNotice)
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

// ApplyHint applies a change notification, which can arrive before the log is read. A call is safe at any time and with any keys,
// because it only makes cached answers outdated. No keys means that anything may have changed.
func (c *Cache) ApplyHint(keys []Key) {
	if len(keys) == 0 {
		c.generations.changedAll()
	} else {
		c.generations.changed(keys)
	}
	c.hints.Add(1)
}

// startEpoch discards all cached answers.
func (c *Cache) startEpoch(cause Cause) {
	c.generations.changedAll()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epochs[cause]++
}

// LeaseState reports whether the lease was ever extended, and whether it is valid now.
func (c *Cache) LeaseState() (ever, now bool) { return c.lease.ever.Load(), c.lease.valid(c.now()) }
