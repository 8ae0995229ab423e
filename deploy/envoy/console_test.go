package bootstrap_test

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// closedPages are paths of the console's pages, which no script of another origin may use. Envoy normalises some of these paths.
var closedPages = []string{
	"/settings", "/settings?page=2", "/settings/", "/settings/developer/api-tokens", "//settings//developer", "/%73ettings", "/x/../settings",
	`/settings\developer`,
}

func listeners(s *stack) map[string]string {
	return map[string]string{"velaflows": s.velaflows, "velocity": s.velocity}
}

// Envoy sends the paths of the console to the console, and no other path.
func TestPathsOfTheConsole(t *testing.T) {
	t.Parallel()
	s := start(t)
	want := map[string]string{
		"/api/keywicket/v1": "console", "/api/keywicket/v1/tokens": "console", "/api/keywicket/v1/tokens/7?x=y": "console",
		"/api/keywicket/%761/tokens": "console", "/api/v1/../keywicket/v1/tokens": "console",
		"/settingsx": "live", "/settings-x": "live", "/settings.x/y": "live", "/settings;x=y": "live", "/setting": "live", "/SETTINGS": "live",
		"/Settings/x": "live", "/x/settings": "live", "/settings/../x": "live", "/settings/%2e%2e/x": "live", "/x?/settings": "live",
		"/api/settings": "live", "/api/keywicket": "live", "/api/keywicket/v10/tokens": "live", "/api/keywicket/v2/tokens": "live",
		"/API/keywicket/v1/tokens": "live", "/api/keywicket/v1/../v2": "live",
	}
	for _, path := range closedPages {
		want[path] = "console"
	}
	for api, addr := range listeners(s) {
		for path, upstream := range want {
			if got := send(t, addr, "GET "+path, "authorization: Bearer live").echo(t); got.Upstream != upstream {
				t.Errorf("%s: %s reached %s, not %s", api, path, got.Upstream, upstream)
			}
		}
		before := s.console.Count()
		for _, path := range []string{"/settings%2fx", "/settings%5Cx", "/api/keywicket/v1%2ftokens"} {
			if a := send(t, addr, "GET "+path, "authorization: Bearer live"); a.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %s: got %d", api, path, a.StatusCode)
			}
		}
		for _, path := range append([]string{"/api/keywicket/v1/tokens"}, closedPages...) {
			for token, status := range map[string]int{"401": 401, "403": 403, "503": 503} {
				if a := send(t, addr, "GET "+path, "authorization: Bearer "+token); a.StatusCode != status || a.body != denial {
					t.Errorf("%s: %s: got %d %s", api, path, a.StatusCode, a.body)
				}
			}
		}
		if n := s.console.Count() - before; n != 0 {
			t.Errorf("%s: %d refused requests reached the console", api, n)
		}
	}
	// There is one console for both environments. All other paths reach the upstream of the token's environment.
	for path, upstream := range map[string]string{"/settings": "console", "/api/keywicket/v1/tokens": "console", "/settingsx": "sandbox", "/a": "sandbox"} {
		got := send(t, s.velaflows, "GET "+path, "authorization: Bearer sandbox", "x-keywicket-environment: live").echo(t)
		if got.Upstream != upstream {
			t.Errorf("%s with a token of the sandbox reached %s, not %s", path, got.Upstream, upstream)
		}
	}
}

// The console gets the name of the API only from the sidecar. Only the pages receive cookies, and the sidecar receives none.
func TestHeadersForTheConsole(t *testing.T) {
	t.Parallel()
	s := start(t)
	forged := []string{
		"x-keywicket-api: forged", "X-Keywicket-Api: forged", "x.keywicket.api: forged", "x-keywicket~api: forged", "cookie: session=secret",
	}
	for api, addr := range listeners(s) {
		for _, token := range []string{"live", "bare", "sandbox"} {
			for path, cookie := range map[string][]string{
				"/settings": {"session=secret"}, "/settings/developer/api-tokens": {"session=secret"}, "/api/keywicket/v1/tokens": nil, "/api/keywicket/v1": nil,
			} {
				echo := send(t, addr, "POST "+path, append(forged, "content-length: 0", "authorization: Bearer "+token)...).echo(t)
				for name, values := range echo.Headers {
					if strings.HasSuffix(strings.ToLower(name), "api") && name != "x-keywicket-api" {
						t.Errorf("%s: %s: the console saw %s %q", api, path, name, values)
					}
				}
				want := []string{api}
				if token == "bare" { // the sidecar sets no headers
					want = nil
				}
				if got := echo.Headers["x-keywicket-api"]; echo.Upstream != "console" || !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %s with the token %s: the %s saw x-keywicket-api %q", api, path, token, echo.Upstream, got)
				}
				if got := echo.Headers["cookie"]; !reflect.DeepEqual(got, cookie) {
					t.Errorf("%s: %s: the console saw the cookies %q, not %q", api, path, got, cookie)
				}
				for _, h := range s.sidecar.lastCheck(t).GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
					if h.GetKey() != "authorization" {
						t.Errorf("%s: %s: the check saw %s", api, path, h.GetKey())
					}
				}
			}
			echo := send(t, addr, "GET /settingsx", append(forged, "authorization: Bearer "+token)...).echo(t)
			if got := echo.Headers["x-keywicket-api"]; slices.Contains(got, "forged") {
				t.Errorf("%s: the upstream saw x-keywicket-api %q", api, got)
			}
		}
	}
}

// The pages receive all cookies of the product's host. Over HTTP/1.1, they are one header.
func TestPagesTakeManyCookies(t *testing.T) {
	t.Parallel()
	s := start(t)
	cookies := make([]string, 128)
	for n := range cookies {
		cookies[n] = fmt.Sprintf("analytics-%03d=%s", n, strings.Repeat("x", 384-16)) // 48 KiB in total
	}
	for api, addr := range listeners(s) {
		if a := send(t, addr, "GET /settings", "cookie: "+strings.Join(cookies, "; ")); a.StatusCode != http.StatusOK {
			t.Errorf("%s: got %d %s", api, a.StatusCode, a.body)
		}
		separate := make([]string, 180)
		for n := range separate {
			separate[n] = fmt.Sprintf("x-%d: y", n) // over HTTP/2, each cookie counts as a header
		}
		if a := send(t, addr, "GET /settings", separate...); a.StatusCode != http.StatusOK {
			t.Errorf("%s: 180 headers: got %d %s", api, a.StatusCode, a.body)
		}
	}
}
