package audit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// relay leads new connections to where it points, and leaves those that it has where they are: as a name in DNS does that is
// changed at a failover. Toxiproxy would cut them.
type relay struct {
	listener net.Listener

	mu     sync.Mutex
	target string
	open   map[net.Conn]bool
	closed bool

	running sync.WaitGroup
}

func newRelay(target string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	r := &relay{listener: l, target: target, open: map[net.Conn]bool{}}
	r.running.Go(r.accept)
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) point(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

func (r *relay) accept() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.lead(c) })
	}
}

func (r *relay) lead(client net.Conn) {
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.Close()
		return
	}
	if !r.hold(client, server) {
		return
	}
	var both sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // the end of either is the end of both
		_, _ = to.Close(), from.Close()
	}
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, client)
	delete(r.open, server)
}

// hold keeps the connections for close, unless that was before.
func (r *relay) hold(connections ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range connections {
		if r.closed {
			_ = c.Close()
		} else {
			r.open[c] = true
		}
	}
	return !r.closed
}

func (r *relay) close() error {
	err := r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		err = errors.Join(err, c.Close())
	}
	r.mu.Unlock()
	r.running.Wait()
	if errors.Is(err, net.ErrClosed) { // a pipe was quicker
		return nil
	}
	return err
}
