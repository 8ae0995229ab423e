package cache

import (
	"sync/atomic"

	"github.com/dgraph-io/ristretto/v2"
)

// partition is a ristretto cache with its own limit in bytes. Answers are correct even if ristretto drops a stored entry, or
// returns an entry that was overwritten. partition counts the entries itself, because the metrics of ristretto would use 50 bytes
// more for each entry.
type partition struct {
	entries *ristretto.Cache[uint64, *entry]
	count   atomic.Int64 // entries that were set and are still stored
	dropped atomic.Uint64
}

func (p *partition) open(bytes int64) (err error) {
	// There is one counter for each 200 bytes. ristretto recommends ten counters for each entry, but these would use 10 MiB more
	// in an idle sidecar.
	const typical = 200 // size in bytes for which there is one counter
	p.entries, err = ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters:        max(1000, bytes/typical),
		MaxCost:            bytes,
		BufferItems:        64,
		IgnoreInternalCost: true, // entry.cost includes the internal cost
		Cost:               (*entry).cost,
		OnExit: func(e *entry) {
			if e != nil {
				e.release()
				p.count.Add(-1)
			}
		},
		OnReject: func(item *ristretto.Item[*entry]) {
			// If ristretto has an entry for the key, two goroutines have stored an answer to the same look-up, and ristretto has
			// kept one of them. In this case, no answer was dropped.
			if _, stored := p.entries.Get(item.Key); !stored {
				p.dropped.Add(1)
			}
		},
	})
	return err
}

func (p *partition) add(hash uint64, e *entry) {
	p.count.Add(1) // before Set, because OnExit may run before Set returns
	if !p.entries.Set(hash, e, 0) {
		e.release()
		p.count.Add(-1)
		p.dropped.Add(1)
	}
}

func (p *partition) stats() PartitionStats {
	return PartitionStats{
		Entries: uint64(max(0, p.count.Load())),                          //nolint:gosec // not negative
		Bytes:   uint64(p.entries.MaxCost() - p.entries.RemainingCost()), //nolint:gosec // not negative
		Dropped: p.dropped.Load(),
	}
}
