package cache

import (
	"sync/atomic"
	"time"
)

// lease is the time for which memory may be believed. All times are on the process's monotonic clock.
//
// A transaction is visible before its COMMIT is answered. So a reading of the change log that was sent at t has seen every
// change whose COMMIT was answered by t, if the log had all of them. That was verified some time before: the lease counts
// from then. When the reply arrives does not matter.
type lease struct {
	bound time.Duration
	until atomic.Int64 // end of the lease
	known atomic.Int64 // everything that was committed by then is known
	lag   atomic.Int64 // of the last reading
	ever  atomic.Bool
}

func (l *lease) held(now time.Duration) bool { return int64(now) < l.until.Load() }

func (l *lease) extend(known time.Duration) {
	l.until.Store(int64(known + l.bound))
	l.known.Store(int64(known))
	l.ever.Store(true)
}

func (l *lease) end() { l.until.Store(0) }
