package cache

import (
	"maps"
	"time"
)

// Stats are for metrics.
type Stats struct {
	// LeaseLeft is for how long the cache may be believed if the log cannot be read any more. 0: it is not believed.
	LeaseLeft time.Duration
	// FeedLag is how long the last reading of the change log took.
	FeedLag time.Duration
	// Changes is how many rows of the change log were read.
	Changes uint64
	// Hints is how many notifications of changes were heard.
	Hints uint64
	// Epochs is how often everything was forgotten, by cause.
	Epochs       map[Cause]uint64
	Good, Denied RoomStats
}

// RoomStats are of the good answers, or of the denials.
type RoomStats struct {
	Entries, Bytes uint64 // up to date or not
	Dropped        uint64 // entries that were not let in: too many at a time, or worth less than what is there
}

// Heard tells how many rows of the change log were read, and how many notifications heard. It costs nothing, unlike Stats.
func (c *Cache) Heard() (changes, hints uint64) { return c.changes.Load(), c.hints.Load() }

// Stats tells how the cache does.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	epochs := maps.Clone(c.epochs)
	c.mu.Unlock()
	changes, hints := c.Heard()
	return Stats{
		LeaseLeft: max(0, time.Duration(c.lease.until.Load())-c.now()),
		FeedLag:   time.Duration(c.lease.lag.Load()),
		Changes:   changes,
		Hints:     hints,
		Epochs:    epochs,
		Good:      c.good.stats(),
		Denied:    c.denied.stats(),
	}
}
