package harness

import (
	"encoding/json"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
)

// Client sends requests through the Envoy of a stack. It reuses its connections.
type Client struct {
	http   http.Client
	stack  *demo.Stack
	opened atomic.Int64
}

// NewClient returns a client that opens at most the given number of connections to each listener.
func NewClient(t testing.TB, s *demo.Stack, connections int) *Client {
	transport := &http.Transport{MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections}
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{stack: s, http: http.Client{Transport: transport, Timeout: 30 * time.Second}}
}

// OpenedConnections returns how many connections the client has opened.
func (c *Client) OpenedConnections() int64 { return c.opened.Load() }

// Send sends the request. It does not change the case of header names, because one test checks that the case makes no
// difference.
func (c *Client) Send(t testing.TB, r Request) Response {
	t.Helper()
	base := c.stack.VelaFlows
	if r.API == "velocity" {
		base = c.stack.Velocity
	}
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(conn httptrace.GotConnInfo) {
		if !conn.Reused {
			c.opened.Add(1)
		}
	}})
	q, err := http.NewRequestWithContext(ctx, r.Method, base+r.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.Header {
		q.Header[h[0]] = append(q.Header[h[0]], h[1])
	}
	reply := do(t, &c.http, q)
	a := Response{Status: reply.Status, Header: reply.Header, Body: reply.Body, Outcome: "allow"}
	if a.Status == http.StatusOK {
		if err := json.Unmarshal([]byte(a.Body), &a.Echo); err != nil {
			t.Fatalf("%s %s: %v in %s", r.Method, r.Path, err, a.Body)
		}
		return a
	}
	var body struct {
		Error struct {
			Code, Reason   string
			RequiredScopes []string `json:"required_scopes"`
		}
	}
	if err := json.Unmarshal([]byte(a.Body), &body); err != nil {
		t.Fatalf("%s %s: %v in %s", r.Method, r.Path, err, a.Body)
	}
	a.Outcome, a.RequiredScopes = body.Error.Code+" "+body.Error.Reason, body.Error.RequiredScopes
	return a
}

// SendWithRetry sends the request, and retries if the status is 503. On a busy machine a look-up may exceed its time limit, and
// 503 is then a correct answer. unavailable is the number of 503 answers that led to a retry.
func (c *Client) SendWithRetry(t testing.TB, r Request) (a Response, unavailable int64) {
	t.Helper()
	for a = c.Send(t, r); a.Status == http.StatusServiceUnavailable && unavailable < 3; unavailable++ {
		a = c.Send(t, r)
	}
	return a, unavailable
}

// Expect sends the request. It fails the test if the response differs from the documented response for the outcome.
func (c *Client) Expect(t testing.TB, r Request, outcome string, required ...string) Response {
	t.Helper()
	a := c.Send(t, r)
	if err := a.HasOutcome(outcome, required...); err != nil {
		t.Errorf("%s %s: %v", r.Method, r.Path, err)
	}
	return a
}

// Get sends a GET request to the address, which need not be an address of the stack. It uses the client's connections.
func (c *Client) Get(t testing.TB, address string) Reply {
	t.Helper()
	return Get(t, &c.http, address)
}
