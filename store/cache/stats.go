package cache

import (
	"maps"
	"time"
)

// Stats are the cache's figures for metrics.
type Stats struct {
	// LeaseLeft is how long cached answers may still be used if there is no further reading of the log. 0 means that cached
	// answers must not be used.
	LeaseLeft time.Duration
	// FeedLag is how long the last reading of the change log took.
	FeedLag time.Duration
	// Changes is the number of rows of the change log that were read.
	Changes uint64
	// Hints is the number of change notifications that were received.
	Hints uint64
	// Discarded counts, for each cause, how often all cached answers were discarded.
	Discarded    map[Cause]uint64
	Good, Denied PartitionStats
}

// PartitionStats are the figures of one partition: the good answers, or the denials.
type PartitionStats struct {
	Entries, Bytes uint64 // both numbers include outdated entries
	Dropped        uint64 // entries that ristretto did not store, because too many came at the same time, or because the stored entries were used more often
}

// ChangeCounts returns how many rows of the change log were read, and how many notifications were received. Unlike Stats, it uses
// no lock.
func (c *Cache) ChangeCounts() (changes, hints uint64) { return c.changes.Load(), c.hints.Load() }

// Stats returns the present figures.
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
