package cache

import (
	"sync"
	"sync/atomic"
)

// generations tell whether an answer may still be true. Every change that is told gets the next number; an answer is
// marked with the number of before it was loaded, and is out of date once one of its keys has a greater one.
//
// Keys share shards: 128 KiB serve any number of them, and a change makes one answer in 16,384 out of date that it did
// not mean.
type generations struct {
	last   atomic.Uint64 // number of the last change
	epoch  atomic.Uint64 // of the last one that may have changed anything
	shards [16384]atomic.Uint64

	changing sync.Mutex // numbers reach a shard in their order
}

// now is to be asked before a load begins: a change that is told meanwhile then counts against what it loads. One whose
// number is out and whose shards are not yet written was committed before, so that the load sees it.
func (g *generations) now() uint64 { return g.last.Load() }

func (g *generations) changed(keys []Key) {
	g.changing.Lock()
	defer g.changing.Unlock()
	n := g.last.Add(1)
	for _, k := range keys {
		g.shard(k).Store(n)
	}
}

func (g *generations) changedAll() {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.epoch.Store(g.last.Add(1))
}

// of is the number of the last change to any of the keys.
func (g *generations) of(keys []Key) uint64 {
	n := g.epoch.Load()
	for _, k := range keys {
		n = max(n, g.shard(k).Load())
	}
	return n
}

func (g *generations) shard(k Key) *atomic.Uint64 { return &g.shards[uint32(k)%uint32(len(g.shards))] }
