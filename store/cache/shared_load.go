package cache

import (
	"fmt"
	"sync"

	"github.com/keywicket/keywicket/authz"
)

// sharedLoads are the loads in progress. The package singleflight does not fit here: the caller that starts a load may run the
// load in its own goroutine, while other callers can stop waiting.
type sharedLoads struct {
	mu      sync.Mutex
	running map[loadKey]*sharedLoad
}

// loadKey identifies a load that callers may share.
type loadKey struct {
	// changed is the number of the last change of the look-up's keys. Because of this number, a caller does not join a load that
	// began before the cache has read this change.
	changed uint64
	lookup  authz.Lookup
}

// sharedLoad is one load for one or more callers.
type sharedLoad struct {
	ended chan struct{} // closed when entry or err is set
	entry *entry
	err   error
}

// join returns the load for the key. If no such load is running, join creates the load, started is true, and the caller must run
// it.
func (s *sharedLoads) join(k loadKey) (load *sharedLoad, started bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if load := s.running[k]; load != nil {
		return load, false
	}
	load = &sharedLoad{ended: make(chan struct{})}
	s.running[k] = load
	return load, true
}

// run runs the load for the caller and for all callers that join. A panic becomes an error for all of them.
func (s *sharedLoads) run(k loadKey, l *sharedLoad, load func() (*entry, error)) {
	defer func() {
		if p := recover(); p != nil {
			l.err = fmt.Errorf("panic: %v", p)
		}
		s.mu.Lock()
		delete(s.running, k)
		s.mu.Unlock()
		close(l.ended)
	}()
	l.entry, l.err = load()
}
