package cache

import (
	"sync/atomic"
	"time"
)

// lease is the time during which cached answers may be used. All times are on the process's monotonic clock.
//
// Postgres makes a transaction visible before it answers the COMMIT. So a query for the change log that is sent at time t
// returns every change whose COMMIT was answered by t. This is true only if the log contains all changes. A sidecar verifies this
// condition some time before the query. So the lease starts at the time of this verification. The time at which the reply arrives
// does not matter.
type lease struct {
	bound        time.Duration
	until        atomic.Int64 // end of the lease
	currentAt    atomic.Int64 // the cache has read every change that was committed by this time
	lag          atomic.Int64 // how long the last reading took
	everExtended atomic.Bool  // the lease was extended at least once
}

// valid reports whether cached answers may be used at the time now.
func (l *lease) valid(now time.Duration) bool { return int64(now) < l.until.Load() }

// extend sets the end of the lease to currentAt plus the staleness bound. The cache must have read every change that was
// committed by currentAt.
func (l *lease) extend(currentAt time.Duration) {
	l.until.Store(int64(currentAt + l.bound))
	l.currentAt.Store(int64(currentAt))
	l.everExtended.Store(true)
}

func (l *lease) end() { l.until.Store(0) }
