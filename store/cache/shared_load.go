package cache

import (
	"fmt"
	"sync"

	"github.com/keywicket/keywicket/authz"
)

// sharedLoads are the loads in progress. The package singleflight is not suitable, because the caller that starts a load may run
// the load in its own goroutine, while other callers can stop waiting.
type sharedLoads struct {
	mu      sync.Mutex
	running map[loadKey]*sharedLoad
}

// loadKey identifies a load that callers may share.
type loadKey struct {
	// changed is the number of the last change of the look-up's keys. Because of changed, a caller does not join a load that
	// began before the cache read this change.
	changed uint64
	lookup  authz.Lookup
}

// sharedLoad is one load for one or more callers.
type sharedLoad struct {
	ended chan struct{} // closed when the load has ended, and entry or err is set
	entry *entry
	err   error
}

// join returns the load for the key. If no such load is running, join creates the load and returns true. In this case, the caller
// must call the method run.
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

// run runs the load for the caller that started it and for all callers that have joined it. If the load panics, all of these
// callers get an error.
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
