package cache

import (
	"sync/atomic"
	"time"
)

// lease is the time during which cached answers may be used. All times are on the process's monotonic clock.
//
// Postgres makes a transaction visible before it answers the COMMIT. So a reading of the change log that was sent at time t
// returns every change whose COMMIT was answered by t. This is true only if the log contains all changes. A sidecar has verified
// that some time before the reading, so the lease counts from the verification. The time at which the reply arrives does not
// matter.
type lease struct {
	bound time.Duration
	until atomic.Int64 // end of the lease
	known atomic.Int64 // every change committed by this time has been read
	lag   atomic.Int64 // how long the last reading took
	ever  atomic.Bool  // the lease was extended at least once
}

// valid reports whether cached answers may be used at the time now.
func (l *lease) valid(now time.Duration) bool { return int64(now) < l.until.Load() }

// extend sets the end of the lease to known plus the staleness bound. Every change that was committed by known must have been
// read.
func (l *lease) extend(known time.Duration) {
	l.until.Store(int64(known + l.bound))
	l.known.Store(int64(known))
	l.ever.Store(true)
}

func (l *lease) end() { l.until.Store(0) }
