package audit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// relay forwards new connections to its current target, and keeps existing connections at the former target. So the relay
// behaves like a DNS name that changes at a failover. Toxiproxy would cut the existing connections.
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

func (r *relay) setTarget(target string) {
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
		r.running.Go(func() { r.forward(c) })
	}
}

func (r *relay) forward(client net.Conn) {
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.Close()
		return
	}
	if !r.register(client, server) {
		return
	}
	var pipes sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // if one side ends, both are closed
		_, _ = to.Close(), from.Close()
	}
	pipes.Go(func() { pipe(server, client) })
	pipes.Go(func() { pipe(client, server) })
	pipes.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, client)
	delete(r.open, server)
}

// register stores the connections so that close can close them. If the relay is already closed, register closes the connections
// and returns false.
func (r *relay) register(connections ...net.Conn) bool {
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
	if errors.Is(err, net.ErrClosed) { // a pipe has already closed the connection
		return nil
	}
	return err
}
