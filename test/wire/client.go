package wire

import (
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
)

// Reconnecting is a connection that reconnects when the other end has closed it. It retries when no decision was made in time.
type Reconnecting struct {
	dial func() Conn
	Conn
}

// NewReconnecting returns a connection that uses dial.
func NewReconnecting(dial func() Conn) *Reconnecting { return &Reconnecting{dial, dial()} }

// Send implements Conn.
func (l *Reconnecting) Send(t *testing.T, m Request) (s Response) {
	t.Helper()
	for range 4 {
		s = l.Conn.Send(t, m)
		if !s.alive {
			_ = l.Close()
			l.Conn = l.dial()
		}
		if s.Outcome != "503 UNAVAILABLE unavailable" {
			break
		}
	}
	return s
}

// Client sends one request after the other. If the other end has closed the last connection, it opens a new one.
type Client struct {
	Conn
	Stack    *demo.Stack
	Protocol string
	API      string // the API whose listener is used
	Foreign  bool   // the stack's Envoy has another configuration than deploy/envoy
}

func (c *Client) open(t *testing.T) {
	t.Helper()
	c.Conn = Protocols[c.Protocol](t, c.Stack, c.API)
	switch connection := c.Conn.(type) {
	case *HTTP1:
		connection.foreign = c.Foreign
	case *HTTP2:
		connection.foreign = c.Foreign
	}
}

// Expect compares the outcome with the wanted one. An allowed request increases the upstreams' counters by one. Any other
// request does not change them.
func (c *Client) Expect(t *testing.T, what string, m Request, want string) Response {
	t.Helper()
	if c.Conn == nil {
		c.open(t)
	}
	reached := func() int64 { return c.Stack.Live.Count() + c.Stack.Sandbox.Count() }
	before, moved := reached(), int64(0)
	s := c.Conn.Send(t, m)
	// A look-up may take too long on a busy machine.
	for try := 0; s.Status == 503 && !strings.HasPrefix(want, "503") && try < 10; try++ {
		time.Sleep(100 * time.Millisecond)
		s = c.Conn.Send(t, m)
	}
	if s.Outcome != want {
		t.Errorf("%s: %s, not %s", what, s.Outcome, want)
	}
	if c.Protocol != "direct" && (s.Outcome == "allow" || s.Outcome == "200") {
		moved = 1
	}
	if got := reached() - before; got != moved {
		t.Errorf("%s: %s, and %d requests reached an upstream", what, s.Outcome, got)
	}
	if !s.alive {
		c.Hangup()
	}
	return s
}

// Hangup closes the connection, if there is one.
func (c *Client) Hangup() {
	if c.Conn != nil {
		_ = c.Close()
		c.Conn = nil
	}
}
