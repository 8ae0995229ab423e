package envoy

import (
	"net"
	"sync"
	"sync/atomic"
)

// listener tracks its connections, so that it can close them when the server stops. gRPC waits up to two minutes for a connection
// whose client has not completed the handshake, even after a call of Stop.
type listener struct {
	net.Listener

	mu       sync.Mutex
	open     map[*connection]struct{}
	stopping bool
}

type connection struct {
	net.Conn
	listener *listener
	received atomic.Bool // the client has sent data
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
	tracked := &connection{Conn: c, listener: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[tracked] = struct{}{}
	if l.stopping {
		_ = c.Close()
	}
	return tracked, nil
}

// closeUnused closes connections whose client has sent no data. It also closes all connections that are accepted later.
func (l *listener) closeUnused() {
	l.closeMatching(func(c *connection) bool { return !c.received.Load() })
}

// closeAll closes all connections, including connections that are accepted later.
func (l *listener) closeAll() { l.closeMatching(func(*connection) bool { return true }) }

func (l *listener) closeMatching(matches func(*connection) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopping = true
	for c := range l.open {
		if matches(c) {
			_ = c.Conn.Close()
		}
	}
}

func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.received.Load() {
		c.received.Store(true)
	}
	return n, err
}

func (c *connection) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.open, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}
