package target_test

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keywicket/keywicket/authz/target"
)

var (
	segmentForm = regexp.MustCompile(`^(?:[A-Za-z0-9._~!$&'()*+,=:@;-]|%[0-9A-Fa-f]{2})*$`)
	refusedText = regexp.MustCompile(`[/\\\x00-\x1f\x7f\x{80}-\x{9f}]|%[0-9A-Fa-f]{2}|^\.{1,2}(?:[;?#]|$)|^;`)
)

// expectedSegments is a second implementation of the rule in docs/policies.md. It splits the path at the slashes, and decodes each
// segment once. It refuses a segment that does not match segmentForm, or whose decoded text matches refusedText.
func expectedSegments(p string, allowed target.Parameters) (segments []string, ok bool) {
	rest, ok := strings.CutPrefix(p, "/")
	if !ok || strings.Contains(p, "//") {
		return nil, false
	}
	for _, s := range strings.Split(rest, "/") {
		text, err := url.PathUnescape(s)
		if err != nil || !segmentForm.MatchString(s) || !utf8.ValidString(text) || refusedText.MatchString(text) ||
			strings.Contains(s, ";") && !allowed.RawSemicolon {
			return nil, false
		}
		for _, c := range []string{"#", "%", "?", ";"} {
			if strings.Contains(text, c) && !slices.Contains(allowed.MayHold, c) {
				return nil, false
			}
		}
		segments = append(segments, text)
	}
	return segments, true
}

// FuzzPath checks that Segments accepts a path if and only if expectedSegments does. Other spellings of an accepted path must have
// the same segments. A server must also get these segments if it unescapes the path before the split, cleans the path, or decodes
// the path twice.
func FuzzPath(f *testing.F) {
	for _, p := range []string{
		"/", "/a", "/a/b", "/a/", "/.well-known/x", "/a...b/..c", "/-._~!$&'()*+,=:@", "/caf%C3%A9/%20", "/%41", "", "*", "a", "//",
		"//a", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/a/..", "/a;b", "/..;/a", "/..;a=b/a", "/a#b", "/a?b", `/a\b`, "/a b",
		"/a\x00", "/a\x7f", "/é", "/a|b", "/a%", "/a%4", "/a%zz", "/%2e", "/%2E%2e", "/.%2e", "/a%2fb", "/a%5cb", "/a%3Bb",
		"/a%25b", "/%252e%252e", "/a%23", "/a%3f", "/a%00", "/a%0d%0a", "/a%7F", "/a%C2%85", "/a%C0%AF", "/a%C0%AE", "/%F0%9F%98%80",
		"/%F0x%9F%98%80", "/%ED%A0%80", "http://evil.example/api", "/api/v1/inbox/conversations", "/api/v1/inbox%2Fconversations",
		"/api/v1/contacts/7/", "/\xff", "/%E2%80%AE", "/a%u002e", "/100%25", "/100%25%34%31", "/%3B", "/..%3Bx", "/%2e;x", "/charges%3Asearch",
	} {
		f.Add(p, false)
		f.Add(p, true)
	}
	f.Fuzz(func(t *testing.T, p string, special bool) {
		var allowed target.Parameters
		if special {
			allowed = target.Parameters{MayHold: []string{"#", "%", "?", ";"}, RawSemicolon: true}
		}
		segments, err := target.Segments(p, allowed)
		want, ok := expectedSegments(p, allowed)
		if (err == nil) != ok || !slices.Equal(segments, want) {
			t.Fatalf("%q: the segments are %q, %v, not %q", p, segments, err, want)
		}
		if err != nil {
			return
		}
		allowed.RawSemicolon = false
		for _, mustEscape := range []func(byte) bool{
			func(b byte) bool { return strings.IndexByte("-._~", b) < 0 && !isAlnum(b) }, // only the necessary escapes
			func(byte) bool { return true },
			func(b byte) bool { return b%2 == 0 || b > '~' || strings.ContainsRune("#%;?\"<>[]^`{|}", rune(b)) },
		} {
			if respelled, err := target.Segments(escaped(segments, mustEscape), allowed); err != nil || !slices.Equal(respelled, segments) {
				t.Fatalf("the segments of %q are %q, but those of its other spelling %q are %q, %v", p, segments, escaped(segments, mustEscape), respelled, err)
			}
		}
		unescaped, err := url.PathUnescape(p)
		if err != nil {
			t.Fatalf("%q cannot be unescaped: %v", p, err)
		}
		if joined := target.JoinSegments(segments); unescaped != joined || path.Clean(joined) != "/"+strings.Trim(joined, "/") {
			t.Fatalf("%q: the unescaped path is %q; the joined segments are %q; path.Clean changes these to %q", p, unescaped, joined, path.Clean(joined))
		}
		if decodedTwice, err := url.PathUnescape(unescaped); err == nil && decodedTwice != unescaped {
			t.Fatalf("%q is unescaped to %q, and then to %q", p, unescaped, decodedTwice)
		}
	})
}

func escaped(segments []string, mustEscape func(byte) bool) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteByte('/')
		for _, c := range []byte(s) {
			if mustEscape(c) {
				fmt.Fprintf(&b, "%%%02x", c)
			} else {
				b.WriteByte(c)
			}
		}
	}
	return b.String()
}

func isAlnum(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
}
