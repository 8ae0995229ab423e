package mesh

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/test/harness"
	"github.com/keywicket/keywicket/test/threats"
	"github.com/keywicket/keywicket/test/wire"
)

// The sidecar denies a message that is too large to check. So Envoy does not serve the request, even if Envoy is configured
// to serve requests whose check failed.
func TestMessageTooLargeIsDeniedThroughAMesh(t *testing.T) {
	t.Parallel()
	const normalize, fail = "          normalize_path: true\n", "              failure_mode_allow: false\n"
	m := newMesh(t, threats.Istio, edit{normalize, normalize + "          max_request_headers_kb: 8192\n"}, // the largest value that Envoy permits
		edit{fail, strings.Replace(fail, "false", "true", 1)})
	live := m.principal(t, "sk_live_", "inbox:read")
	filled := func(values, size int) wire.Request {
		msg := live.request(inboxPath, [2]string{"x-workspace-id", m.home.ID})
		for i := range values {
			msg.Header = append(msg.Header, [2]string{fmt.Sprint("x-filler-", i), strings.Repeat("a", size)})
		}
		return msg
	}
	const denied = "431 REQUEST_TOO_LARGE too_large"
	count := 0
	for _, protocol := range wire.HTTPProtocols {
		s := m.newClient(protocol)
		for _, c := range []struct {
			name string
			wire.Request
			want string
		}{
			{"300 KiB", filled(5, 60<<10), denied},
			{"240 KiB", filled(4, 60<<10), "allow"},
			{"7 MiB", filled(1, 7<<20), denied},
		} {
			if c.name == "7 MiB" && protocol == "HTTP/2" { // Envoy closes the connection
				c.want = "closed"
			}
			got := s.Expect(t, protocol+", "+c.name, c.Request, c.want)
			if c.want == denied {
				count++
				if !bytes.Contains(got.Body, []byte(`"decision_id"`)) {
					t.Errorf("%s, %s: the answer is not from the sidecar: %s", protocol, c.name, got.Body)
				}
			}
		}
		s.Close()
	}
	_, metrics := harness.Probe(t, m.Stack, "/metrics")
	counter := fmt.Sprint("\n", `keywicket_checks_total{api="",code="REQUEST_TOO_LARGE",reason="too_large"} `, count, "\n")
	if !strings.Contains(metrics, counter) {
		t.Errorf("the metrics do not have %s", counter)
	}
	harness.Await(t, "the denials are logged", func() bool {
		return strings.Count(m.log.String(), `"code":"REQUEST_TOO_LARGE","reason":"too_large"`) == count
	})
}
