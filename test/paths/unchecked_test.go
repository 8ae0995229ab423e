package paths

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/envoyproxy"
	"github.com/keywicket/keywicket/demo/upstream"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/wire"
)

// uncheckedStack is a stack in which Velocity's listener sends no checks. So this listener shows how Envoy alone treats a path.
// VelaFlows' listener treats paths in the same way, but also checks requests. The upstream of both listeners echoes requests.
type uncheckedStack struct {
	*demo.Stack
	config  []byte        // Envoy's configuration
	reached *atomic.Int64 // requests that reached the upstream
	header  [][2]string   // headers with a key that has the scope admin:all, so that the outcome depends only on the path
	direct  *wire.Reconnecting
	decided map[string]string // path → outcome of a check without Envoy
}

func newUncheckedStack(t *testing.T) *uncheckedStack {
	t.Helper()
	v := &uncheckedStack{}
	var address string
	address, v.reached = echoRaw(t)
	v.Stack = harness.StartStack(t, demo.Config{
		Environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}, // for slow machines
		EnvoyConfig: func(config []byte) []byte {
			addresses, err := bootstrap.Read(config)
			if err != nil {
				t.Fatal(err)
			}
			addresses.Clusters["upstream_live"] = address
			if config, err = bootstrap.Render(addresses); err != nil {
				t.Fatal(err)
			}
			config = harness.Replace(t, config, "check_settings: {context_extensions: {api: velocity}}", "disabled: true", 1)
			// Over HTTP/2, Envoy refuses most of these paths by closing the connection, and waits for a second before it
			// closes. This edit shortens the wait. It replaces a setting that has no effect in this test.
			v.config = harness.Replace(t, config, "stream_idle_timeout: 60s", "delayed_close_timeout: 0.001s", 2)
			return v.config
		},
	})
	home := harness.CreateWorkspace(t, v.Stack)
	key := harness.IssueToken(t, v.Stack, "sk_live_", home.Slug, "admin:all")
	v.header = [][2]string{{"authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}
	v.direct, v.decided = v.dial(t, "direct", ""), make(map[string]string)
	t.Cleanup(func() { _ = v.direct.Close() })
	return v
}

// echoRaw starts an upstream that accepts every target. net/http refuses a target that it cannot parse, before a handler
// could count it.
func echoRaw(t *testing.T) (address string, reached *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	reached = new(atomic.Int64)
	serve := func(c net.Conn) {
		defer func() { _ = c.Close() }()
		for r := textproto.NewReader(bufio.NewReader(c)); ; {
			line, err := r.ReadLine()
			if _, headerErr := r.ReadMIMEHeader(); err != nil || headerErr != nil {
				return // Envoy has closed the connection
			}
			reached.Add(1)
			target := strings.TrimSuffix(strings.TrimPrefix(line, "GET "), " HTTP/1.1")
			body, _ := json.Marshal(upstream.Echo{Upstream: "raw", Path: target}) // it cannot fail: every value can be encoded
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
	go func() {
		for c, err := listener.Accept(); err == nil; c, err = listener.Accept() {
			go serve(c)
		}
	}()
	return listener.Addr().String(), reached
}

// restart replaces a text in the configuration of one listener, and restarts Envoy.
func (v *uncheckedStack) restart(t *testing.T, api, from, to string) {
	t.Helper()
	at := bytes.Index(v.config, []byte("- name: velocity\n"))
	listeners := map[string][]byte{"velaflows": v.config[:at], "velocity": v.config[at:]}
	listeners[api] = harness.Replace(t, listeners[api], from, to, 1)
	if err := v.Envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	var err error
	config := slices.Concat(listeners["velaflows"], listeners["velocity"])
	if v.Envoy, err = envoyproxy.Start(t.Context(), envoyproxy.Config{Config: config}); err != nil {
		t.Fatal(err)
	}
}

func (v *uncheckedStack) dial(t *testing.T, protocol, api string) *wire.Reconnecting {
	t.Helper()
	dial := func() wire.Conn { return wire.Protocols[protocol](t, v.Stack, api) }
	return wire.NewReconnecting(dial)
}

// view sends the paths to both listeners. Without Envoy, it also checks each path, and the path that Envoy passes on.
func (v *uncheckedStack) view(t *testing.T, protocol string, paths []string) (all []pathResult) {
	t.Helper()
	for batch := range slices.Chunk(paths, 100) { // each batch has its own connections, because the deadline of a connection (20 s) is too short for all paths
		envoy, checked := v.dial(t, protocol, "velocity"), v.dial(t, protocol, "velaflows")
		for _, p := range batch {
			if protocol == "HTTP/1.1" && (p == "" || strings.ContainsAny(p, " \r\n")) {
				continue // a blank or a line end in the path would change the request line
			}
			s := pathResult{path: p, envoy: envoy.Send(t, wire.Request{Target: p})}
			before := v.reached.Load()
			s.checked = checked.Send(t, wire.Request{Target: p, Header: v.header})
			s.reached = v.reached.Load() - before
			s.raw, s.direct = v.decide(t, p), v.decide(t, s.envoy.Echo.Path)
			all = append(all, s)
		}
		_, _ = envoy.Close(), checked.Close()
	}
	return all
}

// decide returns the outcome of a check without Envoy. It checks each path only once.
func (v *uncheckedStack) decide(t *testing.T, p string) string {
	t.Helper()
	if _, known := v.decided[p]; !known {
		v.decided[p] = v.direct.Send(t, wire.Request{Target: p, Header: v.header}).Outcome
	}
	return v.decided[p]
}
