package wire

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// HTTP1 is an HTTP/1.1 connection.
type HTTP1 struct {
	net.Conn
	r           *bufio.Reader
	plainErrors bool // the other end is an Envoy without the configuration of deploy/envoy, so its own errors do not have the product's format
}

// NewHTTP1 returns a connection that sends requests over c.
func NewHTTP1(c net.Conn) *HTTP1 { return &HTTP1{Conn: c, r: bufio.NewReader(c)} }

// Send implements Conn.
func (c *HTTP1) Send(t *testing.T, m Request) Response {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", cmp.Or(m.Method, "GET"), m.Target)
	if m.Host != "-" {
		fmt.Fprintf(&b, "Host: %s\r\n", cmp.Or(m.Host, "api.test"))
	}
	for _, h := range m.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	switch {
	case m.Trailer != nil:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n", len(m.Body), m.Body)
		for _, h := range m.Trailer {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
	case m.Body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(m.Body))
	}
	b.WriteString("\r\n")
	if m.Trailer == nil {
		b.WriteString(m.Body)
	}
	if _, err := c.Write(b.Bytes()); err != nil && !isClosed(err) {
		t.Fatal(err)
	}
	s, answered := c.Receive(t, cmp.Or(m.Method, "GET"))
	if answered {
		s.read(t, c.plainErrors)
	}
	return s
}

// Receive reads a response, and does not check the response. The parameter `method` is the method of the request. Receive returns
// false if the other end has closed the connection.
func (c *HTTP1) Receive(t *testing.T, method string) (Response, bool) {
	t.Helper()
	response, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if isClosed(err) {
		return Response{Outcome: "closed"}, false
	}
	if err != nil {
		t.Fatal(err)
	}
	s := Response{Status: response.StatusCode, Header: response.Header, alive: !response.Close}
	s.Body, err = io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return s, true
}
