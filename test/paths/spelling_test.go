package paths

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/test/threats"
)

// segmentTexts contains segments from testRows, texts that differ only slightly from these segments, and texts that not all
// servers read in the same way.
var segmentTexts = []string{
	"v1", "charges:search", "charges:Search", "charges:search ", "charges", "status", "Status", "status.",
	"a+b", "a b", "1+1", "two words", "two+words",
	"caf\u00e9", "cafe\u0301", "CAF\u00c9", "caf\ufffd", "caf\xe9", "\u20ac\U0001f600", "~root", "refunds", "latest", "LATEST",
	"open-house", "ch_7", "*", "{charge}", "[a]", "!$&'()*+,=:@-._~", "...", "..a", " ", "\u00a0", "\u2028", "\u2215", "\uff0f",
	"\ufeff", "\U0010ffff", `"<>^|`,
	"c#", "#", "100%", "50%2", "%zz", "what?", "?x=/../admin", "a;b", "a;v=1", ";", ";x", "..;", "..;a", ".;",
	"%41", "%2e%2e", "a%2fb", "%C3%A9", "100%25", "%%41",
	"a/b", "a/../b", "/", `a\b`, `..\..`, "\x00", "a\nb", "\r", "\t", "\x1f", "\x7f", "\u0085",
	"\xff", "\xc0\xae", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80",
}

// similarPath returns a random path similar to a row of the table.
func similarPath(r *rand.Rand, row testRow) []string {
	one := func(texts ...string) string { return texts[r.IntN(len(texts))] }
	text := func() string {
		switch r.IntN(4) {
		case 0, 1:
			return one("status", "refunds", "latest", "caf\u00e9", "~root") // decoded literals of the table
		case 2:
			return one(segmentTexts...)
		}
		return one("a", ".", "%", "2", ";") + one("2", "5", ".", ";", "%", "") + one("f", "E", "C", "3", "%", "") + one("+", "?", "#", "")
	}
	segments := strings.Split(row.path[1:], "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = text()
		} else if decoded, err := url.PathUnescape(s); err == nil {
			segments[i] = decoded
		}
	}
	switch last := len(segments) - 1; r.IntN(6) {
	case 0:
		segments[1+r.IntN(last)] = text()
	case 1:
		if segments[last] != "" {
			return append(segments, "")
		}
		return segments[:last]
	}
	return segments
}

// spell encodes segments. It escapes each byte that a path cannot contain. It escapes each other byte with a probability of
// `escaped` percent.
func spell(r *rand.Rand, segments []string, escaped int) spelling {
	const raw = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@"
	var target strings.Builder
	for _, s := range segments {
		target.WriteByte('/')
		for i := range len(s) {
			c := s[i]
			switch {
			case c == ';' && dotSegment.MatchString(s): // Envoy resolves the segment "..;", but not "..%3B"
				target.WriteString("%3B")
			case strings.IndexByte(raw, c) >= 0 && r.IntN(100) >= escaped:
				target.WriteByte(c)
			case r.IntN(2) == 0:
				fmt.Fprintf(&target, "%%%02x", c)
			default:
				fmt.Fprintf(&target, "%%%02X", c)
			}
		}
	}
	return spelling{target.String(), segments}
}

// splitEscapes are texts with escapes. When Envoy decodes an escape in such a text, the result is another escape.
var splitEscapes = []string{
	"%%32%66", "%%32f", "%2%66", "%%32e%%32e", "%%35c", "%%30%30", "%%32%35", "%25%32%66", "%%33b", "%%32%33",
}

// overlaps are paths that several rows of the table match.
var overlaps = [][]string{
	{"v1", "status", "other", "latest"}, {"v1", "status", "refunds", "latest"}, {"v1", "status", "refunds", "7"},
	{"v1", "ch_7", "refunds", "latest"}, {"v1", "caf\u00e9", "~root"}, {"v1", "charges:search"}, {"v1", "status"},
}

// spellings returns each path in three percent-encodings. The parameter `paths` is the number of paths. One percent-encoding of
// each path has no unnecessary escape.
func spellings(r *rand.Rand, paths int) (all []spelling) {
	list := slices.Clone(overlaps)
	for _, text := range segmentTexts {
		list = append(list, []string{"v1", text})
	}
	for i := len(list); i < paths; i++ {
		list = append(list, similarPath(r, testRows[i%len(testRows)]))
	}
	for _, segments := range list[:paths] {
		for _, escaped := range []int{0, 30, 100} {
			all = append(all, spell(r, segments, escaped))
		}
	}
	return all
}

// hostileTargets returns the hostile targets of other tests, combined with paths of the table. It adds `changed` more paths.
// Each of these additional paths has one to three random changes.
func hostileTargets(r *rand.Rand, changed int) (all []spelling) {
	for _, text := range slices.Concat(upwards, separators, oddities, splitEscapes) {
		all = append(all, spelling{target: "/v1/status" + text}, spelling{target: "/v1/" + text + "/status"})
	}
	for _, p := range threats.HostilePaths {
		if len(p) <= 8<<10 { // Envoy's size limit, as in mutatedPaths
			all = append(all, spelling{target: strings.Replace(p, "/api/v1/contacts", "/v1", 1)})
		}
	}
	for i := range changed {
		target := spell(r, similarPath(r, testRows[i%len(testRows)]), 20).target
		for range 1 + r.IntN(3) {
			target = mutatedPath(r, target)
		}
		all = append(all, spelling{target: target})
	}
	return all
}
