package cache

// Cause is why everything was forgotten.
type Cause string

// The causes. The feed's connection is new, or a notice speaks of everything.
const (
	CauseStart     Cause = "start"
	CauseReconnect Cause = "reconnect"
	CauseNotice    Cause = "notice"
)

// The methods below are for the change feed. None of them waits for anything.

// Changed is told for each notice.
func (c *Cache) Changed(keys []Key) {
	c.generations.changed(keys)
	c.changes.Add(1)
}

// ChangedAll is told for a notice that speaks of everything.
func (c *Cache) ChangedAll() {
	c.forget(CauseNotice)
	c.changes.Add(1)
}

// Connected is told when the feed is listening on a new connection, from which on no notice is lost.
func (c *Cache) Connected(cause Cause) {
	c.lease.end()
	c.forget(cause)
	c.lease.begin()
}

// Disconnected is told when the feed's connection has ended.
func (c *Cache) Disconnected() { c.lease.end() }

// Nonce is to be sent through the database, after it was asked for and over another connection than the feed's.
func (c *Cache) Nonce() string { return c.lease.send(c.now()) }

// Heard is told when a nonce comes back on the feed, in its place among the notices.
func (c *Cache) Heard(nonce string) { c.lease.heard(nonce, c.now()) }

func (c *Cache) forget(cause Cause) {
	c.generations.changedAll()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epochs[cause]++
}

// Heart tells whether the feed was ever heard, and whether it is now.
func (c *Cache) Heart() (ever, now bool) { return c.lease.ever.Load(), c.lease.held(c.now()) }
