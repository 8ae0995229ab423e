package bootstrap_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestAllowedRequest(t *testing.T) {
	t.Parallel()
	s := start(t)
	for api, addr := range map[string]string{"velaflows": s.velaflows, "velocity": s.velocity} {
		echo := send(t, addr, "GET /a?q=secret", "authorization: Bearer live", "cookie: session=secret",
			"x-workspace-id: one", "X-Workspace-Id: two", "x-workspace-slug: acme", "x-kept: yes").echo(t)
		if echo.Upstream != "live" || echo.Path != "/a?q=secret" {
			t.Errorf("%s: got %+v", api, echo)
		}
		for name, want := range map[string][]string{
			"x-keywicket-subject":     {"token-1"},
			"x-keywicket-environment": {"live"},
			"authorization":           nil,     // the sidecar removes it
			"x-workspace-slug":        nil,     // the sidecar removes it
			"x-else":                  nil,     // the sidecar sets it, but the mutation rules do not permit this
			"x-kept":                  {"yes"}, // the sidecar removes it, but the mutation rules do not permit this
			"x-workspace-id":          {"one", "two"},
		} {
			if !reflect.DeepEqual(echo.Headers[name], want) {
				t.Errorf("%s: the upstream saw %s %q, want %q", api, name, echo.Headers[name], want)
			}
		}

		check := s.sidecar.lastCheck(t)
		if want := map[string]string{"api": api}; !reflect.DeepEqual(check.GetContextExtensions(), want) {
			t.Errorf("context extensions %v, want %v", check.GetContextExtensions(), want)
		}
		seen := map[string][]string{}
		for _, h := range check.GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
			seen[h.GetKey()] = append(seen[h.GetKey()], string(h.GetRawValue()))
		}
		if want := map[string][]string{
			"authorization": {"Bearer live"}, "x-workspace-id": {"one", "two"}, "x-workspace-slug": {"acme"},
		}; !reflect.DeepEqual(seen, want) {
			t.Errorf("%s: the check saw %q, want %q", api, seen, want)
		}
		if http := check.GetRequest().GetHttp(); http.GetPath() != "/a?q=secret" || len(http.GetHeaders()) != 0 {
			t.Errorf("%s: the check saw %s, %v", api, http.GetPath(), http.GetHeaders())
		}
	}
}

func TestOnlyTheSidecarChoosesTheUpstream(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, c := range []struct{ name, addr, token, forged, want string }{
		{"a live token", s.velaflows, "live", "", "live"},
		{"a sandbox token", s.velaflows, "sandbox", "", "sandbox"},
		{"a live token with a forged header for the sandbox", s.velaflows, "live", "sandbox", "live"},
		{"a sandbox token with a forged header for live", s.velaflows, "sandbox", "live", "sandbox"},
		{"no header from the sidecar, and a forged header for the sandbox", s.velaflows, "bare", "sandbox", "live"},
		{"an API without a sandbox", s.velocity, "sandbox", "sandbox", "live"},
	} {
		headers := []string{"authorization: Bearer " + c.token}
		if c.forged != "" {
			forged := "X-Keywicket-Environment: " + c.forged
			headers = append(headers, forged, forged, "x-keywicket-environment:", forged)
		}
		a := send(t, c.addr, "GET /", headers...)
		if got := a.echo(t).Upstream; got != c.want || a.Header.Get("x-upstream") != c.want {
			t.Errorf("%s: reached %s, want %s", c.name, got, c.want)
		}
	}
}

func TestClientsCannotForgeHeaders(t *testing.T) {
	t.Parallel()
	s := start(t)
	echo := send(t, s.velaflows, "GET /a", "authorization: Bearer live",
		"X-Keywicket-Subject: evil", "x-keywicket-subject: evil", "x-keywicket-scopes: admin:all", "x-keywicket-:",
		"x-original-url: /admin", "x-rewrite-url: /admin", "x-http-method-override: DELETE", "X-HTTP-Method-Override: PUT",
		"x-envoy-original-path: /admin", "x-envoy-decorator-operation: x", "connection: x-workspace-id, authorization",
		"x.keywicket.subject: evil", "X~Keywicket~Role: owner", "x-keywicket.scopes: admin:all", "x.workspace.id: evil", "x-workspace.slug: evil",
		"x.original.url: /admin", "x~rewrite-url: /admin", "x.http.method.override: DELETE", "x-http-method: DELETE", "x.method-override: PUT",
		"x-kept: yes").echo(t)
	var got []string
	for name, values := range echo.Headers {
		if strings.HasPrefix(name, "x") && name != "x-request-id" && !strings.HasPrefix(name, "x-forwarded-") {
			got = append(got, fmt.Sprint(name, values))
		}
	}
	want := map[string]bool{
		"x-keywicket-subject[token-1]": true, "x-keywicket-api[velaflows]": true, "x-keywicket-environment[live]": true, "x-kept[yes]": true,
		"x-envoy-expected-rq-timeout-ms[15000]": true, "x-envoy-external-address[127.0.0.1]": true, // set by Envoy
	}
	for _, header := range got {
		if !want[header] {
			t.Errorf("the upstream saw %s", header)
		}
		delete(want, header)
	}
	for header := range want {
		t.Errorf("the upstream did not see %s", header)
	}
	if headers := s.sidecar.lastCheck(t).GetRequest().GetHttp().GetHeaderMap().GetHeaders(); len(headers) != 0 {
		t.Errorf("Envoy does not forward a header that Connection names, so the check must not contain it: %v", headers)
	}
}

func TestEnvoyRejectsBeforeTheCheck(t *testing.T) {
	t.Parallel()
	s := start(t)
	many := make([]string, 260)
	for i := range many {
		many[i] = fmt.Sprintf("x-%d: y", i)
	}
	for _, c := range []struct {
		name, request string
		headers       []string
		status        int
		code, reason  string
	}{
		{"escaped slash", "GET /api/v1/inbox%2Fconversations", nil, 400, "BAD_REQUEST", "bad_request"},
		{"escaped slash, lower case", "GET /api%2f..%2fadmin", nil, 400, "BAD_REQUEST", "bad_request"},
		{"escaped backslash", "GET /a%5Cb", nil, 400, "BAD_REQUEST", "bad_request"},
		{"escaped slash at the start", "GET /%2fevil.example", nil, 400, "BAD_REQUEST", "bad_request"},
		{"escaped NUL", "GET /a%00b", nil, 400, "BAD_REQUEST", "bad_request"},
		{"fragment", "GET /a#f", nil, 400, "BAD_REQUEST", "bad_request"},
		{"no leading slash", "GET a", nil, 400, "BAD_REQUEST", "bad_request"},
		{"unknown method", "FOO /a", nil, 400, "BAD_REQUEST", "bad_request"},
		{"underscore", "GET /a", []string{"x_workspace_id: a"}, 400, "BAD_REQUEST", "bad_request"},
		{"control character", "GET /a", []string{"authorization: Bearer \x01"}, 400, "BAD_REQUEST", "bad_request"},
		{"the method CONNECT", "CONNECT evil.test:443", nil, 404, "NOT_FOUND", "not_found"},
		{"large headers", "GET /a", []string{"x-a: " + strings.Repeat("a", 65<<10)}, 431, "HEADERS_TOO_LARGE", "too_large"},
		{"many headers", "GET /a", many, 431, "HEADERS_TOO_LARGE", "too_large"},
	} {
		a := send(t, s.velaflows, c.request, append(c.headers, "authorization: Bearer live")...)
		wantLocalReply(t, c.name, a, c.status, c.code, c.reason)
	}
	if s.sidecar.checkCount() != 0 || s.reached() != 0 {
		t.Errorf("%d requests were checked and %d reached an upstream", s.sidecar.checkCount(), s.reached())
	}
}

// wantLocalReply checks that Envoy itself sent the response. The body must have the JSON form of the sidecar's errors: code, reason
// and message.
func wantLocalReply(t *testing.T, name string, a fullResponse, status int, code, reason string) {
	t.Helper()
	var body struct {
		Error struct{ Code, Reason, Message string }
	}
	err := json.Unmarshal([]byte(a.body), &body)
	if err != nil || a.StatusCode != status || a.Header.Get("content-type") != "application/json" ||
		body.Error.Code != code || body.Error.Reason != reason || body.Error.Message == "" {
		t.Errorf("%s: got %d %v %q, want %d %s", name, a.StatusCode, a.Header, a.body, status, code)
	}
	if want := map[bool]string{true: "1"}[status == http.StatusServiceUnavailable]; a.Header.Get("retry-after") != want {
		t.Errorf("%s: retry-after %q, want %q", name, a.Header.Get("retry-after"), want)
	}
}

func TestCheckAndUpstreamSeeTheSamePath(t *testing.T) {
	t.Parallel()
	s := start(t)
	for sent, want := range map[string]string{
		"/api/v1/inbox/../admin":        "/api/v1/admin",
		"/api/v1/inbox/%2e%2e/admin":    "/api/v1/admin",
		`/api/v1\admin`:                 "/api/v1/admin",
		"//api/v1//inbox":               "/api/v1/inbox",
		"http://evil.test/api/v1/admin": "/api/v1/admin",
		"/a?x=/../b":                    "/a?x=/../b",
		"/a;b/%252f":                    "/a;b/%252f", // unchanged: the policies refuse it
	} {
		echo := send(t, s.velaflows, "GET "+sent, "authorization: Bearer live").echo(t)
		if checked := s.sidecar.lastCheck(t).GetRequest().GetHttp().GetPath(); checked != want || echo.Path != want {
			t.Errorf("%s: checked as %s, passed as %s, want %s", sent, checked, echo.Path, want)
		}
	}
}

func TestHostIsNormalised(t *testing.T) {
	t.Parallel()
	s := start(t)
	echo := send(t, s.velaflows, "GET http://evil.test.:80/", "authorization: Bearer live").echo(t)
	if checked := s.sidecar.lastCheck(t).GetRequest().GetHttp().GetHost(); checked != "evil.test" || echo.Host != checked {
		t.Errorf("checked as %s, passed as %s", checked, echo.Host)
	}
}

func TestDenialReachesTheClientUnchanged(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := dial(t, s.velaflows)
	defer func() { _ = c.Close() }()
	for _, status := range []int{401, 403, 503} {
		a := c.send(t, "GET /a", fmt.Sprintf("authorization: Bearer %d", status))
		if a.StatusCode != status || a.body != denial || len(a.Header["Content-Type"]) != 1 ||
			a.Header.Get("content-type") != "application/problem+json" ||
			a.Header.Get("www-authenticate") != `Bearer error="x"` || a.Header.Get("retry-after") != "7" {
			t.Errorf("%d: got %d %v %q", status, a.StatusCode, a.Header, a.body)
		}
	}
	if s.reached() != 0 {
		t.Errorf("%d denied requests reached an upstream", s.reached())
	}
	c.send(t, "GET /a", "authorization: Bearer live").echo(t)
	if s.reached() != 1 {
		t.Error("the next request on the same connection did not reach an upstream")
	}
}

func TestGRPCClientGetsAStatus(t *testing.T) {
	t.Parallel()
	s := start(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	defer client.CloseIdleConnections()
	for token, want := range map[string]string{"401": "16", "403": "7", "hang": "14"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.velaflows+"/x.Y/Z", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("authorization", "Bearer "+token)
		r.Header.Set("content-type", "application/grpc")
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		if got := a.Header.Get("grpc-status"); a.StatusCode != http.StatusOK || got != want {
			t.Errorf("%s: got %d, grpc-status %q, want %s", token, a.StatusCode, got, want)
		}
	}
}

func TestUnresponsiveSidecar(t *testing.T) {
	t.Parallel()
	s := start(t)
	send(t, s.velaflows, "GET /", "authorization: Bearer live").echo(t)

	before := time.Now()
	a := send(t, s.velaflows, "GET /hanging", "authorization: Bearer hang")
	wantLocalReply(t, "hanging", a, 503, "UNAVAILABLE", "unavailable")
	if took := time.Since(before); took < 400*time.Millisecond || took > 2*time.Second {
		t.Errorf("hanging: refused after %s, want 0.5s", took)
	}
	if entry := s.log.entry(t, "/hanging"); entry["flags"] != "UAEX" || entry["details"] != "ext_authz_error" || entry["upstream"] != nil {
		t.Errorf("hanging: logged as %v", entry)
	}

	s.sidecar.server.Stop()
	for _, addr := range []string{s.velaflows, s.velocity} {
		wantLocalReply(t, "down", send(t, addr, "GET /", "authorization: Bearer live"), 503, "UNAVAILABLE", "unavailable")
	}
	if s.reached() != 1 {
		t.Errorf("%d requests reached an upstream without a check", s.reached()-1)
	}

	s.sidecar.start(t)
	send(t, s.velaflows, "GET /", "authorization: Bearer live").echo(t)
}

func TestInvalidMutationIsA500(t *testing.T) {
	t.Parallel()
	s := start(t)
	wantLocalReply(t, "a line break", send(t, s.velaflows, "GET /", "authorization: Bearer invalid"), 500, "ERROR", "error")
	if s.reached() != 0 {
		t.Error("the request reached an upstream")
	}
}

func TestSlowOrBusySidecar(t *testing.T) {
	t.Parallel()
	s := start(t)
	for token, checks := range map[string]int{
		"slow":  1, // the response takes 0.3 s: Envoy does not end this try early
		"flaky": 2, // the first response is UNAVAILABLE: Envoy retries within the timeout
	} {
		before := s.sidecar.checkCount()
		send(t, s.velaflows, "GET /", "authorization: Bearer "+token).echo(t)
		if got := s.sidecar.checkCount() - before; got != checks {
			t.Errorf("%s: checked %d times, want %d", token, got, checks)
		}
	}
}

func TestUpstreamDown(t *testing.T) {
	t.Parallel()
	s := start(t)
	if err := s.live.Close(); err != nil {
		t.Fatal(err)
	}
	wantLocalReply(t, "down", send(t, s.velaflows, "GET /", "authorization: Bearer live"), 503, "UNAVAILABLE", "unavailable")
	send(t, s.velaflows, "GET /", "authorization: Bearer sandbox").echo(t)
}

func TestSlowHeaders(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := dial(t, s.velaflows)
	defer func() { _ = c.Close() }()
	before := time.Now()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nhost: api.test\r\nauthorization: Bearer li"); err != nil {
		t.Fatal(err)
	}
	wantLocalReply(t, "slow", c.read(t), 408, "REQUEST_TIMEOUT", "timeout")
	if took := time.Since(before); took < 4*time.Second || took > 7*time.Second {
		t.Errorf("refused after %s, want 5s", took)
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	s := start(t)
	send(t, s.velaflows, "GET /allowed?access_token=in-query", "authorization: Bearer in-header", "cookie: s=in-cookie")
	send(t, s.velaflows, "GET /denied?access_token=in-query", "authorization: Bearer 403")
	send(t, s.velaflows, "GET /%2F?access_token=in-query", "authorization: Bearer in-header")
	send(t, s.velaflows, "POST /x.Y/Z", "authorization: Bearer 403", "content-type: application/grpc", "content-length: 0")
	for path, want := range map[string]map[string]any{
		"/allowed": {"status": 200.0, "decision_id": "d-1", "code": "OK", "reason": "allowed", "subject": "token-1",
			"upstream": s.live.Addr(), "environment": "live", "grpc_status": nil},
		"/denied": {"status": 403.0, "decision_id": "d-1", "code": "FORBIDDEN", "reason": "missing_scope",
			"subject": "token-1", "details": "ext_authz_denied", "flags": "UAEX", "upstream": nil, "grpc_status": nil},
		"//":     {"status": 400.0, "decision_id": nil, "upstream": nil, "check_us": nil},
		"/x.Y/Z": {"status": 200.0, "upstream": nil, "grpc_status": "PermissionDenied"},
	} {
		entry := s.log.entry(t, path)
		if took, ok := entry["check_us"].(string); path != "//" && (!ok || !regexp.MustCompile(`^[1-9]\d+$`).MatchString(took)) {
			t.Errorf("%s: the check took %v us", path, entry["check_us"])
		}
		for key, value := range want {
			if entry[key] != value {
				t.Errorf("%s: %s is %v, want %v", path, key, entry[key], value)
			}
		}
	}
	for _, secret := range []string{"in-query", "in-header", "in-cookie", "Bearer"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("Envoy's output contains %s: %s", secret, s.log)
		}
	}
}
