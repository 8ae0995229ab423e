package cache

import (
	"sync"
	"sync/atomic"
)

// generations decide whether a cached answer is current. The cache numbers the changes that it reads, and stores for each key the
// number of the last change. An entry stores the number of the last change at the beginning of its load. The entry is outdated if
// one of its keys has a greater number.
//
// Several keys share a shard, so 128 KiB are sufficient for any number of keys. But because of this, a change of a key also makes
// about one of 16,384 unrelated answers outdated.
type generations struct {
	last   atomic.Uint64 // number of the last change
	epoch  atomic.Uint64 // number of the last change that may have affected every key
	shards [16384]atomic.Uint64

	mu sync.Mutex // ensures that the number of a shard only increases
}

// lastNumber returns the number of the last change. Call lastNumber before a load, so that a change during the load makes the
// result outdated. recordChange may not yet have written this number to the shards. Such a change was committed before the load,
// so the load reads the new data.
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
