package paths

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/wire"
)

// pathResult is the result for one path.
type pathResult struct {
	path           string
	envoy, checked wire.Response // from the listener without the check, and from the listener with it
	reached        int64         // number of requests that the listener with the check passed on to the upstream
	raw, direct    string        // outcomes of checks without Envoy: raw for the original path, direct for the path that Envoy passes on
}

// These are the faults that a pathResult can have.
const (
	leak         = "the path reached the upstream without an allow"
	otherRefusal = "Envoy alone refuses the path, but answers differently on the listener with the check"
	otherAnswer  = "the answer differs from the direct check of the path that Envoy alone passes on"
	otherPath    = "the upstream received another path than Envoy alone passes on"
	unstable     = "a direct check allows the unchanged path, but Envoy refuses it or passes on another path"
	notARoute    = "the path is allowed, but it is not a route"
	ambiguous    = "the path is allowed, but servers can read it in another way"
)

// fault returns the first fault, or "".
func (s pathResult) fault() string {
	passed := s.envoy.Echo.Path
	bare, _, _ := strings.Cut(passed, "?")
	sent, _, _ := strings.Cut(s.path, "?")
	switch allowed := s.checked.Outcome == "allow"; {
	case s.reached > 0 && !allowed:
		return leak
	case s.envoy.Outcome != "allow" && s.checked.Outcome != s.envoy.Outcome:
		return otherRefusal
	case s.raw == "allow" && passed == "" && !strings.Contains(s.path, "?"):
		return unstable // if the path has a query, Envoy may refuse the request because of the query
	case s.raw == "allow" && passed != "" && (!sameSegments(sent, bare) || s.path[len(sent):] != passed[len(bare):]):
		return unstable
	case s.envoy.Outcome != "allow":
		return ""
	case s.checked.Outcome != s.direct:
		return otherAnswer
	case !allowed:
		return ""
	case s.reached != 1 || s.checked.Echo.Path != passed:
		return otherPath
	case !routePaths().MatchString(strings.Join(decodedSegments(bare), "/")):
		return notARoute
	case !hasOneReading(bare):
		return ambiguous
	}
	return ""
}

func (s pathResult) kind() string {
	switch {
	case s.envoy.Outcome != "allow":
		return "refused by Envoy"
	case s.checked.Outcome != "allow":
		return "denied"
	case s.path != s.envoy.Echo.Path:
		return "changed and allowed"
	}
	return "allowed"
}

func (s pathResult) String() string {
	return fmt.Sprintf("%.200q: Envoy alone %s, %.200q; with the check %s, %.200q; direct check of the passed path %s, of the unchanged path %s", s.path,
		s.envoy.Outcome, s.envoy.Echo.Path, s.checked.Outcome, s.checked.Echo.Path, s.direct, s.raw)
}

// routePaths matches the decoded paths of the GET routes, with exact case. For such a path, even a server that ignores case
// finds the same route.
var routePaths = sync.OnceValue(func() *regexp.Regexp {
	var forms []string
	for _, r := range product.DocumentedAPIs["velaflows"].Routes() {
		if r.Method == http.MethodGet && r.Level != product.LevelUnlisted {
			forms = append(forms, strings.ReplaceAll(regexp.QuoteMeta(r.Path), `\{\}`, `[^/]+`))
		}
	}
	return regexp.MustCompile(`\A(?:` + strings.Join(forms, "|") + `)\z`)
})

// decodedSegments returns the segments that a server compares with its routes. It returns nil if a segment cannot be
// decoded.
func decodedSegments(p string) []string {
	segments := strings.Split(p, "/")
	for i, raw := range segments {
		var err error
		if segments[i], err = url.PathUnescape(raw); err != nil {
			return nil
		}
	}
	return segments
}

// sameSegments reports whether two paths have the same segments after decoding.
func sameSegments(p, q string) bool {
	segments := decodedSegments(p)
	return segments != nil && slices.Equal(segments, decodedSegments(q))
}

var (
	parameters = regexp.MustCompile(`;[^/]*`)
	slashes    = regexp.MustCompile(`//+`)

	// readings are the transformations that servers are known to apply to an unescaped path.
	readings = []func(string) string{
		path.Clean,
		func(p string) string { return slashes.ReplaceAllString(p, "/") },
		func(p string) string { return strings.ReplaceAll(p, `\`, "/") },
		func(p string) string { return parameters.ReplaceAllString(p, "") },
		func(p string) string { return p[:strings.IndexAny(p+"?", "\x00?#")] },
		func(p string) string { twice, _ := url.PathUnescape(p); return twice },
	}
)

// hasOneReading unescapes the path. It reports whether the number of segments stays the same, and no function in readings
// changes the unescaped path. If so, a combination of these functions does not change the path either.
func hasOneReading(p string) bool {
	once, err := url.PathUnescape(p)
	return err == nil && strings.Count(once, "/") == strings.Count(p, "/") &&
		!slices.ContainsFunc(readings, func(read func(string) string) bool { return read(once) != once })
}

// For every path that a client sends, Envoy, the sidecar and the upstream see the same path. An allowed path has only one
// meaning.
func TestEnvoyAndSidecarSeeTheSamePath(t *testing.T) {
	t.Parallel()
	v := newUncheckedStack(t)
	for seed, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		kinds := make(map[string]int)
		for _, s := range v.view(t, protocol, mutatedPaths(uint64(seed), 1100)) {
			kinds[s.kind()]++
			if fault := s.fault(); fault != "" {
				t.Errorf("%s: %s: %v", protocol, fault, s)
			}
		}
		t.Logf("%s: %v", protocol, kinds)
		for _, kind := range []string{"refused by Envoy", "denied", "changed and allowed", "allowed"} {
			if kinds[kind] < 50 {
				t.Errorf("%s: too few paths are %s", protocol, kind)
			}
		}
	}

	// Each row of this table changes the configuration of one listener. The test must then detect the fault.
	for _, c := range []struct{ fault, api, from, to string }{
		{otherAnswer, "velaflows", "normalize_path: true", "normalize_path: false"},
		{otherAnswer, "velocity", "merge_slashes: true", "merge_slashes: false"},
		{otherAnswer, "velaflows", "check_settings: {context_extensions: {api: velaflows}}", "disabled: true"},
		{otherRefusal, "velaflows", "slashes_action: REJECT_REQUEST", "slashes_action: UNESCAPE_AND_FORWARD"},
		{otherPath, "velaflows", "{cluster: upstream_live}", "{cluster: upstream_live, prefix_rewrite: /x/}"},
		{unstable, "velocity", "{cluster: upstream_live}", "{cluster: upstream_live, prefix_rewrite: /x/}"},
	} {
		v.restart(t, c.api, c.from, c.to)
		seen := v.view(t, "HTTP/1.1", mutatedPaths(2, 150))
		if !slices.ContainsFunc(seen, func(s pathResult) bool { return s.fault() == c.fault }) {
			t.Errorf("%s with %s: no path has the fault: %s", c.api, c.to, c.fault)
		}
	}
}
