package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywicket/keywicket/cmd/keywicket/invocation"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/service/config"
	"github.com/keywicket/keywicket/store/storetest"
)

// probe sends a GET request to the operations server at host:port or unix:///path.
func probe(address, path string) (code int, body map[string]any, err error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, host string) (net.Conn, error) {
			if socket, ok := strings.CutPrefix(address, "unix://"); ok {
				network, host = "unix", socket
			}
			return new(net.Dialer).DialContext(ctx, network, host)
		},
	}}
	host := address
	if strings.HasPrefix(address, "unix://") {
		host = "socket"
	}
	response, err := client.Get("http://" + host + path)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode, body, json.NewDecoder(response.Body).Decode(&body)
}

// awaitProbe waits up to 30 s until the path returns the status code 200.
func awaitProbe(address, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		code, body, err := probe(address, path)
		if code == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s%s: %d %v %w", address, path, code, body, err)
		case <-tick.C:
		}
	}
}

// sidecarProcess is `keywicket serve` in this process, on two Unix sockets.
type sidecarProcess struct {
	grpc, operations string
	log              *syncbuffer.Buffer
	stop             context.CancelFunc
	status           chan int
}

func startSidecar(t *testing.T, environ ...string) *sidecarProcess {
	t.Helper()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	s := &sidecarProcess{
		grpc: "unix://" + filepath.Join(dir, "g"), operations: "unix://" + filepath.Join(dir, "o"),
		log: new(syncbuffer.Buffer), stop: stop, status: make(chan int, 1),
	}
	environ = append(environ, "KEYWICKET_LISTEN_GRPC="+s.grpc, "KEYWICKET_LISTEN_OPERATIONS="+s.operations, "KEYWICKET_LISTEN_LAME_DUCK=0s")
	go func() { s.status <- run(ctx, []string{"serve"}, environ, s.log, s.log) }()
	t.Cleanup(func() {
		stop()
		if status := <-s.status; status != 0 {
			t.Errorf("the exit status of the sidecar is %d: %s", status, s.log)
		}
	})
	if err := awaitProbe(s.operations, "/livez"); err != nil {
		t.Fatalf("%v: %s", err, s.log)
	}
	return s
}

// awaitHealth waits up to 30 s until the health service returns the status.
func (s *sidecarProcess) awaitHealth(t *testing.T, want healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		health, err := watch.Recv()
		if err != nil {
			t.Fatalf("the health service did not return %v: %v", want, err)
		}
		if health.GetStatus() == want {
			return
		}
	}
}

// check sends an ext_authz check to the sidecar.
func (s *sidecarProcess) check(t *testing.T, api, path string, header map[string]string) *authv3.CheckResponse {
	t.Helper()
	conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	attributes := &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: path, HeaderMap: new(corev3.HeaderMap)},
	}}
	for name, value := range header {
		h := attributes.GetRequest().GetHttp().GetHeaderMap()
		h.Headers = append(h.Headers, &corev3.HeaderValue{Key: name, Value: value})
	}
	if api != "" {
		attributes.ContextExtensions = map[string]string{"api": api}
	}
	answer, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestOrderOfPrecedenceOfSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keywicket.yaml")
	text := "listen: {grpc: file, drain: 1m}\npolicies: {dir: file}\nlog: {level: warn}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"HOME=/", "KEYWICKET_LISTEN_GRPC=environment", "KEYWICKET_POLICIES_DIR=environment", "KEYWICKET_LISTEN_DRAIN=2m"}
	s := &invocation.Invocation{DatabaseURL: "flag"}
	flags := (&serveCommand{ListenGRPC: "flag", LogLevel: "error"}).apply(s)
	c, err := config.Load(file, environ, flags)
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range []struct{ name, got, want string }{
		{"listen.grpc", c.Listen.GRPC, "flag"},
		{"database.url", c.Database.URL, "flag"},
		{"log.level", c.Log.Level, "error"},
		{"policies.dir", c.Policies.Dir, "environment"},
		{"listen.drain", c.Listen.Drain.String(), "2m0s"},
		{"listen.operations", c.Listen.Operations, "127.0.0.1:9002"},
	} {
		if setting.got != setting.want {
			t.Errorf("%s: got %s, want %s", setting.name, setting.got, setting.want)
		}
	}
	if c, err = config.Load(file, nil, nil); err != nil || c.Listen.GRPC != "file" || c.Log.Level != "warn" {
		t.Errorf("only the file: %+v, %v", c, err)
	}
	// Orchestrators create empty variables for settings without a value.
	if c, err = config.Load(file, []string{"KEYWICKET_POLICIES_DIR="}, nil); err != nil || c.Policies.Dir != "file" {
		t.Errorf("an empty variable: %q, %v", c.Policies.Dir, err)
	}
}

func TestServeOnSockets(t *testing.T) {
	url, err := newDatabase(migratedTemplate)
	if err != nil {
		t.Fatal(err)
	}
	s := startSidecar(t, "KEYWICKET_DATABASE_URL="+url, "KEYWICKET_FORWARD_CREDENTIAL=true", "KEYWICKET_DEFAULT_API=velocity")
	if err := awaitProbe(s.operations, "/readyz"); err != nil {
		t.Fatal(err)
	}
	s.awaitHealth(t, healthv1.HealthCheckResponse_SERVING)
	runCommand(t, url, "workspace", "create", "--slug", "acme", "--name", "Acme")
	key := runCommand(t, url, "token", "create", "--prefix", "vel_", "--workspace", "acme", "--name", "n", "--access", "read")

	// Envoy sends no API, so the default API applies. The sidecar does not remove the credential.
	answer := s.check(t, "", "/api/issues", map[string]string{"authorization": "Bearer " + key["token"].(string)})
	if codes.Code(answer.GetStatus().GetCode()) != codes.OK {
		t.Fatalf("got %v", answer)
	}
	for _, name := range answer.GetOkResponse().GetHeadersToRemove() {
		if name == "authorization" {
			t.Error("the credential is removed despite forward_credential")
		}
	}
	s.stop()
	status := <-s.status
	s.status <- status
	if status != 0 {
		t.Fatalf("the exit status is %d", status)
	}
	list := runCommand(t, url, "token", "list")
	if list["last_used_at"] == nil {
		t.Errorf("the use of the token was not written: %v", list)
	}
	if n := storetest.Value[int](t, storetest.OpenDB(t, url), `SELECT allowed - denied FROM keywicket.token_use WHERE token_id = $1`, list["id"]); n != 1 {
		t.Errorf("%d requests with the token are counted", n)
	}
}

// A sidecar may start before its database.
func TestServeWithoutADatabase(t *testing.T) {
	empty, err := newDatabase(emptyTemplate)
	if err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{
		"unreachable":  "postgres://sidecar:hunter2@127.0.0.1:1/nowhere?sslmode=disable",
		"not migrated": empty,
	} {
		t.Run(name, func(t *testing.T) {
			s := startSidecar(t, "KEYWICKET_DATABASE_URL="+url)
			code, body, err := probe(s.operations, "/readyz")
			reasons, _ := body["reasons"].([]any)
			if err != nil || code != http.StatusServiceUnavailable || body["ready"] != false || len(reasons) != 1 {
				t.Errorf("/readyz: %d %v %v", code, body, err)
			}
			s.awaitHealth(t, healthv1.HealthCheckResponse_NOT_SERVING) // so that load balancers use other sidecars
			if answer := s.check(t, "velaflows", "/healthz", nil); codes.Code(answer.GetStatus().GetCode()) != codes.OK {
				t.Errorf("a public route: %v", answer)
			}
			unavailable := s.check(t, "velaflows", "/api/v1/contacts", map[string]string{
				"authorization": "Bearer sk_live_0123456789012345678901234567890123456789",
			})
			if codes.Code(unavailable.GetStatus().GetCode()) != codes.Unavailable {
				t.Errorf("a credential: %v", unavailable)
			}
			if output := fmt.Sprint(s.log, body); strings.Contains(output, "hunter2") || strings.Contains(output, "01234567890") {
				t.Errorf("the output contains a secret: %s", output)
			}
		})
	}
}

// runCommand runs a command in this process. It returns the object that the command prints. If the command prints a list, it
// returns the single object of the list.
func runCommand(t *testing.T, databaseURL string, args ...string) (object map[string]any) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), append(args, "--output", "json", "--database-url", databaseURL), nil, &stdout, &stderr)
	if status != 0 {
		t.Fatalf("%v exited with %d: %s", args, status, &stderr)
	}
	text := bytes.TrimSpace(stdout.Bytes())
	if bytes.HasPrefix(text, []byte("[")) {
		text = text[1 : len(text)-1]
	}
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatalf("%v: %v in %s", args, err, &stdout)
	}
	return object
}
