package cache

import (
	"time"

	"github.com/keywicket/keywicket/authz"
)

// Collide gives all look-ups the same hash.
func (c *Cache) Collide() { c.hash = func(authz.Lookup) uint64 { return 0 } }

// NewPoll makes a poll of another cache than this.
func NewPoll(since string, number uint64, sent time.Duration) Poll {
	return Poll{Since: since, number: number, sent: sent}
}

// Number is which poll this is.
func (p Poll) Number() uint64 { return p.number }

// Sent is when the poll was made.
func (p Poll) Sent() time.Duration { return p.sent }
