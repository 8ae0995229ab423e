package oauth

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/js"
	"github.com/keywicket/keywicket/test/rego"
)

// The unmodified SDK of the Model Context Protocol logs in as a registered app: see test/js/mcp.js. The MCP server is an upstream
// behind Envoy, and its route requires a scope. The SDK finds the issuer through the 401 (RFC 9728).
func TestMCPClient(t *testing.T) {
	t.Parallel()
	node, err := js.Node()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.File("@modelcontextprotocol/sdk/package.json"); err != nil {
		t.Fatal(err)
	}
	policies := rego.CopyBuiltin(t)
	for _, method := range []string{"POST", "GET", "DELETE"} {
		harness.AppendFile(t, filepath.Join(policies, "apis/velocity/data.yaml"), "  - {method: "+method+", path: /mcp, scopes: [issues:read]}\n")
	}
	server := startNode(t, node, "server")
	d := harness.StartDemo(t, demo.Config{
		Environ:     []string{"KEYWICKET_POLICIES_DIR=" + policies, harness.ShortStaleness},
		EnvoyConfig: func(config []byte) []byte { return withUpstream(t, config, server.line(t)) },
	})
	a := harness.RegisterApp(t, d.Stack)
	client := startNode(t, node, "client", "ISSUER="+d.Velocity, "SERVER="+d.Velocity+"/mcp", "CLIENT_ID="+a.ID, "REDIRECT_URI="+harness.AppAddress)
	authorize := client.line(t)
	back, err := demo.NewUser("ada@example.com").Approve(t.Context(), authorize, "Your workspace")
	if err != nil {
		t.Fatal(err)
	}
	client.finish(t, back)
}

// withUpstream replaces the address of the upstream in Envoy's configuration.
func withUpstream(t *testing.T, config []byte, address string) []byte {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cluster := regexp.MustCompile(`(?s)(cluster_name: upstream_live\b.*?socket_address: ?\{address: )[^,]+(, port_value: )\d+`)
	if !cluster.Match(config) {
		t.Fatalf("no upstream in %s", config)
	}
	return cluster.ReplaceAll(config, []byte("${1}"+host+"${2}"+port))
}

// nodeProcess is a running test/js/mcp.js.
type nodeProcess struct {
	*exec.Cmd
	stdin  interface{ Write([]byte) (int, error) }
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func startNode(t *testing.T, node, role string, environ ...string) *nodeProcess {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	p := &nodeProcess{Cmd: exec.CommandContext(ctx, node, "../js/mcp.js", role)}
	p.Env = append(os.Environ(), environ...)
	p.Stderr = &p.stderr
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.stdout = stdin, bufio.NewReader(stdout)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = p.Wait() })
	return p
}

// line returns the next line that the process prints.
func (p *nodeProcess) line(t *testing.T) string {
	t.Helper()
	text, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatal(errors.Join(err, p.Wait(), errors.New(p.stderr.String())))
	}
	return strings.TrimSpace(text)
}

// finish sends the address to the process, and requires that the process ends without an error.
func (p *nodeProcess) finish(t *testing.T, address *url.URL) {
	t.Helper()
	_, err := fmt.Fprintln(p.stdin, address)
	if err = errors.Join(err, p.Wait()); err != nil {
		t.Errorf("%v: %s", err, &p.stderr)
	}
}
