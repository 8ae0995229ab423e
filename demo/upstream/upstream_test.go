package upstream_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/keywicket/keywicket/demo/upstream"
)

func TestEcho(t *testing.T) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			s, err := upstream.Start("live", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			protocols := new(http.Protocols)
			protocols.SetHTTP1(version == "HTTP/1.1")
			protocols.SetUnencryptedHTTP2(version == "HTTP/2.0")
			client := &http.Client{Transport: &http.Transport{Protocols: protocols}}

			body := strings.NewReader(`{"name":"x"}`)
			r, err := http.NewRequestWithContext(t.Context(), "PATCH", "http://"+s.Addr()+"/a%20b/./c;d?q=1&q=2", body)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = "api.test"
			r.Header["X-Two"] = []string{"one", "two"}
			response, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			var echo upstream.Echo
			if err := json.NewDecoder(response.Body).Decode(&echo); err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.Proto != version || response.StatusCode != 200 || response.Header.Get("x-upstream") != "live" ||
				response.Header.Get("content-type") != "application/json" {
				t.Errorf("got %s %d %v", response.Proto, response.StatusCode, response.Header)
			}
			if echo.Upstream != "live" || echo.Method != "PATCH" || echo.Path != "/a%20b/./c;d?q=1&q=2" ||
				echo.Host != "api.test" || !reflect.DeepEqual(echo.Headers["x-two"], []string{"one", "two"}) {
				t.Errorf("got %+v", echo)
			}
			if s.Count() != 1 {
				t.Errorf("count %d, want 1", s.Count())
			}

			client.CloseIdleConnections()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if again, err := client.Get("http://" + s.Addr()); err == nil {
				_ = again.Body.Close()
				t.Error("the server still responds after Close")
			}
		})
	}
}

func TestAddressInUse(t *testing.T) {
	s, err := upstream.Start("live", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	_, err = upstream.Start("sandbox", s.Addr())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "sandbox cannot listen on "+s.Addr()) {
		t.Errorf("got %v", err)
	}
}
