package cache

import (
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
)

// room is a ristretto. It is trusted with nothing but memory: it may drop what is set, and return what was overwritten. It
// counts for itself: ristretto's own metrics take 50 bytes more of memory for each entry.
type room struct {
	entries *ristretto.Cache[uint64, *entry]
	held    atomic.Int64 // entries that were set, and have not left
	dropped atomic.Uint64
}

func (r *room) open(bytes int64) (err error) {
	// Two counters for an entry of usual size. ristretto's advice is ten; a sidecar at rest would take 10 MiB more.
	const counted = 200 // bytes
	r.entries, err = ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters:        max(1000, bytes/counted),
		MaxCost:            bytes,
		BufferItems:        64,
		IgnoreInternalCost: true, // it is in entry.cost
		Cost:               (*entry).cost,
		OnExit: func(e *entry) {
			if e != nil {
				e.leave()
				r.held.Add(-1)
			}
		},
		OnReject: func(item *ristretto.Item[*entry]) {
			if _, there := r.entries.Get(item.Key); !there { // otherwise it came twice, and was let in once
				r.dropped.Add(1)
			}
		},
	})
	return err
}

func (r *room) add(hash uint64, e *entry) {
	r.held.Add(1) // first: the entry may leave before Set returns
	if !r.entries.Set(hash, e, 0) {
		e.leave()
		r.held.Add(-1)
		r.dropped.Add(1)
	}
}

func (r *room) stats() RoomStats {
	return RoomStats{
		Entries: uint64(max(0, r.held.Load())),                           //nolint:gosec // not negative
		Bytes:   uint64(r.entries.MaxCost() - r.entries.RemainingCost()), //nolint:gosec // likewise
		Dropped: r.dropped.Load(),
	}
}
