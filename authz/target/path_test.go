package target_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keywicket/keywicket/authz/target"
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
		"/caf%C3%A9/%20":          {"café", " "},
		"/caf%c3%a9":              {"café"},
		"/a+b/a%2Bb":              {"a+b", "a+b"},
		"/charges%3Asearch":       {"charges:search"},
		"/%63harges:searc%68":     {"charges:search"},
		"/a%2Eb":                  {"a.b"},
		"/%41":                    {"A"},
		"/a%7eb":                  {"a~b"},
		"/a%7Cb%5B%22%5D":         {`a|b["]`},
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
		"/.%2e":                   nil,
		"/a%2fb":                  nil,
		"/a%2Fb":                  nil,
		"/a%5cb":                  nil,
		"/a%3Bb":                  nil,
		"/a%25b":                  nil,
		"/a%252fb":                nil,
		"/a%2541":                 nil, // a second decoding would give aA
		"/a%23":                   nil,
		"/a%3f":                   nil,
		"/a%00":                   nil,
		"/a%0d%0a":                nil,
		"/a%7F":                   nil,
		"/a%C2%85":                nil, // a control character of Latin-1
		"/a%C0%AF":                nil, // a slash in an overlong UTF-8 encoding
		"/a%ff":                   nil,
		"http://evil.example/api": nil,
	} {
		got, err := target.Segments(path, target.Parameters{})
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: got %q, %v, want %q", path, got, err, want)
		}
	}
}

// Each special character has its own permission. A raw semicolon and an escaped semicolon have different permissions.
func TestParametersPermitSpecialCharacters(t *testing.T) {
	for path, c := range map[string]struct {
		needed target.NotPermittedError
		want   string
	}{
		"/c%23":      {"#", "c#"},
		"/100%25":    {"%", "100%"},
		"/100%25%20": {"%", "100% "},
		"/5%25zz":    {"%", "5%zz"},
		"/what%3F":   {"?", "what?"},
		"/a%3Bb":     {";", "a;b"},
		"/a;b":       {target.ErrRawSemicolon, "a;b"},
	} {
		for _, permitted := range []target.NotPermittedError{"", "#", "%", "?", ";", target.ErrRawSemicolon} {
			p := target.Parameters{MayHold: strings.Fields(string(permitted))}
			if permitted == target.ErrRawSemicolon {
				p = target.Parameters{MayHold: []string{";"}, RawSemicolon: true}
			}
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			sufficient := permitted == c.needed || permitted == target.ErrRawSemicolon && c.needed == ";"
			got, err := target.Segments(path, p)
			if sufficient && (err != nil || !slices.Equal(got, []string{c.want})) || !sufficient && !errors.Is(err, c.needed) {
				t.Errorf("%q with %q: %q, %v", path, permitted, got, err)
			}
		}
	}
	all := target.Parameters{MayHold: []string{"#", "%", "?", ";"}, RawSemicolon: true}
	for _, path := range []string{
		"/a%2fb", "/a%5C", "/%2e%2e", "/a%2541", "/100%25%34%31", "/a%252F", "/%25%32%66", "/a%00", "/a%ff", "/..;/a", "/..;x", "/.;x", "/%2e%2e;x",
		"/..%3Bx", "/..%3Fx", "/.%23", "/;x", "/%3Bx", "/a#b", "/a?b", "/a%", "/%zz",
	} {
		if got, err := target.Segments(path, all); err == nil {
			t.Errorf("%q: %q", path, got)
		}
	}
	for want, p := range map[string]target.Parameters{
		`parameters.may_hold: "/" is not one of`:     {MayHold: []string{"/"}},
		`parameters.may_hold: "" is not one of`:      {MayHold: []string{""}},
		`parameters.may_hold: "#%" is not one of`:    {MayHold: []string{"#%"}},
		`parameters.raw_semicolon: add ";" to param`: {MayHold: []string{"#"}, RawSemicolon: true},
	} {
		if err := p.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, not %s", err, want)
		}
	}
}
