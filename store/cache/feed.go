package cache

import (
	"time"
)

// Cause is the reason why all cached answers were discarded.
type Cause string

// An epoch starts when all cached answers are discarded. These are the possible causes.
const (
	CauseStart       Cause = "start"  // the first reading of the change log
	CauseManyChanges Cause = "notice" // anything may have changed: very many rows have changed, or the log contains a text that this version does not know
	CauseFingerprint Cause = "world"  // another server answers, or the tables or triggers have changed, so that changes of rows may be missing from the log
	CauseGap         Cause = "gap"    // a cleaning of the log may have deleted rows that this cache had not read
)

// Poll is one reading of the change log. The caller gets a Poll from [Cache.BeginPoll], and then reads the log.
type Poll struct {
	// PreviousSnapshot is the snapshot of the previous reading. It is empty for the first reading.
	PreviousSnapshot string

	number uint64
	sent   time.Duration
}

// Reply is the database's reply to a [Poll]. All its data comes from one snapshot.
type Reply struct {
	// Snapshot is the snapshot of the reading. The reply contains every change that is visible in this snapshot.
	Snapshot string
	// Cleanings is the number of cleanings of the log so far. A cleaning deletes only rows that were visible at the previous
	// cleaning. So unread rows can be missing only if there were at least two cleanings since the previous reading.
	Cleanings int64
	// Fingerprint is a fingerprint of the server, the tables and the triggers. If Fingerprint is the same as in the previous
	// reading, the log contains every change. An empty Fingerprint means that changes may be missing from the log.
	Fingerprint string
	// FingerprintAge is the age of Fingerprint: the time from the verification of the tables and triggers to the reading.
	FingerprintAge time.Duration
	// Changes has an element for each row of the log that is visible in Snapshot but was not visible in PreviousSnapshot. The
	// element contains the row's keys.
	Changes [][]DependencyKey
	// AllChanged means that anything may have changed.
	AllChanged bool
}

// logState describes the previous reading of the change log. Only one goroutine reads the log.
type logState struct {
	number      uint64 // number of the last poll
	snapshot    string
	cleanings   int64
	fingerprint string
}

// Only the goroutine that reads the change log may call BeginPoll and Apply. The two methods do not block.

// BeginPoll begins a reading. After that, Apply ignores replies to earlier polls.
func (c *Cache) BeginPoll() Poll {
	c.log.number++
	return Poll{PreviousSnapshot: c.log.snapshot, number: c.log.number, sent: c.now()}
}

// Apply applies the reply to a poll. If extendLease is false, Apply still records the changes, but does not extend the lease.
func (c *Cache) Apply(p Poll, r Reply, extendLease bool) {
	if p.number != c.log.number {
		return
	}
	switch {
	case c.log.snapshot == "":
		c.startEpoch(CauseStart)
	case r.Fingerprint != c.log.fingerprint:
		c.startEpoch(CauseFingerprint)
	case r.Cleanings != c.log.cleanings && r.Cleanings != c.log.cleanings+1:
		c.startEpoch(CauseGap)
	case r.AllChanged:
		c.startEpoch(CauseManyChanges)
	}
	for _, keys := range r.Changes {
		c.generations.recordChange(keys)
	}
	n := len(r.Changes)
	if r.AllChanged {
		n++
	}
	c.changes.Add(uint64(n)) //nolint:gosec // a length
	c.log.snapshot, c.log.cleanings, c.log.fingerprint = r.Snapshot, r.Cleanings, r.Fingerprint
	c.lease.lag.Store(int64(c.now() - p.sent))
	switch {
	case r.Fingerprint == "":
		c.lease.end()
	case extendLease:
		c.lease.extend(p.sent - r.FingerprintAge)
	}
}

// ApplyHint applies a change notification, which can arrive before the log is read. ApplyHint only makes cached answers outdated,
// so it is safe at any time and with any keys. If keys is empty, anything may have changed.
func (c *Cache) ApplyHint(keys []DependencyKey) {
	if len(keys) == 0 {
		c.generations.recordChangeOfAll()
	} else {
		c.generations.recordChange(keys)
	}
	c.hints.Add(1)
}

// startEpoch discards all cached answers.
func (c *Cache) startEpoch(cause Cause) {
	c.generations.recordChangeOfAll()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epochs[cause]++
}

// LeaseState reports whether the lease was ever extended, and whether it is valid now.
func (c *Cache) LeaseState() (ever, now bool) {
	return c.lease.everExtended.Load(), c.lease.valid(c.now())
}
