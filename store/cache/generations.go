package cache

import (
	"sync"
	"sync/atomic"
)

// generations decide whether a cached answer is current. The changes that the cache reads are numbered, and each key has the
// number of its last change. An entry stores the last number from before its load. The entry is outdated if one of its keys has a
// greater number.
//
// Several keys share a shard, so 128 KiB are enough for any number of keys. The disadvantage is that a change of a key also
// outdates about one of 16,384 unrelated answers.
type generations struct {
	last   atomic.Uint64 // number of the last change
	epoch  atomic.Uint64 // number of the last change that may have affected every key
	shards [16384]atomic.Uint64

	mu sync.Mutex // ensures that the number of a shard only increases
}

// lastNumber returns the number of the last change. Call it before a load, so that a change that is read during the load outdates
// the result. If a change has its number, but is not yet written to its shards, it was committed before the load. So the load
// reads the new data.
func (g *generations) lastNumber() uint64 { return g.last.Load() }

// recordChange records a change of the keys.
func (g *generations) recordChange(keys []DependencyKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.last.Add(1)
	for _, k := range keys {
		g.shard(k).Store(n)
	}
}

// recordChangeOfAll records a change that may have affected every key.
func (g *generations) recordChangeOfAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.epoch.Store(g.last.Add(1))
}

// lastChange returns the number of the last change to any of the keys.
func (g *generations) lastChange(keys []DependencyKey) uint64 {
	n := g.epoch.Load()
	for _, k := range keys {
		n = max(n, g.shard(k).Load())
	}
	return n
}

func (g *generations) shard(k DependencyKey) *atomic.Uint64 {
	return &g.shards[uint32(k)%uint32(len(g.shards))]
}
