package paths

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/test/product"
	"github.com/keywicket/keywicket/test/threats"
)

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
	case 1, 2: // a segment, followed by a text that may remove it again
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

// mutatedPaths returns n paths: the hostile paths, and paths of the documented routes with up to three random changes. The
// same seed results in the same paths. Hostile paths beyond Envoy's size limit are left out: when Envoy refuses such a
// path, it may close the connection before the client has read the response.
func mutatedPaths(seed uint64, n int) []string {
	r, routes := rand.New(rand.NewPCG(seed, 0)), product.DocumentedAPIs["velaflows"].Routes()
	paths := slices.DeleteFunc(slices.Clone(threats.HostilePaths), func(p string) bool { return len(p) > 8<<10 })
	for len(paths) < n {
		p := strings.ReplaceAll(routes[r.IntN(len(routes))].Path, "{}", "Ada_7")
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
