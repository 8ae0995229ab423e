package envoy

import (
	"net"
	"sync"
	"sync/atomic"
)

// listener knows its connections. gRPC waits for one whose client has not said hello, for up to two minutes, even when it is
// told to stop at once.
type listener struct {
	net.Listener

	mu       sync.Mutex
	open     map[*connection]struct{}
	stopping bool
}

type connection struct {
	net.Conn
	listener *listener
	heard    atomic.Bool // the client has sent something
}

func newListener(l net.Listener) *listener {
	return &listener{Listener: l, open: make(map[*connection]struct{})}
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	known := &connection{Conn: c, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[known] = struct{}{}
	if l.stopping {
		_ = c.Close()
	}
	return known, nil
}

// closeSilent closes the connections whose client has sent nothing, and all that are accepted from now on.
func (l *listener) closeSilent() { l.closeThose(func(c *connection) bool { return !c.heard.Load() }) }

// closeAll closes every connection.
func (l *listener) closeAll() { l.closeThose(func(*connection) bool { return true }) }

func (l *listener) closeThose(meant func(*connection) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopping = true
	for c := range l.open {
		if meant(c) {
			_ = c.Conn.Close()
		}
	}
}

func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

func (c *connection) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.open, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
