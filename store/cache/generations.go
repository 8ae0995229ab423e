package cache

import (
	"sync"
	"sync/atomic"
)

// generations decide whether a cached answer is current. Each change that the cache reads gets the next number. A cached answer
// stores the last number that was given before its load. The answer is outdated when one of its keys has a greater number.
//
// Several keys share a shard, so 128 KiB are enough for any number of keys. The disadvantage is that a change also outdates about
// one unrelated answer in 16,384.
type generations struct {
	last   atomic.Uint64 // number of the last change
	epoch  atomic.Uint64 // number of the last change that may have affected every key
	shards [16384]atomic.Uint64

	changing sync.Mutex // keeps the numbers of a shard ascending
}

// now returns the number of the last change. Call now before a load begins, so that a change that is read during the load
// outdates the result. If a change already has a number but is not yet written to its shards, it was committed before the load
// began. So the load reads the new data.
func (g *generations) now() uint64 { return g.last.Load() }

// changed records a change of the keys.
func (g *generations) changed(keys []Key) {
	g.changing.Lock()
	defer g.changing.Unlock()
	n := g.last.Add(1)
	for _, k := range keys {
		g.shard(k).Store(n)
	}
}

// changedAll records a change that may have affected every key.
func (g *generations) changedAll() {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.epoch.Store(g.last.Add(1))
}

// lastChange returns the number of the last change to any of the keys.
func (g *generations) lastChange(keys []Key) uint64 {
	n := g.epoch.Load()
	for _, k := range keys {
		n = max(n, g.shard(k).Load())
	}
	return n
}

func (g *generations) shard(k Key) *atomic.Uint64 { return &g.shards[uint32(k)%uint32(len(g.shards))] }
