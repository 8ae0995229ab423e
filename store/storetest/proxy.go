package storetest

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy forwards bytes between a client and the database server. It can inject faults.
type Proxy struct {
	listener net.Listener
	target   atomic.Pointer[string] // host and port

	mu      sync.Mutex
	clients map[net.Conn]Fault
	faults  int // number of reads that had a fault

	newFault Fault // the fault of new connections
	accepted int
}

// Fault says what a proxy does with the bytes of a connection.
type Fault int

// The possible faults.
const (
	NoFault Fault = iota
	Reset         // closes the connection with a TCP reset
	Silence       // drops the bytes
	Delay         // forwards the bytes 30 ms later
)

// NewProxy returns a proxy to the server of the URL. The proxy stops when the test ends.
func NewProxy(t *testing.T, databaseURL string) *Proxy {
	t.Helper()
	l := Must(net.Listen("tcp", "127.0.0.1:0"))
	p := &Proxy{listener: l, clients: map[net.Conn]Fault{}}
	p.Redirect(databaseURL)
	t.Cleanup(p.close)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.clients[client] = p.newFault
			p.accepted++
			p.mu.Unlock()
			go p.serve(client)
		}
	}()
	return p
}

// URL returns the database URL with the proxy's address.
func (p *Proxy) URL(databaseURL string) string {
	u := Must(url.Parse(databaseURL))
	u.Host = p.listener.Addr().String()
	return u.String()
}

// Redirect forwards new connections to the server of the URL.
func (p *Proxy) Redirect(databaseURL string) {
	host := Must(url.Parse(databaseURL)).Host
	p.target.Store(&host)
}

func (p *Proxy) serve(client net.Conn) {
	upstream, err := net.Dial("tcp", *p.target.Load())
	if err != nil {
		_ = client.Close()
		return
	}
	defer func() { _ = upstream.Close() }()
	go func() {
		p.copyBytes(client, client, upstream)
		_ = client.Close()
	}()
	p.copyBytes(client, upstream, client)
}

func (p *Proxy) copyBytes(client, to, from net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		switch p.fault(client) {
		case Reset:
			_ = client.(*net.TCPConn).SetLinger(0)
			_ = client.Close()
			return
		case Silence:
			continue
		case Delay:
			time.Sleep(30 * time.Millisecond)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// close closes all connections, and the proxy accepts no more connections.
func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		_ = client.Close()
	}
}

func (p *Proxy) fault(client net.Conn) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients[client] != NoFault {
		p.faults++
	}
	return p.clients[client]
}

// FaultOnAllConnections injects the fault into all connections: those that are open now, and later ones.
func (p *Proxy) FaultOnAllConnections(f Fault) {
	p.mu.Lock()
	p.newFault = f
	p.mu.Unlock()
	p.FaultOnOpenConnections(f)
}

// Connections returns how many connections were accepted.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// FaultOnOpenConnections injects the fault into the connections that are open now. Later connections have no fault.
func (p *Proxy) FaultOnOpenConnections(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client := range p.clients {
		p.clients[client] = f
	}
}

// Faults returns how many reads had a fault.
func (p *Proxy) Faults() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}
