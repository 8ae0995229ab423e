package cache

import (
	"time"

	"github.com/keywicket/keywicket/authz"
)

// Collide gives all look-ups the same hash.
func (c *Cache) Collide() { c.hash = func(authz.Lookup) uint64 { return 0 } }

// NewPoll returns a poll for the simple cache in variants_test.go.
func NewPoll(since string, number uint64, sent time.Duration) Poll {
	return Poll{PreviousSnapshot: since, number: number, sent: sent}
}

// Number returns the poll's number.
func (p Poll) Number() uint64 { return p.number }

// Sent returns the time at which the poll began.
func (p Poll) Sent() time.Duration { return p.sent }
