package wire

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Punctuation matches the characters in the name of a header that servers may read as a hyphen.
var Punctuation = regexp.MustCompile(`[^a-z0-9]`)

// Outcomes of requests. Each outcome begins with the HTTP status.
const (
	Malformed   = "401 UNAUTHORIZED malformed"
	Missing     = "401 UNAUTHORIZED missing"
	NoRoute     = "403 FORBIDDEN no_route"
	Mismatch    = "403 WORKSPACE_ACCESS_DENIED workspace_mismatch"
	Refused     = "400 BAD_REQUEST bad_request" // by Envoy itself
	NotFound    = "404 NOT_FOUND not_found"     // by Envoy itself
	TooLarge    = "431 HEADERS_TOO_LARGE too_large"
	UnknownHost = "503 UNAVAILABLE unavailable" // for a request to a host that no API has
)

// CheckUpstream compares what the upstream received with the expected headers. It fails the test if the upstream received a
// credential. The names :path, :host and :upstream in `want` are not compared for a direct check.
func (s Response) CheckUpstream(t *testing.T, what string, want map[string][]string) {
	t.Helper()
	if s.Outcome != "allow" {
		return
	}
	got := map[string][]string{":path": {s.Echo.Path}, ":host": {s.Echo.Host}, ":upstream": {s.Echo.Upstream}}
	for name, values := range s.Echo.Headers {
		got[name] = values
	}
	if got["authorization"] != nil {
		t.Errorf("%s: the upstream saw a credential", what)
	}
	for name, values := range want {
		if strings.HasPrefix(name, ":") && s.Echo.Upstream == "" {
			continue
		}
		if !slices.Equal(got[name], values) {
			t.Errorf("%s: the upstream saw %s %q, not %q", what, name, got[name], values)
		}
	}
}
