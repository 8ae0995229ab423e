package test

import (
	"bufio"
	"bytes"
	"cmp"
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

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/upstream"
)

// A client library corrects hostile requests before it sends them. So these tests write the bytes unchanged: HTTP/1.1 by
// hand, HTTP/2 frame by frame, and the CheckRequest of a PEP that does not normalise.

// message is a request, independent of the wire.
type message struct {
	api      string // velaflows or velocity; empty is velaflows
	method   string // empty is GET
	target   string // request target of HTTP/1.1, :path of HTTP/2, path of a check
	host     string // "-": none
	protocol string // of an extended CONNECT
	header   [][2]string
	body     string
	trailer  [][2]string
}

// observation is the result of a message.
type observation struct {
	// "allow", "403 FORBIDDEN no_route", "grpc 16", or without an answer "closed" (the connection) and "reset" (the stream).
	// The outcome of a foreign Envoy's own answer is its status, and the address of a redirect: "404", "307 /a".
	outcome string
	status  int
	header  http.Header
	body    []byte
	// For an allowed request: what the upstream received. For a direct check: only the headers, with the changes that the
	// answer requests of Envoy.
	echo  upstream.Echo
	alive bool // the connection can send another message
}

// connection sends messages, one after the other.
type connection interface {
	put(t *testing.T, m message) observation
	Close() error
}

// wires are the ways to reach a sidecar: the listeners of its Envoy, and its own port.
var wires = map[string]func(t *testing.T, s *demo.Stack, api string) connection{
	"HTTP/1.1": func(t *testing.T, s *demo.Stack, api string) connection {
		c := dial(t, listener(s, api))
		return &h1{Conn: c, r: bufio.NewReader(c)}
	},
	"HTTP/2": func(t *testing.T, s *demo.Stack, api string) connection { return dialH2(t, listener(s, api)) },
	"direct": func(t *testing.T, s *demo.Stack, _ string) connection {
		c, err := grpc.NewClient(s.Sidecar.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		return direct{c}
	},
}

func listener(s *demo.Stack, api string) (address string) {
	return strings.TrimPrefix(map[string]string{"velaflows": s.VelaFlows, "velocity": s.Velocity}[api], "http://")
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	const patience = 20 * time.Second
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// read reads an HTTP answer. Every error must have the product's format, except those of a foreign Envoy.
func (s *observation) read(t *testing.T, foreign bool) {
	t.Helper()
	if code := s.header.Get("grpc-status"); code != "" {
		s.outcome = "grpc " + code
		return
	}
	if foreign && s.header.Get("Content-Type") != "application/json" {
		s.outcome = strings.TrimSpace(fmt.Sprint(s.status, " ", s.header.Get("Location")))
		return
	}
	if s.status == http.StatusOK {
		s.outcome = "allow"
		if err := json.Unmarshal(s.body, &s.echo); err != nil || s.echo.Upstream == "" {
			t.Errorf("200, but not from the upstream: %v in %s", err, s.body)
		}
		return
	}
	var body struct {
		Error struct{ Code, Reason, Message string }
	}
	err := json.Unmarshal(s.body, &body)
	e := body.Error
	s.outcome = fmt.Sprint(s.status, " ", e.Code, " ", e.Reason)
	if err != nil || e.Code == "" || e.Reason == "" || e.Message == "" || s.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d without the product's error format: %v %s %v", s.status, s.header, s.body, err)
	}
	if retry := s.header.Get("Retry-After"); (retry == "1") != (s.status == http.StatusServiceUnavailable) {
		t.Errorf("%s with Retry-After %q", s.outcome, retry)
	}
}

// h1 is an HTTP/1.1 connection.
type h1 struct {
	net.Conn
	r       *bufio.Reader
	foreign bool // the other end is an Envoy whose own errors do not have the product's format
}

func (c *h1) put(t *testing.T, m message) observation {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", cmp.Or(m.method, "GET"), m.target)
	if m.host != "-" {
		fmt.Fprintf(&b, "Host: %s\r\n", cmp.Or(m.host, "api.test"))
	}
	for _, h := range m.header {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	switch {
	case m.trailer != nil:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n", len(m.body), m.body)
		for _, h := range m.trailer {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
	case m.body != "":
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(m.body))
	}
	b.WriteString("\r\n")
	if m.trailer == nil {
		b.WriteString(m.body)
	}
	if _, err := c.Write(b.Bytes()); err != nil && !isClosed(err) {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(c.r, &http.Request{Method: cmp.Or(m.method, "GET")})
	if isClosed(err) {
		return observation{outcome: "closed"}
	}
	if err != nil {
		t.Fatal(err)
	}
	s := observation{status: response.StatusCode, header: response.Header, alive: !response.Close}
	s.body, err = io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	s.read(t, c.foreign)
	return s
}

// isClosed reports whether the other end has closed the connection.
func isClosed(err error) bool {
	return slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}, func(e error) bool {
		return errors.Is(err, e)
	})
}

// h2 is an HTTP/2 connection without TLS, with prior knowledge.
type h2 struct {
	net.Conn
	framer  *http2.Framer
	next    uint32 // ID of the next stream
	limit   uint32 // the other end's limit of concurrent streams; 0: none
	foreign bool   // as in h1
}

func dialH2(t *testing.T, address string) *h2 {
	t.Helper()
	c := dial(t, address)
	h := &h2{Conn: c, framer: http2.NewFramer(c, bufio.NewReader(c)), next: 1}
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(c, http2.ClientPreface)
	// The window is as large as any answer, so that no update is necessary.
	err = errors.Join(err, h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}))
	if err = errors.Join(err, h.framer.WriteWindowUpdate(0, 1<<30)); err != nil {
		t.Fatal(err)
	}
	return h
}

// block returns a header block with unchanged fields, including those that HTTP/2 forbids.
func block(fields ...[2]string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range fields {
		_ = e.WriteField(hpack.HeaderField{Name: strings.ToLower(f[0]), Value: f[1]}) // a write to a buffer does not fail
	}
	return b.Bytes()
}

func (c *h2) put(t *testing.T, m message) observation {
	t.Helper()
	fields := [][2]string{{":method", cmp.Or(m.method, "GET")}}
	if m.method != http.MethodConnect || m.protocol != "" {
		fields = append(fields, [2]string{":scheme", "http"}, [2]string{":path", m.target})
	}
	if m.protocol != "" {
		fields = append(fields, [2]string{":protocol", m.protocol})
	}
	if m.host != "-" {
		fields = append(fields, [2]string{":authority", cmp.Or(m.host, "api.test")})
	}
	stream := c.next
	c.next += 2
	parts := slices.Collect(slices.Chunk(block(append(fields, m.header...)...), 16<<10)) // the largest frame size
	bare := m.body == "" && m.trailer == nil
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: parts[0], EndStream: bare, EndHeaders: len(parts) == 1,
	})
	for i, part := range parts[1:] {
		err = errors.Join(err, c.framer.WriteContinuation(stream, i == len(parts)-2, part))
	}
	if !bare {
		for data := range slices.Chunk([]byte(m.body), 16<<10) {
			err = errors.Join(err, c.framer.WriteData(stream, false, data))
		}
		if m.trailer == nil {
			err = errors.Join(err, c.framer.WriteData(stream, true, nil))
		} else {
			err = errors.Join(err, c.framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: stream, BlockFragment: block(m.trailer...), EndStream: true, EndHeaders: true,
			}))
		}
	}
	if err != nil && !isClosed(err) {
		t.Fatal(err)
	}
	return c.answer(t, stream)
}

func (c *h2) answer(t *testing.T, stream uint32) observation {
	t.Helper()
	s := observation{header: http.Header{}, alive: true}
	for {
		frame, err := c.framer.ReadFrame()
		if isClosed(err) {
			return observation{outcome: "closed"}
		}
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.limit, _ = f.Value(http2.SettingMaxConcurrentStreams)
				err = c.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			err = c.framer.WritePing(true, f.Data)
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo { // the connection is closed a second later
				return observation{outcome: "closed"}
			}
			s.alive = false
		case *http2.RSTStreamFrame:
			if f.StreamID == stream && s.status == 0 {
				s.outcome = "reset"
				return s
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				for _, h := range f.Fields {
					s.header.Add(h.Name, h.Value)
				}
				_, err = fmt.Sscan(f.PseudoValue("status"), &s.status)
			}
		case *http2.DataFrame:
			if f.StreamID == stream {
				s.body = append(s.body, f.Data()...)
			}
		}
		if err != nil && !isClosed(err) {
			t.Fatal(err)
		}
		h := frame.Header()
		if h.StreamID == stream && h.Flags.Has(http2.FlagDataEndStream) && (h.Type == http2.FrameData || h.Type == http2.FrameHeaders) {
			s.read(t, c.foreign)
			return s
		}
	}
}

// direct is a PEP that passes everything on unchanged.
type direct struct{ *grpc.ClientConn }

func (c direct) put(t *testing.T, m message) observation {
	t.Helper()
	headers := &corev3.HeaderMap{}
	for _, h := range m.header {
		headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: h[0], RawValue: []byte(h[1])})
	}
	answer, err := authv3.NewAuthorizationClient(c).Check(t.Context(), &authv3.CheckRequest{
		Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: cmp.Or(m.method, "GET"), Path: m.target, Host: cmp.Or(m.host, "api.test"), HeaderMap: headers, Body: m.body,
			}},
			ContextExtensions: map[string]string{"api": cmp.Or(m.api, "velaflows")},
		},
	})
	if err != nil {
		return observation{outcome: "rpc " + status.Code(err).String(), alive: true}
	}
	s := observation{outcome: outcomeOf(t, answer), alive: true}
	if ok := answer.GetOkResponse(); ok != nil {
		s.echo.Headers = map[string][]string{}
		for _, h := range m.header {
			name := strings.ToLower(h[0])
			s.echo.Headers[name] = append(s.echo.Headers[name], h[1])
		}
		for _, h := range ok.GetHeaders() {
			s.echo.Headers[h.GetHeader().GetKey()] = []string{h.GetHeader().GetValue()}
		}
		for _, name := range ok.GetHeadersToRemove() { // in Envoy a removal overrides a set
			delete(s.echo.Headers, name)
		}
	}
	return s
}

// sender sends one message after the other. If the other end has closed the last connection, it opens a new one.
type sender struct {
	connection
	stack   *demo.Stack
	wire    string
	api     string // the API whose listener is used
	foreign bool   // the stack's Envoy has another configuration than deploy/envoy
}

func (c *sender) open(t *testing.T) {
	t.Helper()
	c.connection = wires[c.wire](t, c.stack, c.api)
	switch connection := c.connection.(type) {
	case *h1:
		connection.foreign = c.foreign
	case *h2:
		connection.foreign = c.foreign
	}
}

// put compares the outcome with the wanted one. An allowed message increases the upstreams' counters by one. Any other
// message does not change them.
func (c *sender) put(t *testing.T, what string, m message, want string) observation {
	t.Helper()
	if c.connection == nil {
		c.open(t)
	}
	reached := func() int64 { return c.stack.Live.Count() + c.stack.Sandbox.Count() }
	before, moved := reached(), int64(0)
	s := c.connection.put(t, m)
	// A look-up may take too long on a busy machine.
	for try := 0; s.status == 503 && !strings.HasPrefix(want, "503") && try < 10; try++ {
		time.Sleep(100 * time.Millisecond)
		s = c.connection.put(t, m)
	}
	if s.outcome != want {
		t.Errorf("%s: %s, not %s", what, s.outcome, want)
	}
	if c.wire != "direct" && (s.outcome == "allow" || s.outcome == "200") {
		moved = 1
	}
	if got := reached() - before; got != moved {
		t.Errorf("%s: %s, and %d requests reached an upstream", what, s.outcome, got)
	}
	if !s.alive {
		c.close()
	}
	return s
}

func (c *sender) close() {
	if c.connection != nil {
		_ = c.Close()
		c.connection = nil
	}
}
