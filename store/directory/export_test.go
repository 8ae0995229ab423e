package directory

import (
	"context"
	"sync/atomic"
)

// Committed reports whether a transaction that wrote usage was committed.
func (d *Directory) Committed(ctx context.Context, xid int64) (bool, error) {
	b := &batch{xid: new(atomic.Int64)}
	b.xid.Store(xid)
	return d.usage.committed(ctx, b)
}

// Waiting returns the number of look-ups of keys and tokens that wait for a query.
func (d *Directory) Waiting() int {
	n := &d.lookups.tokens
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting.Len()
}
