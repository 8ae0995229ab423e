package cache

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

// lease is the time for which the cache may be believed. All times are on the process's monotonic clock.
type lease struct {
	bound time.Duration
	until atomic.Int64 // end of the lease; 0 while it was taken away
	known atomic.Int64 // until when everything is known that was committed: the sending of the last nonce that was heard

	mu        sync.Mutex
	connected bool
	sent      map[string]time.Duration // nonces that have not come back, and when they were sent
	lag       atomic.Int64             // of the last nonce that came back
	ever      atomic.Bool
}

func (l *lease) held(now time.Duration) bool { return int64(now) < l.until.Load() }

// begin is called when the feed is listening. A nonce that is heard on a connection counts only if it was sent after this
// was called for that connection: by then everything that was remembered before has been forgotten.
func (l *lease) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connected = true
	clear(l.sent)
}

// end takes the lease away, and what nonces are under way with it.
func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connected = false
	clear(l.sent)
	l.until.Store(0)
}

// send makes a nonce. It has to be sent after this returns, or the lease would count from too late.
func (l *lease) send(now time.Duration) (nonce string) {
	nonce = rand.Text()
	l.mu.Lock()
	defer l.mu.Unlock()
	for old, at := range l.sent {
		if now-at >= l.bound {
			delete(l.sent, old)
		}
	}
	if l.connected {
		l.sent[nonce] = now
	}
	return nonce
}

// heard extends the lease: whatever was committed before the nonce was sent has been told before it.
func (l *lease) heard(nonce string, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.sent[nonce]
	if !ok {
		return
	}
	delete(l.sent, nonce)
	l.lag.Store(int64(now - at))
	l.until.Store(max(l.until.Load(), int64(at+l.bound)))
	l.known.Store(max(l.known.Load(), int64(at)))
	l.ever.Store(true)
}
