package paths

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"github.com/keywicket/keywicket/explain/envoypath"
	"github.com/keywicket/keywicket/test/wire"
)

// specialPaths are paths of which Envoy changes each in another way.
var specialPaths = []string{
	"/a/..;x/b", "/a/.;", "/a/%2e%2e;x/b", `/a/b/..;x\c`, `/a\..;x/b`, "/a/..;%00/b", "/a//..;x/b", "/a/..?x", "//", `/\`, "/.//", "//?x//",
	"/?//../%2f", "/%%33", "/%%330", "/%%3030", "/%3%30", "/%%61%62", "/%%61g", "/%4%311", "/%%%34%31", "/%%34{", "/%%34%3", "/%2%2e", "/a%2/66",
	"/%00", "/a/%00/../b", "/%%300", "/%%00", "/%7f", "/%0a", "/a.%2e/b", "/a./..", "/..", "/a/.", "http://h", "HTTP://h/a//b", "ftp://h/a",
	"http:///a", "http://h/a#x", "http://h/%2f", "/a?b#c", "/a?\"{}", "/\"<>^`{|}[]'", "/caf\u00e9", "/a?\u00e9", "/\x7f", "", "a", "*",
}

// `keywicket explain` normalises a path as Envoy does: the same paths are refused, and the other paths are changed in the same way.
func TestExplainNormalizesPathsAsEnvoy(t *testing.T) {
	t.Parallel()
	v := newUncheckedStack(t)
	paths := slices.Concat(specialPaths, mutatedPaths(7, 600))
	for _, s := range hostileTargets(rand.New(rand.NewPCG(7, 0)), 400) {
		paths = append(paths, s.target)
	}
	for protocol, notSame := range map[string]*regexp.Regexp{
		"HTTP/1.1": regexp.MustCompile(`[ \t\r\n]`),               // these characters would change the request line
		"HTTP/2":   regexp.MustCompile(`[^\x00-\x7f]|^(?i)http:`), // HTTP/2 has no requests to URLs, and Envoy escapes these bytes
	} {
		for batch := range slices.Chunk(paths, 100) { // as in view
			connection := v.dial(t, protocol, "velocity")
			for _, p := range batch {
				if notSame.MatchString(p) || len(p) > 8<<10 {
					continue
				}
				envoy := connection.Send(t, wire.Request{Target: p})
				path, err := envoypath.Normalize(p)
				if (envoy.Outcome != "allow") != (err != nil) || envoy.Echo.Path != path {
					t.Errorf("%s, %.200q: Envoy %s, %.200q; Normalize %.200q, %v", protocol, p, envoy.Outcome, envoy.Echo.Path, path, err)
				}
			}
			_ = connection.Close()
		}
	}
}
