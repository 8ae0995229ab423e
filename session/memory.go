package session

import (
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/keywicket/keywicket/authz"
)

// memory holds verified tokens. An entry stays correct as long as the token's key is trusted, so it needs no change
// notifications. A nil memory stores nothing.
type memory struct {
	room *ristretto.Cache[uint64, *verified]

	closing sync.RWMutex // ristretto panics on a late Set
	closed  bool
}

func newMemory(bytes int64) (*memory, error) {
	const overhead = 320 // of ristretto and the allocator, as store/cache measured it
	room, err := ristretto.NewCache(&ristretto.Config[uint64, *verified]{
		NumCounters:        max(1000, 10*bytes/600),
		MaxCost:            bytes,
		BufferItems:        64,
		IgnoreInternalCost: true,
		Cost: func(v *verified) int64 {
			return int64(unsafe.Sizeof(*v)) + overhead + int64(len(v.key.name.id)+len(v.aal)+len(v.session.ID)+len(v.session.UserID))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make room for sessions: %w", err)
	}
	return &memory{room: room}, nil
}

// get finds the token with exactly this digest, as the issuer has verified it.
func (m *memory) get(i *issuer, d authz.Digest) *verified {
	if m == nil {
		return nil
	}
	if v, ok := m.room.Get(slot(i, d)); ok && v.issuer == i && v.digest == d {
		return v
	}
	return nil
}

func (m *memory) set(v *verified) {
	if m == nil {
		return
	}
	m.closing.RLock()
	defer m.closing.RUnlock()
	if !m.closed {
		m.room.Set(slot(v.issuer, v.digest), v, 0)
	}
}

func (m *memory) close() {
	m.closing.Lock()
	defer m.closing.Unlock()
	m.closed = true
	m.room.Close()
}

// slot is a part of the digest: nobody chooses it.
func slot(i *issuer, d authz.Digest) uint64 { return binary.LittleEndian.Uint64(d[:]) ^ i.salt }
