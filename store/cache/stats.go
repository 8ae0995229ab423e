package cache

import (
	"maps"
	"time"
)

// Stats contains the numbers of a cache for its metrics.
type Stats struct {
	// LeaseLeft is the time for which cached answers may be used if the log is not read again. If it is 0, cached answers must
	// not be used.
	LeaseLeft time.Duration
	// FeedLag is the duration of the last reading of the change log.
	FeedLag time.Duration
	// Changes is the number of rows of the change log that the cache has read.
	Changes uint64
	// Hints is the number of change notifications that the cache has received.
	Hints uint64
	// Discarded contains, for each cause, how often all cached answers were discarded.
	Discarded    map[Cause]uint64
	Good, Denied PartitionStats
}

// PartitionStats contains the numbers of one partition: the good answers, or the denials.
type PartitionStats struct {
	Entries, Bytes uint64 // both numbers include outdated entries
	Dropped        uint64 // number of entries that ristretto did not store, because too many entries arrived at the same time, or because other entries were used more often
}

// ChangeCounts returns how many rows of the change log the cache has read, and how many notifications it has received. Unlike
// Stats, ChangeCounts uses no lock.
func (c *Cache) ChangeCounts() (changes, hints uint64) { return c.changes.Load(), c.hints.Load() }

// Stats returns the present numbers.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	epochs := maps.Clone(c.epochs)
	c.mu.Unlock()
	changes, hints := c.ChangeCounts()
	return Stats{
		LeaseLeft: max(0, time.Duration(c.lease.until.Load())-c.now()),
		FeedLag:   time.Duration(c.lease.lag.Load()),
		Changes:   changes,
		Hints:     hints,
		Discarded: epochs,
		Good:      c.good.stats(),
		Denied:    c.denied.stats(),
	}
}
