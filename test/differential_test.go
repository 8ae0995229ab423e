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
	"github.com/keywicket/keywicket/demo/proxy"
	"github.com/keywicket/keywicket/demo/upstream"
	bootstrap "github.com/keywicket/keywicket/deploy/envoy"
)

// views is a stack in which Velocity's listener checks nothing, and so shows what Envoy alone makes of a path. That of
// VelaFlows treats paths alike, and checks. Behind both is an upstream that echoes.
type views struct {
	*demo.Stack
	config  []byte        // Envoy's
	reached *atomic.Int64 // requests that came to the upstream
	header  [][2]string   // of a key that may do everything: the path alone decides
	direct  *lasting
	decided map[string]string // path → outcome, asked directly
}

func newViews(t *testing.T) *views {
	t.Helper()
	v := &views{}
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
			// Over HTTP/2 Envoy refuses most of these paths with the connection, on which it waits for a second more. This
			// goes where a setting stands that has no say here.
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

// echoRaw is an upstream for every target. net/http refuses one that it cannot parse, and no handler would count it.
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
				return // Envoy has hung up
			}
			reached.Add(1)
			target := strings.TrimSuffix(strings.TrimPrefix(line, "GET "), " HTTP/1.1")
			body, _ := json.Marshal(upstream.Echo{Upstream: "raw", Path: target}) // nothing in it can fail
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

// restart gives Envoy a configuration in which a text of one listener is another.
func (v *views) restart(t *testing.T, api, from, to string) {
	t.Helper()
	at := bytes.Index(v.config, []byte("- name: velocity\n"))
	listeners := map[string][]byte{"velaflows": v.config[:at], "velocity": v.config[at:]}
	listeners[api] = edited(t, listeners[api], from, to, 1)
	if err := v.Envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	var err error
	config := slices.Concat(listeners["velaflows"], listeners["velocity"])
	if v.Envoy, err = proxy.Start(t.Context(), proxy.Config{Config: config}); err != nil {
		t.Fatal(err)
	}
}

// lasting is a connection that is made anew when the other end has hung up. It asks again when no decision could be made
// in time.
type lasting struct {
	dial func() connection
	connection
}

func (v *views) dial(t *testing.T, wire, api string) *lasting {
	t.Helper()
	dial := func() connection { return wires[wire](t, v.Stack, api) }
	return &lasting{dial, dial()}
}

func (l *lasting) put(t *testing.T, m message) (s sight) {
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

// viewing is what came of one path.
type viewing struct {
	path           string
	envoy, checked sight  // by the listener without the check, and by the one with it
	reached        int64  // the upstream, of the latter
	raw, direct    string // outcomes of direct checks: of the path as it is, and of the one that Envoy passes on, if any
}

// view sends the paths to both listeners, and has them checked directly.
func (v *views) view(t *testing.T, wire string, paths []string) (all []viewing) {
	t.Helper()
	for batch := range slices.Chunk(paths, 100) { // no connection lasts for all of them
		envoy, checked := v.dial(t, wire, "velocity"), v.dial(t, wire, "velaflows")
		for _, p := range batch {
			if wire == "HTTP/1.1" && (p == "" || strings.ContainsAny(p, " \r\n")) {
				continue // that would be another request
			}
			s := viewing{path: p, envoy: envoy.put(t, message{target: p})}
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

// decide is the outcome of a direct check, which is made once.
func (v *views) decide(t *testing.T, p string) string {
	t.Helper()
	if _, known := v.decided[p]; !known {
		v.decided[p] = v.direct.put(t, message{target: p, header: v.header}).outcome
	}
	return v.decided[p]
}

// What there can be wrong with a viewing.
const (
	leak         = "it reached the upstream without an allow"
	otherRefusal = "Envoy refuses it, and answers otherwise where it checks"
	otherAnswer  = "the answer is not the one for the path that Envoy passes on"
	otherPath    = "the upstream got another path than Envoy passes on"
	unstable     = "it is allowed as it is, by a PEP that changes nothing, and Envoy refuses it or passes on another one"
	nowhere      = "it is allowed, and no route"
	ambiguous    = "it is allowed, and can be read in another way"
)

// fault is the first thing that is wrong, or empty.
func (s viewing) fault() string {
	passed := s.envoy.echo.Path
	bare, _, _ := strings.Cut(passed, "?")
	sent, _, _ := strings.Cut(s.path, "?")
	switch allowed := s.checked.outcome == "allow"; {
	case s.reached > 0 && !allowed:
		return leak
	case s.envoy.outcome != "allow" && s.checked.outcome != s.envoy.outcome:
		return otherRefusal
	case s.raw == "allow" && passed == "" && !strings.Contains(s.path, "?"):
		return unstable // with a query, that may be what Envoy refuses
	case s.raw == "allow" && passed != "" && (!spellTheSame(sent, bare) || s.path[len(sent):] != passed[len(bare):]):
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

func (s viewing) kind() string {
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

func (s viewing) String() string {
	return fmt.Sprintf("%.200q: Envoy alone %s, %.200q; with the check %s, %.200q; asked directly %s, raw %s", s.path,
		s.envoy.outcome, s.envoy.echo.Path, s.checked.outcome, s.checked.echo.Path, s.direct, s.raw)
}

// readable matches the decoded paths that can be read with GET, to the letter: a server to which case is nothing comes to
// the same route.
var readable = sync.OnceValue(func() *regexp.Regexp {
	var forms []string
	for _, r := range documented["velaflows"].routes() {
		if r.method == http.MethodGet && r.level != unlisted {
			forms = append(forms, strings.ReplaceAll(regexp.QuoteMeta(r.path), `\{\}`, `[^/]+`))
		}
	}
	return regexp.MustCompile(`\A(?:` + strings.Join(forms, "|") + `)\z`)
})

// decodedSegments are what a server compares with its routes; nil if one cannot be decoded.
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

// spellTheSame says that two paths have the same segments, however these are escaped.
func spellTheSame(p, q string) bool {
	segments := decodedSegments(p)
	return segments != nil && slices.Equal(segments, decodedSegments(q))
}

var (
	parameters = regexp.MustCompile(`;[^/]*`)
	slashes    = regexp.MustCompile(`//+`)

	// readings are what servers are known to do to a path that they have unescaped.
	readings = []func(string) string{
		path.Clean,
		func(p string) string { return slashes.ReplaceAllString(p, "/") },
		func(p string) string { return strings.ReplaceAll(p, `\`, "/") },
		func(p string) string { return parameters.ReplaceAllString(p, "") },
		func(p string) string { return p[:strings.IndexAny(p+"?", "\x00?#")] },
		func(p string) string { twice, _ := url.PathUnescape(p); return twice },
	}
)

// hasOneReading says that unescaping the path makes no more segments, and that no reading changes what is unescaped, so
// that several in a row do not either.
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

// twisted is the path with one thing changed, or more.
func twisted(r *rand.Rand, p string) string {
	one := func(list []string) string { return list[r.IntN(len(list))] }
	segments, at := strings.Split(p, "/"), r.IntN(len(p))
	i := r.IntN(len(segments))
	before, after := strings.Join(segments[:i], "/"), strings.Join(segments[i:], "/")
	switch r.IntN(8) {
	case 0:
		return before + "/" + one(upwards) + "/" + after
	case 1, 2: // there and back
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

// twistedPaths are n paths, for each seed the same: of routes and of what is none, with up to three changes. The hostile
// ones are among them, but for those beyond Envoy's limit, whose refusal can get lost with the connection.
func twistedPaths(seed uint64, n int) []string {
	r, routes := rand.New(rand.NewPCG(seed, 0)), documented["velaflows"].routes()
	paths := slices.DeleteFunc(slices.Clone(hostile), func(p string) bool { return len(p) > 8<<10 })
	for len(paths) < n {
		p := strings.ReplaceAll(routes[r.IntN(len(routes))].path, "{}", "Ada_7")
		for range r.IntN(4) {
			p = twisted(r, p)
		}
		if r.IntN(20) == 0 {
			p = "http://evil.test" + p
		}
		paths = append(paths, p)
	}
	return paths
}

// Whatever path a client sends, there is one that Envoy takes it for, that the sidecar decides on, and that the upstream
// gets; and if it is allowed, one thing that it can mean.
func TestEnvoyAndSidecarSeeOnePath(t *testing.T) {
	v := newViews(t)
	for seed, wire := range []string{"HTTP/1.1", "HTTP/2"} {
		kinds := make(map[string]int)
		for _, s := range v.view(t, wire, twistedPaths(uint64(seed), 1100)) {
			kinds[s.kind()]++
			if fault := s.fault(); fault != "" {
				t.Errorf("%s: %s: %v", wire, fault, s)
			}
		}
		t.Logf("%s: %v", wire, kinds)
		for _, kind := range []string{"refused by Envoy", "denied", "changed and allowed", "allowed"} {
			if kinds[kind] < 50 {
				t.Errorf("%s: there are few paths that are %s", wire, kind)
			}
		}
	}

	// An Envoy that is careless on one of the listeners is found out.
	for _, c := range []struct{ fault, api, from, to string }{
		{otherAnswer, "velaflows", "normalize_path: true", "normalize_path: false"},
		{otherAnswer, "velocity", "merge_slashes: true", "merge_slashes: false"},
		{otherAnswer, "velaflows", "check_settings: {context_extensions: {api: velaflows}}", "disabled: true"},
		{otherRefusal, "velaflows", "slashes_action: REJECT_REQUEST", "slashes_action: UNESCAPE_AND_FORWARD"},
		{otherPath, "velaflows", "{cluster: upstream_live}", "{cluster: upstream_live, prefix_rewrite: /x/}"},
		{unstable, "velocity", "{cluster: upstream_live}", "{cluster: upstream_live, prefix_rewrite: /x/}"},
	} {
		v.restart(t, c.api, c.from, c.to)
		seen := v.view(t, "HTTP/1.1", twistedPaths(2, 150))
		if !slices.ContainsFunc(seen, func(s viewing) bool { return s.fault() == c.fault }) {
			t.Errorf("%s has %s, and there is no path of which %s", c.api, c.to, c.fault)
		}
	}
}
