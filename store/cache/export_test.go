package cache

import "github.com/keywicket/keywicket/authz"

// Collide gives all look-ups the same hash.
func (c *Cache) Collide() { c.hash = func(authz.Lookup) uint64 { return 0 } }
