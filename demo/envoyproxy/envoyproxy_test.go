package envoyproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keywicket/keywicket/demo/envoyproxy"
)

// addresses returns two free addresses. They are usually still free when Envoy starts. The function keeps the first listener open
// until it has found the second address, so that the addresses differ.
func addresses(t *testing.T) (admin, front net.TCPAddr) {
	t.Helper()
	for _, a := range []*net.TCPAddr{&admin, &front} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		*a = *l.Addr().(*net.TCPAddr)
	}
	return admin, front
}

// config returns the configuration of an Envoy with one listener, which closes every connection.
func config(admin, listener int) []byte {
	return fmt.Appendf(nil, `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.direct_response
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config
          response: {inline_string: hello}
`, admin, listener)
}

func TestStartAndStop(t *testing.T) {
	a, f := addresses(t)
	admin, adminPort, front, frontPort := a.String(), a.Port, f.String(), f.Port
	dir := t.TempDir()
	p, err := envoyproxy.Start(t.Context(), envoyproxy.Config{Config: config(adminPort, frontPort), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if p.Admin() != admin {
		t.Errorf("admin %s, want %s", p.Admin(), admin)
	}
	response, err := http.Get("http://" + admin + "/server_info")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("the admin interface responds with %s", response.Status)
	}

	t.Run("a second Envoy on the same ports", func(t *testing.T) {
		_, err := envoyproxy.Start(t.Context(), envoyproxy.Config{Config: config(adminPort, frontPort), Dir: dir})
		want := "envoy's admin interface cannot listen on " + admin + ": stop the process that listens there"
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v", err)
		}
		other, _ := addresses(t)
		_, err = envoyproxy.Start(t.Context(), envoyproxy.Config{Config: config(other.Port, frontPort), Dir: dir})
		if err == nil || !strings.HasPrefix(err.Error(), "envoy's listener front cannot listen on "+front+": ") {
			t.Errorf("got %v", err)
		}
	})

	pid := p.PID()
	for range 2 {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}
	if p.Err() != nil {
		t.Errorf("Err after Stop: %v", p.Err())
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d still exists: %v", pid, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestErrorOfAnInvalidConfigurationHasTheCause(t *testing.T) {
	admin, front := addresses(t)
	dir := t.TempDir()
	invalid := bytes.ReplaceAll(config(admin.Port, front.Port), []byte("inline_string"), []byte("in_line_string"))
	var log bytes.Buffer
	_, err := envoyproxy.Start(t.Context(), envoyproxy.Config{Config: invalid, Dir: dir, Log: &log})
	if err == nil || !strings.Contains(err.Error(), "'in_line_string'") {
		t.Errorf("got %v", err)
	}
	if log.Len() == 0 {
		t.Error("the log is empty")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := envoyproxy.Start(t.Context(), envoyproxy.Config{Config: []byte("static_resources: {}")}); err == nil {
		t.Error("a configuration without an admin address was started")
	}
}

func TestStartWithACanceledContext(t *testing.T) {
	admin, front := addresses(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := envoyproxy.Start(ctx, envoyproxy.Config{Config: config(admin.Port, front.Port)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	outside := file(".tools/envoy", 0o755) // above the module, so Find must ignore it
	file("module/go.mod", 0o644)
	file("module/demo/envoyproxy/x.go", 0o644)
	t.Chdir(filepath.Join(root, "module", "demo", "envoyproxy"))
	t.Setenv("ENVOY", "")
	t.Setenv("PATH", "")

	const noEnvoy = `no Envoy: run "make .tools/envoy", or set ENVOY to an Envoy 1.40 binary`
	if got, err := envoyproxy.Find(); err == nil || err.Error() != noEnvoy {
		t.Errorf("got %q, %v, want the error %q", got, err, noEnvoy)
	}
	tools := file("module/.tools/envoy", 0o755)
	if got, err := envoyproxy.Find(); err != nil || got != tools {
		t.Errorf("got %q, %v, want %q", got, err, tools)
	}
	onPath := file("bin/envoy", 0o755)
	t.Setenv("PATH", filepath.Dir(onPath))
	if got, err := envoyproxy.Find(); err != nil || got != onPath {
		t.Errorf("got %q, %v, want %q", got, err, onPath)
	}
	t.Setenv("ENVOY", outside)
	if got, err := envoyproxy.Find(); err != nil || got != outside {
		t.Errorf("got %q, %v, want %q", got, err, outside)
	}
	t.Setenv("ENVOY", file("plain", 0o644))
	if got, err := envoyproxy.Find(); err == nil || !strings.Contains(err.Error(), noEnvoy) {
		t.Errorf("got %q, %v, want an error", got, err)
	}
}
