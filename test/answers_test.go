package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
)

// These tests run the built-in policy with the edits below. The edits add denials and headers of the policy's own, and read
// more of a request. The query of a request selects the answer.

const ownAnswers = `} else := denied("PAYMENT_REQUIRED", "plan_too_small") if {
	input.request.raw_query == "plan"
} else := denied("RATE_LIMITED", "quota") if {
	input.request.raw_query == "quota"
} else := object.union(denied("RATE_LIMITED", "quota"), {"retry_after": 7}) if {
	input.request.raw_query == "wait"
} else := denied("FORBIDDEN", "outside_office_hours") if {
	input.request.raw_query == "hours"
} else := denied("UNAUTHORIZED", "device_unknown") if {
	input.request.raw_query == "device"
} else := denied("BLOCKED", "by_the_client") if {
	input.request.raw_query == "499"
} else := denied(upper("teapot"), input.request.raw_query) if {
	input.request.raw_query == "undeclared"
} else := object.union(denied("FORBIDDEN", "missing_scope"), {"any_of": ["contacts:read", "admin:all"]}) if {
	input.request.raw_query == "any"
} else := object.union(allowed, {"headers": told}) if {
	permitted
	count(told) > 0
} else := allowed if {
	permitted
`

const ownHeaders = `
told := {"x-plan": "pro"} if {
	input.request.raw_query == "header"
} else := {"x-role": "confidential"} if {
	input.request.raw_query == "undeclared-header"
} else := {"x-plan": json.marshal(input.source)} if {
	input.request.raw_query == "source"
} else := {"x-plan": concat(" ", input.source.certificate.uris)} if {
	input.request.raw_query == "certificate"
} else := {"x-plan": sprintf("%d %v", [input.time, time.clock([input.time, "Europe/Berlin"])])} if {
	input.request.raw_query == "time"
} else := {}
`

const ownConfiguration = `
policies: {dir: DIR}
apis:
  velaflows:
    workspace: {header: x-workspace-id, by: id, required: true}
    credentials:
      - {kind: workspace_token, prefix: sk_live_, visible_prefix: 16, body_length: 40}
    denials: &denials
      - {code: PAYMENT_REQUIRED, reason: plan_too_small, status: 402, message: "Your plan does not include this."}
      - {code: RATE_LIMITED, reason: quota, status: 429, message: "Too many requests.", retry_after: 30s}
      - {code: FORBIDDEN, reason: outside_office_hours, message: "Come back in office hours."}
      - {code: UNAUTHORIZED, reason: device_unknown, message: "Register this device."}
      - {code: BLOCKED, reason: by_the_client, status: 499, message: "Blocked."}
    upstream_headers: [x-plan]
  velocity:
    workspace: {header: x-workspace-slug, by: slug}
    credentials:
      - {kind: workspace_key, prefix: vel_, visible_prefix: 12}
    upstream_headers: [x-plan]
`

// ownPolicy writes the edited policy and a configuration that uses it.
func ownPolicy(t *testing.T) (dir, config string) {
	t.Helper()
	dir = policyFolder(t)
	file := filepath.Join(dir, "keywicket", "decision.rego")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = edited(t, text, "} else := allowed if {\n\tpermitted\n", ownAnswers, 1)
	if err := os.WriteFile(file, append(text, ownHeaders...), 0o600); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(t.TempDir(), "keywicket.yaml")
	appendTo(t, config, strings.Replace(ownConfiguration, "DIR", `"`+dir+`"`, 1))
	return dir, config
}

// permitPlan makes the change to Envoy's configuration that docs/configuration.md describes for the header x-plan.
func permitPlan(t *testing.T, envoy []byte) []byte {
	t.Helper()
	envoy = edited(t, envoy, `"authorization|x.(keywicket|`, `"authorization|x.plan|x.(keywicket|`, 1)
	return edited(t, envoy, `{regex: "x.keywicket..*"}`, `{regex: "x.keywicket..*|x[^-]plan"}`, 1)
}

func TestAnswersOfItsOwn(t *testing.T) {
	_, config := ownPolicy(t)
	var log syncbuffer.Buffer
	s := separateStack(t, demo.Config{
		Environ:     []string{"KEYWICKET_CONFIG=" + config},
		EnvoyConfig: func(envoy []byte) []byte { return permitPlan(t, envoy) },
		Log:         &log,
	})
	home := tenant(t, s)
	token := issue(t, s, "sk_live_", home.Slug, "inbox:read", "--config", config).Token
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	send := func(query string, header ...string) reply {
		return get(t, client, s.VelaFlows+"/api/v1/inbox/conversations?"+query,
			append([]string{"Authorization", "Bearer " + token, "X-Workspace-Id", home.ID}, header...)...)
	}

	for query, want := range map[string]struct {
		status                         int
		code, reason, message          string
		retryAfter, challenge, further string
	}{
		"plan":  {402, "PAYMENT_REQUIRED", "plan_too_small", "Your plan does not include this.", "", "", ""},
		"quota": {429, "RATE_LIMITED", "quota", "Too many requests.", "30", "", ""},
		"wait":  {429, "RATE_LIMITED", "quota", "Too many requests.", "7", "", ""},
		"hours": {403, "FORBIDDEN", "outside_office_hours", "Come back in office hours.", "", "", ""},
		"device": {401, "UNAUTHORIZED", "device_unknown", "Register this device.", "",
			`Bearer realm="keywicket", error="invalid_token"`, ""},
		"499": {499, "BLOCKED", "by_the_client", "Blocked.", "", "", ""}, // Envoy's enum of statuses lacks 499
		"any": {403, "FORBIDDEN", "missing_scope", "", "", `Bearer error="insufficient_scope", scope="inbox:read contacts:read"`,
			`"any_of":["contacts:read","admin:all"]`},
		"undeclared":        {503, "UNAVAILABLE", "unavailable", "Access could not be decided. Try again.", "1", "", ""},
		"undeclared-header": {503, "UNAVAILABLE", "unavailable", "Access could not be decided. Try again.", "1", "", ""},
	} {
		before := s.Live.Count()
		r := send(query)
		e := r.denial(t)
		if r.status != want.status || e.Code != want.code || e.Reason != want.reason || want.message != "" && e.Message != want.message || e.DecisionID == "" ||
			r.header.Get("Retry-After") != want.retryAfter || r.header.Get("WWW-Authenticate") != want.challenge || !strings.Contains(r.body, want.further) {
			t.Errorf("%s: got %d %v %s", query, r.status, r.header, r.body)
		}
		if s.Live.Count() != before {
			t.Errorf("%s: it reached the upstream", query)
		}
	}
	// Envoy derives the gRPC status from the HTTP status: UNAVAILABLE, which clients retry, and UNKNOWN.
	for query, status := range map[string]string{"quota": "14", "plan": "2"} {
		if r := send(query, "Content-Type", "application/grpc"); r.header.Get("Grpc-Status") != status {
			t.Errorf("%s: gRPC's status is %v", query, r.header)
		}
	}
	await(t, "the causes are in the log", func() bool {
		return strings.Contains(log.String(), `the code \"TEAPOT\" and the reason \"undeclared\"`) && strings.Contains(log.String(), `it sets the header \"x-role\"`)
	})
	if strings.Contains(log.String(), "confidential") {
		t.Error("the value of a header is in the log")
	}
	// The policy's own codes and reasons are metric labels if they are declared. Undeclared ones are not.
	_, metrics := probeOf(t, s, "/metrics")
	if !strings.Contains(metrics, `keywicket_checks_total{api="velaflows",code="RATE_LIMITED",reason="quota"} 3`) || strings.Contains(metrics, "TEAPOT") {
		t.Errorf("the metrics are %s", metrics)
	}

	// A client cannot set the header, in any spelling. This holds where the policy sets it, where the policy does not, and
	// on a public route.
	forged := []string{"X-Plan", "enterprise", "x.plan", "enterprise"}
	if got := send("header", forged...).plan(t); got != "pro" {
		t.Errorf("the upstream saw %q", got)
	}
	if got := send("", forged...).plan(t); got != "" {
		t.Errorf("the upstream saw %q, which the client sent", got)
	}
	for _, base := range []string{s.VelaFlows, s.Velocity} {
		if got := get(t, client, base+"/healthz", forged...).plan(t); got != "" {
			t.Errorf("on a public route the upstream saw %q", got)
		}
	}

	// The policy can read the time and convert it to time zones.
	before := time.Now().UnixNano()
	var at int64
	var clock [3]int
	if _, err := fmt.Sscanf(send("time").plan(t), "%d [%d, %d, %d]", &at, &clock[0], &clock[1], &clock[2]); err != nil {
		t.Fatal(err)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	h, m, sec := time.Unix(0, at).In(berlin).Clock()
	if at < before || at > time.Now().UnixNano() || clock != [3]int{h, m, sec} {
		t.Errorf("the policy saw the time %d, %v", at, clock)
	}

	// explain reports a declared denial in the same form as a built-in one.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := command(ctx, s, "explain", "GET", "/api/v1/inbox/conversations?plan", "--scope", "inbox:read", "--workspace", home.Slug, "--api", "velaflows", "--config", config).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PAYMENT_REQUIRED, plan_too_small")) {
		t.Errorf("explain: %v %s", err, out)
	}
}

// Envoy limits which headers the sidecar may change. Without the edit that docs/configuration.md advises, the answer is a
// 500.
func TestHeaderThatEnvoyDoesNotPermit(t *testing.T) {
	_, config := ownPolicy(t)
	s := separateStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config},
		EnvoyConfig: func(envoy []byte) []byte {
			return edited(t, envoy, "disallow_all: true\n", "disallow_all: true\n                        disallow_is_error: true\n", 1)
		},
	})
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	if r := get(t, client, s.VelaFlows+"/healthz", "X-Plan", "enterprise"); r.status != 500 || s.Live.Count() != 0 {
		t.Errorf("got %d %s", r.status, r.body)
	}
}

// The sidecar finds pairs that no API declares before the first check, and reports each with its line.
func TestUndeclaredDenialIsRefusedAtStart(t *testing.T) {
	dir, _ := ownPolicy(t)
	for _, args := range [][]string{
		{"serve", "--policies-dir", dir, "--listen-grpc", "127.0.0.1:0", "--listen-operations", "127.0.0.1:0"},
		{"explain", "GET", "/", "--scope", "inbox:read", "--policies-dir", dir},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := command(ctx, world.stack, args...).CombinedOutput()
		var exit *exec.ExitError
		want := "keywicket: policies (" + dir + "): keywicket/decision.rego:"
		if !errors.As(err, &exit) || !strings.HasPrefix(string(out), want) || !strings.Contains(string(out), "apis.NAME.denials") || bytes.Count(out, []byte("\n")) != 6 {
			t.Errorf("%s: %v, %s", args[0], err, out)
		}
	}
}

const proxyProtocol = `[{name: envoy.filters.listener.proxy_protocol, typed_config: {` +
	`"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true}}]`

// The policy reads the client address that Envoy trusts. A client cannot choose it.
func TestSourceThroughEnvoy(t *testing.T) {
	_, config := ownPolicy(t)
	pki := newAuthority(t)
	s := separateStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config},
		EnvoyConfig: func(envoy []byte) []byte {
			envoy = permitPlan(t, envoy)
			// Velocity's listener is behind a proxy that appends to x-forwarded-for, or that uses the PROXY protocol.
			before, after, _ := bytes.Cut(envoy, []byte("- name: velocity\n"))
			after = edited(t, after, "use_remote_address: true\n", "use_remote_address: true\n                xff_num_trusted_hops: 1\n", 1)
			after = edited(t, after, "      filter_chains:\n", "      listener_filters: "+proxyProtocol+"\n      filter_chains:\n", 1)
			// VelaFlows' listener uses mutual TLS.
			before = edited(t, before, "        - filters:\n", "        - transport_socket: "+pki.transportSocket(t)+"\n          filters:\n", 1)
			before = edited(t, before, "encode_raw_headers: true\n", "encode_raw_headers: true\n                      include_peer_certificate: true\n", 1)
			return append(append(before, "- name: velocity\n"...), after...)
		},
	})
	home := tenant(t, s)
	key := issue(t, s, "vel_", home.Slug, "issues:read", "--config", config).Token
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
		if got := get(t, client, s.Velocity+"/api/issues?source", header...).plan(t); got != want {
			t.Errorf("x-forwarded-for %q: the policy saw %s, not %s", forwarded, got, want)
		}
	}

	c := dial(t, listener(s, "velocity"))
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "PROXY TCP4 198.51.100.9 127.0.0.1 1234 80\r\n"); err != nil {
		t.Fatal(err)
	}
	seen := (&h1{Conn: c, r: bufio.NewReader(c)}).put(t, message{target: "/api/issues?source", header: [][2]string{{"Authorization", "Bearer " + key}}})
	if got := seen.echo.Headers["x-plan"]; len(got) != 1 || !strings.Contains(got[0], `"address":"198.51.100.9"`) {
		t.Errorf("by the PROXY protocol: %s, the policy saw %v", seen.outcome, got)
	}

	token := issue(t, s, "sk_live_", home.Slug, "inbox:read", "--config", config).Token
	address := strings.Replace(s.VelaFlows, "http:", "https:", 1) + "/api/v1/inbox/conversations?"
	header := []string{"Authorization", "Bearer " + token, "X-Workspace-Id", home.ID, "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Client-Cert", "URI=spiffe://evil"}
	billing := pki.client(t, "billing")
	got := get(t, billing, address+"source", header...).plan(t)
	want := `{"address":"127.0.0.1","certificate":{"dns_names":["billing.acme.example"],"subject":"CN=billing","uris":["spiffe://acme.example/billing"]},` +
		`"principal":"spiffe://acme.example/billing"}`
	if got != want {
		t.Errorf("the policy saw %s, not %s", got, want)
	}
	if got := get(t, billing, address+"certificate", header...).plan(t); got != "spiffe://acme.example/billing" {
		t.Errorf("the policy saw the URIs %q", got)
	}
}

type reply struct {
	status int
	header http.Header
	body   string
}

type denied struct {
	Code, Reason, Message string
	DecisionID            string `json:"decision_id"`
}

func get(t *testing.T, client *http.Client, address string, header ...string) reply {
	t.Helper()
	return fetch(t, client, http.MethodGet, address, header...)
}

// fetch sends a request with headers, given as name and value in turn. It sends a name exactly as written.
func fetch(t *testing.T, client *http.Client, method, address string, header ...string) reply {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header[header[i]] = append(q.Header[header[i]], header[i+1])
	}
	response, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(text)}
}

func (r reply) denial(t *testing.T) denied {
	t.Helper()
	var body struct{ Error denied }
	if err := json.Unmarshal([]byte(r.body), &body); err != nil {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	return body.Error
}

// plan returns the values of the header x-plan that the upstream received, in any spelling of the name.
func (r reply) plan(t *testing.T) string {
	t.Helper()
	var echo struct{ Headers map[string][]string }
	if err := json.Unmarshal([]byte(r.body), &echo); err != nil || r.status != http.StatusOK {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	var seen []string
	for name, values := range echo.Headers {
		if punctuation.ReplaceAllString(name, "-") == "x-plan" {
			seen = append(seen, values...)
		}
	}
	return strings.Join(seen, " and ")
}

// authority is a certificate authority for one test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	var a authority
	a.certificate = &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.key, a.certificate = a.sign(t, a.certificate)
	return a
}

// sign creates a key and a certificate for it. The first certificate is self-signed.
func (a authority) sign(t *testing.T, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.key == nil {
		a.key = key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

// client returns a client whose certificate has a SPIFFE ID.
func (a authority) client(t *testing.T, name string) *http.Client {
	t.Helper()
	key, certificate := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".acme.example"},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/" + name}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}},
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// transportSocket returns the configuration of a listener that requires a certificate from the authority.
func (a authority) transportSocket(t *testing.T) string {
	t.Helper()
	key, certificate := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "envoy"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	inline := func(kind string, der []byte) string {
		text, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
		if err != nil {
			t.Fatal(err)
		}
		return "{inline_string: " + string(text) + "}"
	}
	return `{name: envoy.transport_sockets.tls, typed_config: {` +
		`"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, ` +
		`common_tls_context: {validation_context: {trusted_ca: ` + inline("CERTIFICATE", a.certificate.Raw) + `}, ` +
		`tls_certificates: [{certificate_chain: ` + inline("CERTIFICATE", certificate.Raw) + `, private_key: ` + inline("PRIVATE KEY", der) + `}]}}}`
}
