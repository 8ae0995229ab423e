package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// These placeholders mark the token and the ID in a request template. They have the same length as every token and ID.
var (
	tokenPlaceholder = key(987654321987654321)
	idPlaceholder    = "f0e1d2c3-b4a5-4697-8877-665544332211"
)

// key returns the credential that contains the number n.
func key(n int64) string { return fmt.Sprintf("vel_%038d", n) }

// endpoint is a method and a path. An {id} in the path is different in each request.
type endpoint struct{ Method, Path string }

// requestTemplate is an encoded CheckRequest as Envoy sends it, or an HTTP request to Envoy. It contains the positions of the
// token and the IDs.
type requestTemplate struct {
	Text        []byte
	Tokens, IDs []int
}

// fill writes the request with the token and random IDs into the buffer, and returns the buffer.
func (f *requestTemplate) fill(buffer, token []byte) []byte {
	buffer = append(buffer[:0], f.Text...)
	for _, at := range f.Tokens {
		copy(buffer[at:], token)
	}
	if len(f.IDs) > 0 {
		var bits [16]byte
		binary.LittleEndian.PutUint64(bits[:8], rand.Uint64())
		binary.LittleEndian.PutUint64(bits[8:], rand.Uint64())
		var id [32]byte
		hex.Encode(id[:], bits[:])
		for _, at := range f.IDs { // in the form of a UUID: 8-4-4-4-12
			copy(buffer[at:], id[:8])
			copy(buffer[at+9:], id[8:12])
			copy(buffer[at+14:], id[12:16])
			copy(buffer[at+19:], id[16:20])
			copy(buffer[at+24:], id[20:])
		}
	}
	return buffer
}

func newTemplate(text []byte) (requestTemplate, error) {
	f := requestTemplate{Text: text, Tokens: positions(text, tokenPlaceholder), IDs: positions(text, idPlaceholder)}
	if len(f.Tokens) == 0 {
		return f, errors.New("Envoy has sent no credential")
	}
	return f, nil
}

func positions(text []byte, pattern string) (all []int) {
	for from := 0; ; {
		i := bytes.Index(text[from:], []byte(pattern))
		if i < 0 {
			return all
		}
		all = append(all, from+i)
		from += i + len(pattern)
	}
}

// browserHeaders are the headers of a web application's request, except the credential. With deploy/envoy's settings, a check
// contains only one of these headers, x-workspace-slug, and a CheckRequest has 0.3 KiB. With all headers, it has 1.4 KiB.
var browserHeaders = map[string]string{
	"accept":             "application/json, text/plain, */*",
	"accept-encoding":    "gzip, deflate, br, zstd",
	"accept-language":    "en-GB,en;q=0.9,de;q=0.8",
	"cache-control":      "no-cache",
	"cookie":             "_ga=GA1.1.1742215341.1763980214; theme=dark; locale=en; csrf=" + strings.Repeat("a1b2c3d4", 5),
	"origin":             "https://app.velocity.quest",
	"referer":            "https://app.velocity.quest/acme/issues?view=board&assignee=me",
	"sec-ch-ua":          `"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"`,
	"sec-ch-ua-mobile":   "?0",
	"sec-ch-ua-platform": `"macOS"`,
	"sec-fetch-dest":     "empty",
	"sec-fetch-mode":     "cors",
	"sec-fetch-site":     "same-site",
	"traceparent":        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	"user-agent":         "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
	"x-requested-with":   "XMLHttpRequest",
	"x-workspace-slug":   workspaceSlug,
}

// captureChecks sends a request to each endpoint of Velocity through a real Envoy with deploy/envoy's configuration. It returns
// the checks that Envoy sent. If allHeaders is true, captureChecks removes allowed_headers from Envoy's configuration.
func captureChecks(t testing.TB, endpoints []endpoint, allHeaders bool) []requestTemplate {
	t.Helper()
	sent := make(chan []byte, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// The codec keeps the original bytes: a message that is decoded and encoded again could differ.
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var text []byte
		if err := s.RecvMsg(&text); err != nil {
			return err
		}
		answer := []byte{0x08, 0x01} // health: SERVING
		if method, _ := grpc.MethodFromServerStream(s); method == checkMethod {
			sent <- text
			answer = []byte{0x0a, 0x00} // status OK
		}
		return s.SendMsg(&answer)
	}))
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	envoy := startEnvoy(t, 1, listener.Addr().String(), func(config map[string]any) {
		if allHeaders {
			remove(config, "allowed_headers")
		}
	})
	defer func() { _ = envoy.Stop(5 * time.Second) }()
	var templates []requestTemplate
	for _, e := range endpoints {
		request, err := http.NewRequestWithContext(t.Context(), e.Method, "http://"+envoy.address+strings.ReplaceAll(e.Path, "{id}", idPlaceholder), nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range browserHeaders {
			request.Header.Set(name, value)
		}
		request.Host = "api.velocity.quest"
		request.Header.Set("authorization", "Bearer "+tokenPlaceholder)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		select {
		case text := <-sent:
			f, err := newTemplate(text)
			if err != nil {
				t.Fatal(err)
			}
			templates = append(templates, f)
		default:
			t.Fatalf("Envoy has sent no check for %s %s: %s", e.Method, e.Path, response.Status)
		}
	}
	return templates
}

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

// rawCodec is a codec whose messages are *[]byte: the bytes on the wire.
type rawCodec struct{}

// Marshal implements [encoding.CodecV2].
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	text, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not *[]byte", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*text)}, nil
}

// Unmarshal implements [encoding.CodecV2]. It reuses the capacity of the slice.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	text, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is not *[]byte", v)
	}
	*text = (*text)[:0]
	for _, b := range data {
		*text = append(*text, b.ReadOnlyData()...)
	}
	return nil
}

// Name implements [encoding.CodecV2].
func (rawCodec) Name() string { return "proto" }
