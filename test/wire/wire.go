// Package wire sends requests of tests unchanged to a running stack. A client library corrects hostile requests before it
// sends them. So this package writes the bytes itself: HTTP/1.1 by hand, HTTP/2 frame by frame, and the CheckRequest of a
// policy enforcement point (PEP) that does not normalise paths.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/upstream"
)

// HTTPProtocols are the names of the protocols of Envoy's listeners.
var HTTPProtocols = []string{"HTTP/1.1", "HTTP/2"}

// Request is a request, independent of the protocol.
type Request struct {
	API      string // velaflows or velocity; empty is velaflows
	Method   string // empty is GET
	Target   string // request target of HTTP/1.1, :path of HTTP/2, path of a check
	Host     string // "-": none
	Protocol string // :protocol of an extended CONNECT request
	Header   [][2]string
	Body     string
	Trailer  [][2]string
}

// Response is the result of a request.
type Response struct {
	// Outcome is "allow", "403 FORBIDDEN no_route" or "grpc 16", for example. Without an answer, the outcome is "closed" (the
	// connection was closed), "reset" (the stream was reset), or, for a direct check, "rpc Unavailable". If an Envoy without
	// the configuration of deploy/envoy answers itself, the outcome is the status: "404". For a redirect, the address follows:
	// "307 /a".
	Outcome string
	Status  int
	Header  http.Header
	Body    []byte
	// Echo describes an allowed request as the upstream received it. For a direct check, Echo has only the headers, with the
	// changes that the answer requests of Envoy.
	Echo  upstream.Echo
	alive bool // the connection can send another request
}

// Conn sends requests, one after the other.
type Conn interface {
	Send(t *testing.T, m Request) Response
	Close() error
}

// Protocols are the ways to reach a sidecar: the listeners of its Envoy, and its own port.
var Protocols = map[string]func(t *testing.T, s *demo.Stack, api string) Conn{
	"HTTP/1.1": func(t *testing.T, s *demo.Stack, api string) Conn {
		return NewHTTP1(Dial(t, Address(s, api)))
	},
	"HTTP/2": func(t *testing.T, s *demo.Stack, api string) Conn { return DialHTTP2(t, Address(s, api)) },
	"direct": func(t *testing.T, s *demo.Stack, _ string) Conn {
		c, err := grpc.NewClient(s.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		return Direct{c}
	},
}

// Address returns the address of the API's listener.
func Address(s *demo.Stack, api string) (address string) {
	return strings.TrimPrefix(map[string]string{"velaflows": s.VelaFlows, "velocity": s.Velocity}[api], "http://")
}

// Dial connects to an address. The connection has a deadline.
func Dial(t *testing.T, address string) net.Conn {
	t.Helper()
	const timeout = 20 * time.Second
	c, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	return c
}

// read sets the outcome from an HTTP answer. Every error must have the product's format. If the parameter `plainErrors` is true,
// Envoy's own errors may have another format.
func (s *Response) read(t *testing.T, plainErrors bool) {
	t.Helper()
	if code := s.Header.Get("grpc-status"); code != "" {
		s.Outcome = "grpc " + code
		return
	}
	if plainErrors && s.Header.Get("Content-Type") != "application/json" {
		s.Outcome = strings.TrimSpace(fmt.Sprint(s.Status, " ", s.Header.Get("Location")))
		return
	}
	if s.Status == http.StatusOK {
		s.Outcome = "allow"
		if err := json.Unmarshal(s.Body, &s.Echo); err != nil || s.Echo.Upstream == "" {
			t.Errorf("200, but not from the upstream: %v in %s", err, s.Body)
		}
		return
	}
	var body struct {
		Error struct{ Code, Reason, Message string }
	}
	err := json.Unmarshal(s.Body, &body)
	e := body.Error
	s.Outcome = fmt.Sprint(s.Status, " ", e.Code, " ", e.Reason)
	if err != nil || e.Code == "" || e.Reason == "" || e.Message == "" || s.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d without the product's error format: %v %s %v", s.Status, s.Header, s.Body, err)
	}
	if retry := s.Header.Get("Retry-After"); (retry == "1") != (s.Status == http.StatusServiceUnavailable) {
		t.Errorf("%s with Retry-After %q", s.Outcome, retry)
	}
}

// isClosed reports whether the other end has closed the connection.
func isClosed(err error) bool {
	return slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}, func(e error) bool {
		return errors.Is(err, e)
	})
}
