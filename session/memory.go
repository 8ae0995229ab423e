package session

import (
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/keywicket/keywicket/authz"
)

// memory caches verified tokens. An entry stays correct as long as the token's key is trusted, so the memory needs no change
// notifications. A nil memory stores nothing.
type memory struct {
	cache *ristretto.Cache[uint64, *verifiedToken]

	closing sync.RWMutex // guards closed: ristretto panics on a Set after its Close
	closed  bool
}

func newMemory(bytes int64) (*memory, error) {
	const overhead = 320 // bytes of ristretto and the allocator per entry, as measured for package store/cache
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *verifiedToken]{
		NumCounters:        max(1000, 10*bytes/600),
		MaxCost:            bytes,
		BufferItems:        64,
		IgnoreInternalCost: true,
		Cost: func(v *verifiedToken) int64 {
			return int64(unsafe.Sizeof(*v)) + overhead + int64(len(v.key.name.id)+len(v.aal)+len(v.session.ID)+len(v.session.UserID))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("create the cache of sessions: %w", err)
	}
	return &memory{cache: cache}, nil
}

// get returns the verified token of the issuer with exactly this digest. If there is no such token, it returns nil.
func (m *memory) get(i *issuer, d authz.Digest) *verifiedToken {
	if m == nil {
		return nil
	}
	if v, ok := m.cache.Get(slot(i, d)); ok && v.issuer == i && v.digest == d {
		return v
	}
	return nil
}

func (m *memory) set(v *verifiedToken) {
	if m == nil {
		return
	}
	m.closing.RLock()
	defer m.closing.RUnlock()
	if !m.closed {
		m.cache.Set(slot(v.issuer, v.digest), v, 0)
	}
}

func (m *memory) close() {
	m.closing.Lock()
	defer m.closing.Unlock()
	m.closed = true
	m.cache.Close()
}

// slot returns the token's key in the cache: a part of its digest, combined with the issuer's salt. No client can choose this key.
func slot(i *issuer, d authz.Digest) uint64 { return binary.LittleEndian.Uint64(d[:]) ^ i.salt }
