package store_test

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy forwards bytes between a directory and the server, or injects a fault.
type proxy struct {
	listener net.Listener
	to       atomic.Pointer[string] // host and port

	mu      sync.Mutex
	clients map[net.Conn]fault
	met     int // number of reads that had a fault

	from     fault // the fault of connections that are opened from now on
	accepted int
}

type fault int

const (
	none fault = iota
	reset
	silence
	delay // of 30 ms
)

func newProxy(t *testing.T, databaseURL string) *proxy {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	p := &proxy{listener: l, clients: map[net.Conn]fault{}}
	p.redirect(databaseURL)
	t.Cleanup(p.cut)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.clients[client] = p.from
			p.accepted++
			p.mu.Unlock()
			go p.serve(client)
		}
	}()
	return p
}

func (p *proxy) through(databaseURL string) string {
	u := must(url.Parse(databaseURL))
	u.Host = p.listener.Addr().String()
	return u.String()
}

// redirect connects new connections to the server of the URL.
func (p *proxy) redirect(databaseURL string) {
	host := must(url.Parse(databaseURL)).Host
	p.to.Store(&host)
}

func (p *proxy) serve(client net.Conn) {
	upstream, err := net.Dial("tcp", *p.to.Load())
	if err != nil {
		_ = client.Close()
		return
	}
	defer func() { _ = upstream.Close() }()
	go func() {
		p.pass(client, client, upstream)
		_ = client.Close()
	}()
	p.pass(client, upstream, client)
}

func (p *proxy) pass(client, to, from net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		switch p.fault(client) {
		case reset:
			_ = client.(*net.TCPConn).SetLinger(0)
			_ = client.Close()
			return
		case silence:
			continue
		case delay:
			time.Sleep(30 * time.Millisecond)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// cut closes all connections, and accepts no more.
func (p *proxy) cut() {
	_ = p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		_ = client.Close()
	}
}

func (p *proxy) fault(client net.Conn) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients[client] != none {
		p.met++
	}
	return p.clients[client]
}

// onEveryByte injects the fault into all connections, also into those that are opened later.
func (p *proxy) onEveryByte(f fault) {
	p.mu.Lock()
	p.from = f
	p.mu.Unlock()
	p.onNextByte(f)
}

// connections returns how many connections were accepted.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// onNextByte injects the fault into the connections that are open now. Later ones work.
func (p *proxy) onNextByte(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		p.clients[client] = f
	}
}

func (p *proxy) faults() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}
