package policies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/internal/syncbuffer"
	"github.com/keywicket/keywicket/test/harness"
)

func TestDeclaredAnswers(t *testing.T) {
	t.Parallel()
	_, config := editedPolicy(t)
	var log syncbuffer.Buffer
	s := harness.StartStack(t, demo.Config{
		Environ:     []string{"KEYWICKET_CONFIG=" + config},
		EnvoyConfig: func(envoy []byte) []byte { return permitPlanHeader(t, envoy) },
		Log:         &log,
	})
	home := harness.CreateWorkspace(t, s)
	token := harness.IssueToken(t, s, "sk_live_", home.Slug, "inbox:read", "--config", config).Token
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	send := func(query string, header ...string) harness.Reply {
		return harness.Get(t, client, s.VelaFlows+"/api/v1/inbox/conversations?"+query,
			append([]string{"Authorization", "Bearer " + token, "X-Workspace-Id", home.ID}, header...)...)
	}

	for query, want := range map[string]struct {
		status                        int
		code, reason, message         string
		retryAfter, challenge, inBody string // inBody: text that the body must contain
	}{
		"plan":  {402, "PAYMENT_REQUIRED", "plan_too_small", "Your plan does not include this.", "", "", ""},
		"quota": {429, "RATE_LIMITED", "quota", "Too many requests.", "30", "", ""},
		"wait":  {429, "RATE_LIMITED", "quota", "Too many requests.", "7", "", ""},
		"hours": {403, "FORBIDDEN", "outside_office_hours", "Come back in office hours.", "", "", ""},
		"device": {401, "UNAUTHORIZED", "device_unknown", "Register this device.", "",
			`Bearer realm="keywicket", error="invalid_token"`, ""},
		"499": {499, "BLOCKED", "by_the_client", "Blocked.", "", "", ""}, // Envoy's enum of statuses does not have 499
		"any": {403, "FORBIDDEN", "missing_scope", "", "", `Bearer error="insufficient_scope", scope="inbox:read contacts:read"`,
			`"any_of":["contacts:read","admin:all"]`},
		"undeclared":        {503, "UNAVAILABLE", "unavailable", "Access could not be decided. Try again.", "1", "", ""},
		"undeclared-header": {503, "UNAVAILABLE", "unavailable", "Access could not be decided. Try again.", "1", "", ""},
	} {
		before := s.Live.Count()
		r := send(query)
		e := denialOf(t, r)
		if r.Status != want.status || e.Code != want.code || e.Reason != want.reason || want.message != "" && e.Message != want.message || e.DecisionID == "" ||
			r.Header.Get("Retry-After") != want.retryAfter || r.Header.Get("WWW-Authenticate") != want.challenge || !strings.Contains(r.Body, want.inBody) {
			t.Errorf("%s: got %d %v %s", query, r.Status, r.Header, r.Body)
		}
		if s.Live.Count() != before {
			t.Errorf("%s: the request reached the upstream", query)
		}
	}
	// Envoy derives the gRPC status from the HTTP status: 429 becomes UNAVAILABLE (14), which clients retry. 402 becomes
	// UNKNOWN (2).
	for query, status := range map[string]string{"quota": "14", "plan": "2"} {
		if r := send(query, "Content-Type", "application/grpc"); r.Header.Get("Grpc-Status") != status {
			t.Errorf("%s: gRPC's status is %v", query, r.Header)
		}
	}
	harness.Await(t, "the causes are in the log", func() bool {
		return strings.Contains(log.String(), `the code \"TEAPOT\" and the reason \"undeclared\"`) && strings.Contains(log.String(), `it sets the header \"x-role\"`)
	})
	if strings.Contains(log.String(), "confidential") {
		t.Error("the value of a header is in the log")
	}
	// Codes and reasons of the policy are metric labels only if the API declares them.
	_, metrics := harness.Probe(t, s, "/metrics")
	if !strings.Contains(metrics, `keywicket_checks_total{api="velaflows",code="RATE_LIMITED",reason="quota"} 3`) || strings.Contains(metrics, "TEAPOT") {
		t.Errorf("the metrics are %s", metrics)
	}

	// A client cannot set the header x-plan in any spelling. The policy sets this header for the first request. For the second
	// request, and on public routes, the policy does not set the header.
	forged := []string{"X-Plan", "enterprise", "x.plan", "enterprise"}
	if got := planHeader(t, send("header", forged...)); got != "pro" {
		t.Errorf("the upstream saw %q", got)
	}
	if got := planHeader(t, send("", forged...)); got != "" {
		t.Errorf("the upstream saw %q, which the client sent", got)
	}
	for _, base := range []string{s.VelaFlows, s.Velocity} {
		if got := planHeader(t, harness.Get(t, client, base+"/healthz", forged...)); got != "" {
			t.Errorf("on a public route the upstream saw %q", got)
		}
	}

	// The policy can read the time and convert it to time zones.
	before := time.Now().UnixNano()
	var at int64
	var clock [3]int
	if _, err := fmt.Sscanf(planHeader(t, send("time")), "%d [%d, %d, %d]", &at, &clock[0], &clock[1], &clock[2]); err != nil {
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

	// The command explain reports a declared denial in the same form as a built-in denial.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := harness.Command(ctx, t, s, "explain", "GET", "/api/v1/inbox/conversations?plan", "--scope", "inbox:read", "--workspace", home.Slug, "--api", "velaflows", "--config", config).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PAYMENT_REQUIRED, plan_too_small")) {
		t.Errorf("explain: %v %s", err, out)
	}
}

// Envoy limits which headers the sidecar may change. With disallow_is_error, and without the edit that permits the header
// x-plan, the client gets a 500: see docs/configuration.md.
func TestHeaderThatEnvoyRejects(t *testing.T) {
	t.Parallel()
	_, config := editedPolicy(t)
	s := harness.StartStack(t, demo.Config{
		Environ: []string{"KEYWICKET_CONFIG=" + config},
		EnvoyConfig: func(envoy []byte) []byte {
			return harness.Replace(t, envoy, "disallow_all: true\n", "disallow_all: true\n                        disallow_is_error: true\n", 1)
		},
	})
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	if r := harness.Get(t, client, s.VelaFlows+"/healthz", "X-Plan", "enterprise"); r.Status != 500 || s.Live.Count() != 0 {
		t.Errorf("got %d %s", r.Status, r.Body)
	}
}

// At start, the sidecar finds the pairs of a code and a reason that no API declares. It reports each pair with the line of the
// rule.
func TestUndeclaredDenialIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	dir, _ := editedPolicy(t)
	for _, args := range [][]string{
		{"serve", "--policies-dir", dir, "--listen-grpc", "127.0.0.1:0", "--listen-operations", "127.0.0.1:0"},
		{"explain", "GET", "/", "--scope", "inbox:read", "--policies-dir", dir},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := harness.Command(ctx, t, deployment.Stack, args...).CombinedOutput()
		var exit *exec.ExitError
		want := "keywicket: policies (" + dir + "): keywicket/decision.rego:"
		if !errors.As(err, &exit) || !strings.HasPrefix(string(out), want) || !strings.Contains(string(out), "apis.NAME.denials") || bytes.Count(out, []byte("\n")) != 6 {
			t.Errorf("%s: %v, %s", args[0], err, out)
		}
	}
}
