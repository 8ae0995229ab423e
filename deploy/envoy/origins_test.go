package bootstrap_test

import (
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// listedOrigin is the origin in envoy.yaml's list of origins.
const listedOrigin = "https://app.example"

// The issuer's paths that scripts of listed origins may use, and those that no script of another origin may use.
var (
	openPaths = []string{
		"/api/oauth/token", "/api/oauth/revoke", "/.well-known/oauth-authorization-server",
		"/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp/",
	}
	closedPaths = []string{ // Envoy normalises some of these paths
		"/oauth/consent", "/oauth/consent?client_id=x", "//oauth//consent", "/oauth/%63onsent", "/oauth/x/../consent", `/oauth\consent`,
		"/api/oauth/introspect", "/api/oauth/%69ntrospect",
	}
)

// corsHeaders returns the response's headers that a browser evaluates before it shows the response to a script.
func corsHeaders(a fullResponse) map[string]string {
	headers := map[string]string{}
	for name, values := range a.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			headers[name] = strings.Join(values, "|")
		}
	}
	return headers
}

// Scripts of listed origins can read the upstream's responses, the sidecar's denials, and most of Envoy's own errors.
func TestListedOriginReadsResponses(t *testing.T) {
	t.Parallel()
	s := start(t)
	want := map[string]string{"Access-Control-Allow-Origin": listedOrigin, "Access-Control-Expose-Headers": "retry-after, www-authenticate"}
	read := func(addr, token string, status int) fullResponse {
		t.Helper()
		a := send(t, addr, "GET /a", "origin: "+listedOrigin, "authorization: Bearer "+token)
		if got := corsHeaders(a); a.StatusCode != status || !reflect.DeepEqual(got, want) || !slices.Contains(a.Header.Values("vary"), "Origin") {
			t.Errorf("%s: got %d %v", token, a.StatusCode, a.Header)
		}
		return a
	}
	for _, addr := range []string{s.velaflows, s.velocity} {
		for token, status := range map[string]int{"live": 200, "sandbox": 200, "hang": 503, "invalid": 500} {
			read(addr, token, status)
		}
		for token, status := range map[string]int{"401": 401, "403": 403, "503": 503} {
			if a := read(addr, token, status); a.body != denial || a.Header.Get("www-authenticate") == "" || a.Header.Get("retry-after") == "" {
				t.Errorf("%s: got %v %q", token, a.Header, a.body)
			}
		}
	}
	for _, path := range openPaths { // no issuer runs in this test
		a := send(t, s.velocity, "POST "+path, "origin: "+listedOrigin, "content-length: 0")
		wantLocalReply(t, path, a, 503, "UNAVAILABLE", "unavailable")
		if got := corsHeaders(a); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v", path, got)
		}
	}
	// Envoy refuses this request before it runs the filter cors.
	if a := send(t, s.velocity, "GET /a%2Fb", "origin: "+listedOrigin); a.StatusCode != http.StatusBadRequest || len(corsHeaders(a)) != 0 {
		t.Errorf("an escaped slash: got %d %v", a.StatusCode, a.Header)
	}
	s.sidecar.server.Stop()
	wantLocalReply(t, "without a sidecar", read(s.velocity, "live", 503), 503, "UNAVAILABLE", "unavailable")
	s.sidecar.start(t)
	if err := s.live.Close(); err != nil {
		t.Fatal(err)
	}
	wantLocalReply(t, "without an upstream", read(s.velocity, "live", 503), 503, "UNAVAILABLE", "unavailable")
}

// Envoy answers a preflight request of a listed origin. Neither the sidecar nor the upstream receives it.
func TestPreflight(t *testing.T) {
	t.Parallel()
	s := start(t)
	preflight := func(addr, path string) fullResponse {
		return send(t, addr, "OPTIONS "+path, "origin: "+listedOrigin, "access-control-request-method: DELETE",
			"access-control-request-headers: authorization,content-type,x-workspace-slug")
	}
	want := map[string]string{
		"Access-Control-Allow-Origin":  listedOrigin,
		"Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
		"Access-Control-Allow-Headers": "authorization, content-type, idempotency-key, x-workspace-id, x-workspace-slug",
		"Access-Control-Max-Age":       "7200",
	}
	const tokens = "/api/keywicket/v1/tokens" // a product's own dashboard may call the console's API
	for addr, paths := range map[string][]string{
		s.velaflows: {"/", "/api/v1/inbox?q=x", tokens}, s.velocity: append([]string{"/", "/api/issues", tokens}, openPaths...),
	} {
		for _, path := range paths {
			a := preflight(addr, path)
			got := corsHeaders(a)
			delete(got, "Access-Control-Expose-Headers") // has no effect on a preflight request
			if a.StatusCode != http.StatusOK || a.body != "" || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %d %v %q", path, a.StatusCode, a.Header, a.body)
			}
		}
	}
	if s.sidecar.checkCount() != 0 || s.reached() != 0 {
		t.Errorf("%d preflight requests were checked and %d reached an upstream", s.sidecar.checkCount(), s.reached())
	}
	// No script of another origin may use the consent page (RFC 9700, section 2.6), the introspection, or the pages of the console.
	for addr, paths := range map[string][]string{s.velaflows: closedPages, s.velocity: slices.Concat(closedPaths, closedPages)} {
		for _, path := range paths {
			before := s.sidecar.checkCount()
			if a := preflight(addr, path); len(corsHeaders(a)) != 0 || s.sidecar.checkCount() != before+1 {
				t.Errorf("%s: got %d %v, after %d checks", path, a.StatusCode, a.Header, s.sidecar.checkCount()-before)
			}
			for _, method := range []string{"GET", "POST"} {
				a := send(t, addr, method+" "+path, "origin: "+listedOrigin, "content-length: 0", "authorization: Bearer 401")
				if a.StatusCode != http.StatusUnauthorized || len(corsHeaders(a)) != 0 {
					t.Errorf("%s %s: got %d %v", method, path, a.StatusCode, a.Header)
				}
			}
		}
	}
}

// For every other origin, a response is not readable, and a preflight request is an ordinary request, which the sidecar checks.
func TestOtherOriginsReadNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, origin := range []string{
		"null", "*", "https://evil.test", "http://app.example", "https://app.example.evil.test", "https://evil.test/https://app.example",
		"https://app.example:443", "https://app.example:8443", "https://app.example.", "https://app.example/", "HTTPS://APP.EXAMPLE",
		"https://x.app.example", "https://appxexample", listedOrigin + ", https://evil.test", listedOrigin + "\r\norigin: https://evil.test",
	} {
		for _, addr := range []string{s.velaflows, s.velocity} {
			a := send(t, addr, "GET /", "origin: "+origin, "authorization: Bearer live")
			if a.StatusCode != http.StatusOK || len(corsHeaders(a)) != 0 || !slices.Contains(a.Header.Values("vary"), "Origin") {
				t.Errorf("%q: got %d %v", origin, a.StatusCode, a.Header)
			}
			before := s.sidecar.checkCount()
			a = send(t, addr, "OPTIONS /", "origin: "+origin, "access-control-request-method: GET", "authorization: Bearer 401")
			if a.StatusCode != http.StatusUnauthorized || len(corsHeaders(a)) != 0 || s.sidecar.checkCount() != before+1 {
				t.Errorf("preflight of %q: got %d %v", origin, a.StatusCode, a.Header)
			}
		}
	}
}

// An OPTIONS request that is not a preflight request is checked.
func TestOtherOptionsRequestsAreChecked(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, headers := range [][]string{
		nil, {"origin: " + listedOrigin}, {"access-control-request-method: GET"}, {"origin:", "access-control-request-method: GET"},
		{"origin: " + listedOrigin, "access-control-request-method:"}, {"origin: " + listedOrigin, "access-control-request-headers: authorization"},
	} {
		for _, path := range append([]string{"/"}, openPaths...) {
			before := s.sidecar.checkCount()
			a := send(t, s.velocity, "OPTIONS "+path, append(headers, "authorization: Bearer 401")...)
			if a.StatusCode != http.StatusUnauthorized || s.sidecar.checkCount() != before+1 {
				t.Errorf("%s with %q: got %d %v", path, headers, a.StatusCode, a.Header)
			}
		}
	}
	// A method that is not OPTIONS is no preflight request either.
	if a := send(t, s.velocity, "GET /", "origin: "+listedOrigin, "access-control-request-method: GET", "authorization: Bearer 401"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("GET: got %d", a.StatusCode)
	}
	if s.reached() != 0 {
		t.Errorf("%d requests reached an upstream", s.reached())
	}
}

// The list in envoy.yaml is the only list: an upstream can neither add an origin nor allow cookies.
func TestUpstreamCannotAllowOrigins(t *testing.T) {
	t.Parallel()
	s := start(t)
	if err := s.live.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", s.live.Addr())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Vary", "Accept-Encoding")
	})}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	for origin, want := range map[string]string{listedOrigin: listedOrigin, "https://evil.test": "", "null": ""} {
		a := send(t, s.velocity, "GET /", "origin: "+origin, "authorization: Bearer live")
		if a.StatusCode != http.StatusOK || a.Header.Get("Access-Control-Allow-Origin") != want || a.Header.Get("Access-Control-Allow-Credentials") != "" ||
			strings.Join(a.Header.Values("Vary"), ",") != "Accept-Encoding,Origin" {
			t.Errorf("%s: got %d %v", origin, a.StatusCode, a.Header)
		}
	}
}
