package cache

import (
	"fmt"
	"sync"

	"github.com/keywicket/keywicket/authz"
)

// flights are the loads under way. It differs from singleflight: whoever begins a load may run it in their own goroutine, while
// others who wait for it can leave.
type flights struct {
	mu       sync.Mutex
	underway map[question]*flight
}

// question is what a load answers.
type question struct {
	// changed is the generation of what the look-up names, so that nobody joins a load that began before a change that they
	// know of.
	changed uint64
	lookup  authz.Lookup
}

// flight is one load.
type flight struct {
	ended chan struct{} // closed when entry or err is set
	entry *entry
	err   error
}

// join returns the load of the question. If none is under way, begun is true, and the caller must run it.
func (s *flights) join(q question) (f *flight, begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.underway[q]; f != nil {
		return f, false
	}
	f = &flight{ended: make(chan struct{})}
	s.underway[q] = f
	return f, true
}

// run runs the load, for the caller and all who join. A panic becomes an error for all of them.
func (s *flights) run(q question, f *flight, load func() (*entry, error)) {
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("panic: %v", p)
		}
		s.mu.Lock()
		delete(s.underway, q)
		s.mu.Unlock()
		close(f.ended)
	}()
	f.entry, f.err = load()
}
