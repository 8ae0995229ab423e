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
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// HTTP2 is an HTTP/2 connection without TLS, with prior knowledge.
type HTTP2 struct {
	net.Conn
	framer      *http2.Framer
	next        uint32 // ID of the next stream
	Limit       uint32 // the other end's limit of concurrent streams; 0: none
	plainErrors bool   // as in HTTP1
}

// DialHTTP2 connects to an address.
func DialHTTP2(t *testing.T, address string) *HTTP2 {
	t.Helper()
	c := Dial(t, address)
	h := &HTTP2{Conn: c, framer: http2.NewFramer(c, bufio.NewReader(c)), next: 1}
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(c, http2.ClientPreface)
	// The window is larger than any answer, so that no update of the window is necessary.
	err = errors.Join(err, h.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}))
	if err = errors.Join(err, h.framer.WriteWindowUpdate(0, 1<<30)); err != nil {
		t.Fatal(err)
	}
	return h
}

// block encodes the fields as a header block. It also encodes fields that HTTP/2 forbids.
func block(fields ...[2]string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range fields {
		_ = e.WriteField(hpack.HeaderField{Name: strings.ToLower(f[0]), Value: f[1]}) // a write to a buffer does not fail
	}
	return b.Bytes()
}

// Send implements Conn.
func (c *HTTP2) Send(t *testing.T, m Request) Response {
	t.Helper()
	fields := [][2]string{{":method", cmp.Or(m.Method, "GET")}}
	if m.Method != http.MethodConnect || m.Protocol != "" {
		fields = append(fields, [2]string{":scheme", "http"}, [2]string{":path", m.Target})
	}
	if m.Protocol != "" {
		fields = append(fields, [2]string{":protocol", m.Protocol})
	}
	if m.Host != "-" {
		fields = append(fields, [2]string{":authority", cmp.Or(m.Host, "api.test")})
	}
	stream := c.next
	c.next += 2
	parts := slices.Collect(slices.Chunk(block(append(fields, m.Header...)...), 16<<10)) // the largest frame size
	bare := m.Body == "" && m.Trailer == nil
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: parts[0], EndStream: bare, EndHeaders: len(parts) == 1,
	})
	for i, part := range parts[1:] {
		err = errors.Join(err, c.framer.WriteContinuation(stream, i == len(parts)-2, part))
	}
	if !bare {
		for data := range slices.Chunk([]byte(m.Body), 16<<10) {
			err = errors.Join(err, c.framer.WriteData(stream, false, data))
		}
		if m.Trailer == nil {
			err = errors.Join(err, c.framer.WriteData(stream, true, nil))
		} else {
			err = errors.Join(err, c.framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: stream, BlockFragment: block(m.Trailer...), EndStream: true, EndHeaders: true,
			}))
		}
	}
	if err != nil && !isClosed(err) {
		t.Fatal(err)
	}
	return c.answer(t, stream)
}

func (c *HTTP2) answer(t *testing.T, stream uint32) Response {
	t.Helper()
	s := Response{Header: http.Header{}, alive: true}
	for {
		frame, err := c.framer.ReadFrame()
		if isClosed(err) {
			return Response{Outcome: "closed"}
		}
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.Limit, _ = f.Value(http2.SettingMaxConcurrentStreams)
				err = c.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			err = c.framer.WritePing(true, f.Data)
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo { // the other end closes the connection a second later
				return Response{Outcome: "closed"}
			}
			s.alive = false
		case *http2.RSTStreamFrame:
			if f.StreamID == stream && s.Status == 0 {
				s.Outcome = "reset"
				return s
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				for _, h := range f.Fields {
					s.Header.Add(h.Name, h.Value)
				}
				_, err = fmt.Sscan(f.PseudoValue("status"), &s.Status)
			}
		case *http2.DataFrame:
			if f.StreamID == stream {
				s.Body = append(s.Body, f.Data()...)
			}
		}
		if err != nil && !isClosed(err) {
			t.Fatal(err)
		}
		h := frame.Header()
		if h.StreamID == stream && h.Flags.Has(http2.FlagDataEndStream) && (h.Type == http2.FrameData || h.Type == http2.FrameHeaders) {
			s.read(t, c.plainErrors)
			return s
		}
	}
}
