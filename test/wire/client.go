package wire

import (
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
)

// Reconnecting is a connection that reconnects when the other end has closed it. If the sidecar did not decide in time,
// Reconnecting sends the request again.
type Reconnecting struct {
	dial func() Conn
	Conn
}

// NewReconnecting returns a connection. It calls the parameter `dial` to connect, and to connect again.
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

// Client sends one request after the other. If the other end has closed the connection, the client opens a new one.
type Client struct {
	Stack     *demo.Stack
	Protocol  string
	API       string // the API whose listener is used
	MeshEnvoy bool   // the stack's Envoy does not have the configuration of deploy/envoy

	conn Conn // nil: not yet opened, or closed
}

func (c *Client) open(t *testing.T) {
	t.Helper()
	c.conn = Protocols[c.Protocol](t, c.Stack, c.API)
	switch connection := c.conn.(type) {
	case *HTTP1:
		connection.plainErrors = c.MeshEnvoy
	case *HTTP2:
		connection.plainErrors = c.MeshEnvoy
	}
}

// Expect sends the request, and compares the outcome with the wanted outcome. It also checks that an allowed request increases
// the number of requests at the upstreams by one, and that other requests do not reach an upstream.
func (c *Client) Expect(t *testing.T, what string, m Request, want string) Response {
	t.Helper()
	if c.conn == nil {
		c.open(t)
	}
	reached := func() int64 { return c.Stack.Live.Count() + c.Stack.Sandbox.Count() }
	before, wantReached := reached(), int64(0)
	s := c.conn.Send(t, m)
	// A look-up may take too long on a busy machine.
	for try := 0; s.Status == 503 && !strings.HasPrefix(want, "503") && try < 10; try++ {
		time.Sleep(100 * time.Millisecond)
		s = c.conn.Send(t, m)
	}
	if s.Outcome != want {
		t.Errorf("%s: %s, not %s", what, s.Outcome, want)
	}
	if c.Protocol != "direct" && (s.Outcome == "allow" || s.Outcome == "200") {
		wantReached = 1
	}
	if got := reached() - before; got != wantReached {
		t.Errorf("%s: %s, and %d requests reached an upstream", what, s.Outcome, got)
	}
	if !s.alive {
		c.Close()
	}
	return s
}

// Close closes the connection, if there is one.
func (c *Client) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
