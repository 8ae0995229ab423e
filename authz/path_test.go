package authz_test

import (
	"slices"
	"testing"

	"github.com/keywicket/keywicket/authz"
)

func TestSegments(t *testing.T) {
	for path, want := range map[string][]string{
		"/":                       {""},
		"/a":                      {"a"},
		"/a/b":                    {"a", "b"},
		"/a/":                     {"a", ""},
		"/.well-known/x":          {".well-known", "x"},
		"/a...b/..c":              {"a...b", "..c"},
		"/-._~!$&'()*+,=:@":       {"-._~!$&'()*+,=:@"},
		"/caf%C3%A9/%20":          {"caf%C3%A9", "%20"},
		"/caf%c3%a9":              {"caf%c3%a9"},
		"":                        nil,
		"*":                       nil,
		"a":                       nil,
		"//":                      nil,
		"//a":                     nil,
		"/a//b":                   nil,
		"/a//":                    nil,
		"/.":                      nil,
		"/..":                     nil,
		"/a/../b":                 nil,
		"/a/./b":                  nil,
		"/a;b":                    nil,
		"/..;/a":                  nil,
		"/a#b":                    nil,
		"/a?b":                    nil,
		`/a\b`:                    nil,
		"/a b":                    nil,
		"/a\x00":                  nil,
		"/a\x7f":                  nil,
		"/é":                      nil,
		"/a|b":                    nil,
		"/a[b]":                   nil,
		`/a"b`:                    nil,
		"/a%":                     nil,
		"/a%4":                    nil,
		"/a%zz":                   nil,
		"/a%2":                    nil,
		"/%2e":                    nil,
		"/%2E%2e":                 nil,
		"/a%2Eb":                  nil,
		"/a%2fb":                  nil,
		"/a%2Fb":                  nil,
		"/a%5cb":                  nil,
		"/a%3Bb":                  nil,
		"/%41":                    nil, // Envoy makes it /A
		"/a%7eb":                  nil,
		"/a%25b":                  nil,
		"/a%252fb":                nil,
		"/a%23":                   nil,
		"/a%3f":                   nil,
		"/a%00":                   nil,
		"/a%0d%0a":                nil,
		"/a%7F":                   nil,
		"/a%C2%85":                nil, // a control character of Latin-1
		"/a%C0%AF":                nil, // an overlong slash
		"/a%ff":                   nil,
		"http://evil.example/api": nil,
	} {
		if got := authz.Segments(path); !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}
