package session

import (
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/keywicket/keywicket/authz"
)

// memory caches verified tokens. An entry is correct as long as the verifier trusts the token's key, so memory needs no
// notifications of changes. A nil memory stores nothing.
type memory struct {
	cache *ristretto.Cache[uint64, *verifiedToken]

	closing sync.RWMutex // protects closed: ristretto panics if Set is called after its Close
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

// get returns the verified token with exactly this digest, if the same issuer verified it. If there is no such token, get returns
// nil.
func (m *memory) get(i *issuerVerifier, d authz.Digest) *verifiedToken {
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

// slot returns the key of a token in the cache: a part of its digest, combined with the salt of the issuer. No client can choose
// this key, because the salt is random.
func slot(i *issuerVerifier, d authz.Digest) uint64 { return binary.LittleEndian.Uint64(d[:]) ^ i.salt }
