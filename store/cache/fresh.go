package cache

import (
	"context"
	"errors"
	"time"

	"github.com/keywicket/keywicket/authz"
)

// This file decides which cached entry may answer, and until when.

// freshEntry returns the entry that may answer while the lease is valid, or nil. No answer may be used for longer than
// Config.MaxAge. This also applies to the answer that a token is unknown.
func (c *Cache) freshEntry(l authz.Lookup, now time.Duration) *entry {
	if e := c.latest(l); e != nil && now-e.loaded < c.config.MaxAge && now < e.expires {
		return e
	}
	return nil
}

// staleEntry returns an entry that the setting stale_if_error permits while the database is unreachable, or nil.
func (c *Cache) staleEntry(ctx context.Context, l authz.Lookup) *entry {
	if c.config.StaleIfError == 0 || errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	e, now := c.latest(l), c.now()
	if e == nil || now >= e.expires {
		return nil
	}
	lastCurrent := max(e.loaded, time.Duration(c.lease.currentAt.Load()))
	if now-lastCurrent >= c.config.StaleIfError || now-e.loaded >= c.config.MaxAge+c.config.StaleIfError {
		return nil
	}
	return e
}

// latest returns the entry for the look-up that was loaded last and is not outdated, or nil. The cache may contain two entries
// for the credential of a user. For example, the first look-up stored the credential as valid for one workspace. Then a look-up
// for another workspace stored a denial. So latest compares the load times of the two entries.
func (c *Cache) latest(l authz.Lookup) *entry {
	anywhere := l
	anywhere.Workspace = authz.WorkspaceRef{}
	hash := c.hash(anywhere)
	// The entry of a denial, or of a credential of a workspace, does not contain the requested workspace.
	e := c.get(&c.good, hash, anywhere)
	if l != anywhere && (e == nil || e.ofUser) {
		e = c.get(&c.good, c.hash(l), l)
	}
	if e != nil && int64(e.loaded) > c.denialTime(hash).Load() {
		return e
	}
	// The method get also searches in recent, so it can return an entry that is not a denial.
	if denial := c.get(&c.denied, hash, anywhere); denial != nil && denial.denied() && (e == nil || denial.loaded >= e.loaded) {
		return denial
	}
	return e
}

func (c *Cache) get(p *partition, hash uint64, l authz.Lookup) *entry {
	if e, ok := p.entries.Get(hash); ok && c.isCurrent(e, l) {
		return e
	}
	if e := c.recentSlot(hash).Load(); e != nil && c.isCurrent(e, l) {
		return e
	}
	return nil
}

// isCurrent reports whether the entry is for the look-up and not outdated.
func (c *Cache) isCurrent(e *entry, l authz.Lookup) bool {
	return e.answers(l) && !e.outdated(&c.generations)
}
