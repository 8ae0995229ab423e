package paths

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo/process"
	"github.com/keywicket/keywicket/demo/upstream"
)

// reading is how an upstream reads a path. The lists are the path's segments as three kinds of server read them.
type reading struct {
	upstream.Echo
	Segments []string `json:"segments"` // the server splits the path, and then decodes the segments
	Whole    []string `json:"whole"`    // the server decodes the path, and then splits it
	Twice    []string `json:"twice"`    // the server splits the path, and then decodes the segments twice
}

type goUpstream struct {
	address string
	reached atomic.Int64
}

func startGoUpstream(t *testing.T) *goUpstream {
	t.Helper()
	u := &goUpstream{}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	u.address = server.Listener.Addr().String()
	return u
}

func (u *goUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.reached.Add(1)
	h := reading{Echo: upstream.Echo{Upstream: "go", Method: r.Method, Path: r.RequestURI}}
	for _, raw := range strings.Split(r.URL.EscapedPath(), "/")[1:] {
		once, err := url.PathUnescape(raw)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		twice, err := url.PathUnescape(once)
		if err != nil {
			twice = once // the decoded segment contains a % that does not start an escape
		}
		h.Segments, h.Twice = append(h.Segments, once), append(h.Twice, twice)
	}
	h.Whole = strings.Split(r.URL.Path, "/")[1:]
	_ = json.NewEncoder(w).Encode(h) // it cannot fail: every value can be encoded
}

type pythonUpstream struct {
	address string
	client  *http.Client
}

// startPythonUpstream runs testdata/upstream.py, which describes the modes. The test fails if Python is missing.
func startPythonUpstream(t *testing.T, mode string) *pythonUpstream {
	t.Helper()
	r, w := io.Pipe()
	p, err := process.Start(process.Config{
		Path: "python3", Args: []string{"-I", filepath.Join("testdata", "upstream.py"), mode}, Output: w,
	})
	if err != nil {
		t.Fatalf("this test needs Python 3: %v", err)
	}
	go func() {
		<-p.Done()
		_ = w.Close() // it always returns nil
	}()
	output, printed := bufio.NewReader(r), make(chan []byte, 1)
	port, err := output.ReadString('\n')
	go func() {
		rest, _ := io.ReadAll(output) // until the pipe is closed
		printed <- rest
	}()
	t.Cleanup(func() {
		if err := errors.Join(p.Err(), p.Stop(10*time.Second)); err != nil {
			t.Error(err)
		}
		if rest := <-printed; len(rest) > 0 {
			t.Logf("upstream.py %s: %s", mode, rest)
		}
	})
	if err != nil {
		t.Fatalf("upstream.py has exited instead of printing its port: %q", port)
	}
	u := &pythonUpstream{net.JoinHostPort("127.0.0.1", strings.TrimSpace(port)), &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(u.client.CloseIdleConnections)
	return u
}

// reached returns the number of requests that have arrived.
func (u *pythonUpstream) reached(t *testing.T) (n int64) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), "COUNT", "http://"+u.address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := u.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	err = json.NewDecoder(response.Body).Decode(&n)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}
