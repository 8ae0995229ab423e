package policies

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/wire"
)

const proxyProtocol = `[{name: envoy.filters.listener.proxy_protocol, typed_config: {` +
	`"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true}}]`

// The policy reads the client address that Envoy trusts. A client cannot choose this address.
func TestSourceThroughEnvoy(t *testing.T) {
	t.Parallel()
	_, config := editedPolicy(t)
	pki := newAuthority(t)
	s := harness.StartStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config},
		EnvoyConfig: func(envoy []byte) []byte {
			envoy = permitPlanHeader(t, envoy)
			// Velocity's listener is behind a proxy that appends to x-forwarded-for, or that uses the PROXY protocol.
			before, after, _ := bytes.Cut(envoy, []byte("- name: velocity\n"))
			after = harness.Replace(t, after, "use_remote_address: true\n", "use_remote_address: true\n                xff_num_trusted_hops: 1\n", 1)
			after = harness.Replace(t, after, "      filter_chains:\n", "      listener_filters: "+proxyProtocol+"\n      filter_chains:\n", 1)
			// VelaFlows' listener uses mutual TLS.
			before = harness.Replace(t, before, "        - filters:\n", "        - transport_socket: "+pki.transportSocket(t)+"\n          filters:\n", 1)
			before = harness.Replace(t, before, "encode_raw_headers: true\n", "encode_raw_headers: true\n                      include_peer_certificate: true\n", 1)
			return append(append(before, "- name: velocity\n"...), after...)
		},
	})
	home := harness.CreateWorkspace(t, s)
	key := harness.IssueToken(t, s, "vel_", home.Slug, "issues:read", "--config", config).Token
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for forwarded, want := range map[string]string{
		"":                     "127.0.0.1",
		"203.0.113.7":          "203.0.113.7", // reported by the trusted hop
		"6.6.6.6, 203.0.113.7": "203.0.113.7",
		"6.6.6.6, 2001:DB8::7": "2001:db8::7",
		"6.6.6.6, nonsense":    "127.0.0.1",
	} {
		header := []string{"Authorization", "Bearer " + key, "X-Envoy-External-Address", "6.6.6.6", "X-Keywicket-Client-Address", "6.6.6.6"}
		if forwarded != "" {
			header = append(header, "X-Forwarded-For", forwarded)
		}
		want := fmt.Sprintf(`{"address":"%s","certificate":null,"principal":null}`, want)
		if got := planHeader(t, harness.Get(t, client, s.Velocity+"/api/issues?source", header...)); got != want {
			t.Errorf("x-forwarded-for %q: the policy saw %s, not %s", forwarded, got, want)
		}
	}

	c := wire.Dial(t, wire.Address(s, "velocity"))
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "PROXY TCP4 198.51.100.9 127.0.0.1 1234 80\r\n"); err != nil {
		t.Fatal(err)
	}
	seen := wire.NewHTTP1(c).Send(t, wire.Request{Target: "/api/issues?source", Header: [][2]string{{"Authorization", "Bearer " + key}}})
	if got := seen.Echo.Headers["x-plan"]; len(got) != 1 || !strings.Contains(got[0], `"address":"198.51.100.9"`) {
		t.Errorf("by the PROXY protocol: %s, the policy saw %v", seen.Outcome, got)
	}

	token := harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read", "--config", config).Token
	address := strings.Replace(s.VelaFlows, "http:", "https:", 1) + "/api/v1/inbox/conversations?"
	header := []string{"Authorization", "Bearer " + token, "X-Workspace-Id", home.ID, "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Client-Cert", "URI=spiffe://evil"}
	billing := pki.client(t, "billing")
	got := planHeader(t, harness.Get(t, billing, address+"source", header...))
	want := `{"address":"127.0.0.1","certificate":{"dns_names":["billing.acme.example"],"subject":"CN=billing","uris":["spiffe://acme.example/billing"]},` +
		`"principal":"spiffe://acme.example/billing"}`
	if got != want {
		t.Errorf("the policy saw %s, not %s", got, want)
	}
	if got := planHeader(t, harness.Get(t, billing, address+"certificate", header...)); got != "spiffe://acme.example/billing" {
		t.Errorf("the policy saw the URIs %q", got)
	}
}
