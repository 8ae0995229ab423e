// Package upstream is an HTTP server that returns each request in its response. It runs behind Envoy in the demo and in the
// end-to-end tests. The responses show which requests arrive, and with which headers.
package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Echo is the body of every response.
type Echo struct {
	Upstream string              `json:"upstream"` // the server's name
	Method   string              `json:"method"`
	Path     string              `json:"path"` // the request target as received, with its query
	Host     string              `json:"host"`
	Headers  map[string][]string `json:"headers"` // lower-case names
}

// maxBody limits how much of a request's body the server reads before it responds, in bytes.
const maxBody = 1 << 20

// Server is a running upstream.
type Server struct {
	name  string
	http  *http.Server
	addr  string
	count atomic.Int64
}

// Start starts a server that listens on addr, such as 127.0.0.1:8080. With port 0, it listens on a free port. It accepts HTTP/1.1
// and HTTP/2 without TLS. Each response contains the name in its body and in its header x-upstream.
func Start(name, addr string) (*Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("upstream %s cannot listen on %s: stop the process that listens there: %w",
			name, addr, errors.Unwrap(err))
	}
	s := &Server{name: name, addr: listener.Addr().String()}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.echo), Protocols: protocols, ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { _ = s.http.Serve(listener) }() // returns at Close
	return s, nil
}

// Addr returns the address that the server listens on, as host:port.
func (s *Server) Addr() string { return s.addr }

// Count returns the number of requests that have arrived. It does not include requests that Envoy refused.
func (s *Server) Count() int64 { return s.count.Load() }

// Close stops the server. Open requests have a second to finish.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

func (s *Server) echo(w http.ResponseWriter, r *http.Request) {
	s.count.Add(1)
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	headers := make(map[string][]string, len(r.Header))
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = values
	}
	w.Header().Set("content-type", "application/json")
	w.Header().Set("x-upstream", s.name)
	_ = json.NewEncoder(w).Encode(Echo{
		Upstream: s.name, Method: r.Method, Path: r.RequestURI, Host: r.Host, Headers: headers,
	})
}
