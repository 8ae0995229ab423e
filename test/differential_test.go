package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keywicket/keywicket/demo"
	"github.com/keywicket/keywicket/demo/envoyproxy"
	"github.com/keywicket/keywicket/demo/upstream"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

// uncheckedStack is a stack in which Velocity's listener checks nothing, so it shows how Envoy alone treats a path. VelaFlows'
// listener treats paths in the same way, and checks. The upstream of both echoes.
type uncheckedStack struct {
	*demo.Stack
	config  []byte        // Envoy's configuration
	reached *atomic.Int64 // requests that reached the upstream
	header  [][2]string   // of a key that may do everything, so that only the path decides
	direct  *reconnecting
	decided map[string]string // path → outcome of a direct check
}

func newUncheckedStack(t *testing.T) *uncheckedStack {
	t.Helper()
	v := &uncheckedStack{}
	var address string
	address, v.reached = echoRaw(t)
	v.Stack = separateStack(t, demo.Config{
		Environ: []string{"KEYWICKET_DATABASE_LOOKUP_TIMEOUT=390ms"}, // for slow machines
		EnvoyConfig: func(config []byte) []byte {
			addresses, err := bootstrap.Read(config)
			if err != nil {
				t.Fatal(err)
			}
			addresses.Clusters["upstream_live"] = address
			if config, err = bootstrap.Render(addresses); err != nil {
				t.Fatal(err)
			}
			config = edited(t, config, "check_settings: {context_extensions: {api: velocity}}", "disabled: true", 1)
			// Over HTTP/2 Envoy refuses most of these paths with the connection, and waits for one more second on it. The
			// edit replaces a setting that has no effect in this test.
			v.config = edited(t, config, "stream_idle_timeout: 60s", "delayed_close_timeout: 0.001s", 2)
			return v.config
		},
	})
	home := tenant(t, v.Stack)
	key := issue(t, v.Stack, "sk_live_", home.Slug, "admin:all")
	v.header = [][2]string{{"authorization", "Bearer " + key.Token}, {"x-workspace-id", home.ID}}
	v.direct, v.decided = v.dial(t, "direct", ""), make(map[string]string)
	t.Cleanup(func() { _ = v.direct.Close() })
	return v
}

// echoRaw starts an upstream that accepts every target. net/http refuses a target that it cannot parse, before a handler
// could count it.
func echoRaw(t *testing.T) (address string, reached *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	reached = new(atomic.Int64)
	serve := func(c net.Conn) {
		defer func() { _ = c.Close() }()
		for r := textproto.NewReader(bufio.NewReader(c)); ; {
			line, err := r.ReadLine()
			if _, headerErr := r.ReadMIMEHeader(); err != nil || headerErr != nil {
				return // Envoy has closed the connection
			}
			reached.Add(1)
			target := strings.TrimSuffix(strings.TrimPrefix(line, "GET "), " HTTP/1.1")
			body, _ := json.Marshal(upstream.Echo{Upstream: "raw", Path: target}) // no value in it can fail to encode
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
	go func() {
		for c, err := listener.Accept(); err == nil; c, err = listener.Accept() {
			go serve(c)
		}
	}()
	return listener.Addr().String(), reached
}

// restart restarts Envoy with a text of one listener's configuration replaced.
func (v *uncheckedStack) restart(t *testing.T, api, from, to string) {
	t.Helper()
	at := bytes.Index(v.config, []byte("- name: velocity\n"))
	listeners := map[string][]byte{"velaflows": v.config[:at], "velocity": v.config[at:]}
	listeners[api] = edited(t, listeners[api], from, to, 1)
	if err := v.Envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	var err error
	config := slices.Concat(listeners["velaflows"], listeners["velocity"])
	if v.Envoy, err = envoyproxy.Start(t.Context(), envoyproxy.Config{Config: config}); err != nil {
		t.Fatal(err)
	}
}

// reconnecting is a connection that reconnects when the other end has closed it. It retries when no decision was made in time.
type reconnecting struct {
	dial func() connection
	connection
}

func (v *uncheckedStack) dial(t *testing.T, wire, api string) *reconnecting {
	t.Helper()
	dial := func() connection { return wires[wire](t, v.Stack, api) }
	return &reconnecting{dial, dial()}
}

func (l *reconnecting) put(t *testing.T, m message) (s observation) {
	t.Helper()
	for range 4 {
		s = l.connection.put(t, m)
		if !s.alive {
			_ = l.Close()
			l.connection = l.dial()
		}
		if s.outcome != "503 UNAVAILABLE unavailable" {
			break
		}
	}
	return s
}

// pathResult is the result for one path.
type pathResult struct {
	path           string
	envoy, checked observation // from the listener without the check, and from the listener with it
	reached        int64       // requests that reached the upstream from the listener with the check
	raw, direct    string      // outcomes of direct checks: of the original path, and of the path that Envoy passes on, if any
}

// view sends the paths to both listeners, and checks them directly.
func (v *uncheckedStack) view(t *testing.T, wire string, paths []string) (all []pathResult) {
	t.Helper()
	for batch := range slices.Chunk(paths, 100) { // no connection lasts for all of them
		envoy, checked := v.dial(t, wire, "velocity"), v.dial(t, wire, "velaflows")
		for _, p := range batch {
			if wire == "HTTP/1.1" && (p == "" || strings.ContainsAny(p, " \r\n")) {
				continue // that would be another request
			}
			s := pathResult{path: p, envoy: envoy.put(t, message{target: p})}
			before := v.reached.Load()
			s.checked = checked.put(t, message{target: p, header: v.header})
			s.reached = v.reached.Load() - before
			s.raw, s.direct = v.decide(t, p), v.decide(t, s.envoy.echo.Path)
			all = append(all, s)
		}
		_, _ = envoy.Close(), checked.Close()
	}
	return all
}

// decide returns the outcome of a direct check. It checks each path once.
func (v *uncheckedStack) decide(t *testing.T, p string) string {
	t.Helper()
	if _, known := v.decided[p]; !known {
		v.decided[p] = v.direct.put(t, message{target: p, header: v.header}).outcome
	}
	return v.decided[p]
}

// The faults of a pathResult.
const (
	leak         = "the path reached the upstream without an allow"
	otherRefusal = "Envoy refuses the path, and answers differently where it checks"
	otherAnswer  = "the answer differs from that for the path that Envoy passes on"
	otherPath    = "the upstream received another path than Envoy passes on"
	unstable     = "the unchanged path is allowed for a PEP that changes nothing, but Envoy refuses it or passes on another path"
	nowhere      = "the path is allowed, but it is not a route"
	ambiguous    = "the path is allowed, but servers can read it in another way"
)

// fault returns the first fault, or "".
func (s pathResult) fault() string {
	passed := s.envoy.echo.Path
	bare, _, _ := strings.Cut(passed, "?")
	sent, _, _ := strings.Cut(s.path, "?")
	switch allowed := s.checked.outcome == "allow"; {
	case s.reached > 0 && !allowed:
		return leak
	case s.envoy.outcome != "allow" && s.checked.outcome != s.envoy.outcome:
		return otherRefusal
	case s.raw == "allow" && passed == "" && !strings.Contains(s.path, "?"):
		return unstable // with a query, Envoy may refuse the query
	case s.raw == "allow" && passed != "" && (!sameSegments(sent, bare) || s.path[len(sent):] != passed[len(bare):]):
		return unstable
	case s.envoy.outcome != "allow":
		return ""
	case s.checked.outcome != s.direct:
		return otherAnswer
	case !allowed:
		return ""
	case s.reached != 1 || s.checked.echo.Path != passed:
		return otherPath
	case !readable().MatchString(strings.Join(decodedSegments(bare), "/")):
		return nowhere
	case !hasOneReading(bare):
		return ambiguous
	}
	return ""
}

func (s pathResult) kind() string {
	switch {
	case s.envoy.outcome != "allow":
		return "refused by Envoy"
	case s.checked.outcome != "allow":
		return "denied"
	case s.path != s.envoy.echo.Path:
		return "changed and allowed"
	}
	return "allowed"
}

func (s pathResult) String() string {
	return fmt.Sprintf("%.200q: Envoy alone %s, %.200q; with the check %s, %.200q; asked directly %s, raw %s", s.path,
		s.envoy.outcome, s.envoy.echo.Path, s.checked.outcome, s.checked.echo.Path, s.direct, s.raw)
}

// readable matches the decoded paths that can be read with GET, with exact case. A server that ignores case finds the same
// route.
var readable = sync.OnceValue(func() *regexp.Regexp {
	var forms []string
	for _, r := range documented["velaflows"].routes() {
		if r.method == http.MethodGet && r.level != unlisted {
			forms = append(forms, strings.ReplaceAll(regexp.QuoteMeta(r.path), `\{\}`, `[^/]+`))
		}
	}
	return regexp.MustCompile(`\A(?:` + strings.Join(forms, "|") + `)\z`)
})

// decodedSegments returns the segments that a server compares with its routes. It returns nil if one cannot be decoded.
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

// hasOneReading reports whether unescaping the path adds no segments, and no reading changes the unescaped path. Several
// readings in a row do not change it either.
func hasOneReading(p string) bool {
	once, err := url.PathUnescape(p)
	return err == nil && strings.Count(once, "/") == strings.Count(p, "/") &&
		!slices.ContainsFunc(readings, func(read func(string) string) bool { return read(once) != once })
}

var (
	upwards    = []string{"..", "%2e%2e", "%2E.", ".%2e", "..;", "..;a=b", "..%00", "..%20", `..\..`, "%252e%252e", "%c0%ae%c0%ae"}
	separators = []string{"//", `\`, "/./", "/%2e/", "/x/../", "/x/%2E./", `/\/`, "/;/", ";/", "%2f", "%2F..%2f", "%5C", "%252f", "%c0%af"}
	oddities   = []string{
		".", "%2e", "...", "/", "//", `\`, "%2f", "%5c", "%252f", ";", ";x", ";x=/../y", "%3b", "%25", "%", "%2", "%zz", "%u002e",
		"%00", "%0a", "%7f", "%ff", "%c3%a9", "%20", "%3f", "%23", "?", "?x=/../admin", "#", "*", "|", `"`, "{}", "~!$&'()*+,=:@-_",
		"\u00e9", "\t", "\x00", strings.Repeat("../", 200), strings.Repeat("%2e%2e/", 50), strings.Repeat("/", 300),
		strings.Repeat("a", 2000), strings.Repeat("%2561", 100),
	}
)

// mutatedPath returns the path with one or more random changes.
func mutatedPath(r *rand.Rand, p string) string {
	one := func(list []string) string { return list[r.IntN(len(list))] }
	segments, at := strings.Split(p, "/"), r.IntN(len(p))
	i := r.IntN(len(segments))
	before, after := strings.Join(segments[:i], "/"), strings.Join(segments[i:], "/")
	switch r.IntN(8) {
	case 0:
		return before + "/" + one(upwards) + "/" + after
	case 1, 2: // up and down again
		return before + "/" + one(slices.Concat(segments, oddities, upwards)) + "/" + one(upwards) + "/" + after
	case 3:
		return before + one(separators) + after
	case 4:
		return p[:at] + one(oddities) + p[at:]
	case 5:
		return p + one(oddities)
	case 6:
		return fmt.Sprintf("%s%%%02x%s", p[:at], p[at], p[at+1:])
	default:
		return p[:at] + strings.ToUpper(p[at:at+1]) + p[at+1:]
	}
}

// mutatedPaths returns n paths, the same for each seed. They are routes and other paths, with up to three changes. The list
// includes the hostile paths, except those beyond Envoy's size limit: their refusal can get lost with the connection.
func mutatedPaths(seed uint64, n int) []string {
	r, routes := rand.New(rand.NewPCG(seed, 0)), documented["velaflows"].routes()
	paths := slices.DeleteFunc(slices.Clone(hostilePaths), func(p string) bool { return len(p) > 8<<10 })
	for len(paths) < n {
		p := strings.ReplaceAll(routes[r.IntN(len(routes))].path, "{}", "Ada_7")
		for range r.IntN(4) {
			p = mutatedPath(r, p)
		}
		if r.IntN(20) == 0 {
			p = "http://evil.test" + p
		}
		paths = append(paths, p)
	}
	return paths
}

// For every path that a client sends, Envoy, the sidecar and the upstream see the same path. An allowed path has only one
// meaning.
func TestEnvoyAndSidecarSeeOnePath(t *testing.T) {
	v := newUncheckedStack(t)
	for seed, wire := range []string{"HTTP/1.1", "HTTP/2"} {
		kinds := make(map[string]int)
		for _, s := range v.view(t, wire, mutatedPaths(uint64(seed), 1100)) {
			kinds[s.kind()]++
			if fault := s.fault(); fault != "" {
				t.Errorf("%s: %s: %v", wire, fault, s)
			}
		}
		t.Logf("%s: %v", wire, kinds)
		for _, kind := range []string{"refused by Envoy", "denied", "changed and allowed", "allowed"} {
			if kinds[kind] < 50 {
				t.Errorf("%s: too few paths are %s", wire, kind)
			}
		}
	}

	// The test detects an Envoy that is careless on one of the listeners.
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
