// Package envoypath normalises paths as Envoy does before it sends a check, with the settings of deploy/envoy/envoy.yaml. These
// settings are normalize_path, merge_slashes and path_with_escaped_slashes_action. It also knows the methods that Envoy accepts. Tests
// compare the package with a real Envoy.
package envoypath

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The errors of [Normalize].
var (
	ErrStart        = errors.New("the path does not start with a /")
	ErrFragment     = errors.New("the path has a # that is not escaped; a client must not send a fragment")
	ErrCharacter    = errors.New("the path or the query has a space, a control character or a character that is not ASCII; a client must escape it")
	ErrEscapedSlash = errors.New("the path has an escaped slash (%2F) or an escaped backslash (%5C)")
	ErrEscapedNUL   = errors.New("the path has an escaped NUL (%00)")
)

var (
	absolute     = regexp.MustCompile(`^(?i:https?)://[^/?#]+`)
	escapedSlash = regexp.MustCompile(`%(2[Ff]|5[Cc])`)
	invalid      = regexp.MustCompile(`[^!-~]`)
	// dotParameter is a dot segment with a path parameter. Envoy removes the parameter, but not after an escaped dot.
	dotParameter = regexp.MustCompile(`/(\.\.?);[^/]*`)
	dotSegment   = regexp.MustCompile(`^(\.|%2[Ee]){1,2}$`)
	slashes      = regexp.MustCompile(`//+`)
	hexadecimal  = regexp.MustCompile(`^[0-9A-Fa-f]{2}`)
	unreserved   = regexp.MustCompile(`^[A-Za-z0-9._~-]$`)
)

// methods are the methods that Envoy knows over HTTP/1.1. It answers 400 to all others.
var methods = strings.Fields(`ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE MSEARCH NOTIFY
	OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE`)

// Accepts reports whether Envoy accepts the method over HTTP/1.1. Over HTTP/2, Envoy sends a check for most other methods too.
func Accepts(method string) bool { return slices.Contains(methods, method) }

// Normalize returns the path that the check and the upstream get, with the query. It never changes the query. If a client sends a
// URL instead of a path, the result is the path of the URL. An error means that Envoy sends no check, and answers 400. Over HTTP/2,
// Envoy closes the connection instead for some of these paths, and escapes characters that are not ASCII.
func Normalize(target string) (string, error) {
	if origin := absolute.FindString(target); origin != "" {
		if target = target[len(origin):]; target == "" {
			target = "/"
		}
	}
	path, query, hasQuery := strings.Cut(target, "?")
	switch {
	case !strings.HasPrefix(path, "/"):
		return "", ErrStart
	case invalid.MatchString(target):
		return "", ErrCharacter
	case strings.Contains(target, "#"):
		return "", ErrFragment
	case escapedSlash.MatchString(path):
		return "", ErrEscapedSlash
	}
	path = dotParameter.ReplaceAllString(path, "/$1")
	if strings.Contains(path, "%00") {
		return "", ErrEscapedNUL
	}
	path = mergeSlashes(resolve(strings.Split(strings.ReplaceAll(path[1:], `\`, "/"), "/")))
	if hasQuery {
		path += "?" + query
	}
	return path, nil
}

// resolve returns the path of the segments without dot segments. A dot segment at the end leaves a trailing slash.
func resolve(segments []string) string {
	var kept []string
	for i, s := range segments {
		if !dotSegment.MatchString(s) {
			kept = append(kept, normalizeSegment(s))
			continue
		}
		if isDouble := s != "." && len(s) != len("%2e"); isDouble && len(kept) > 0 {
			kept = kept[:len(kept)-1]
		}
		if i == len(segments)-1 {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}

// mergeSlashes replaces repeated slashes by one. Of a path that has only slashes, Envoy keeps two.
func mergeSlashes(path string) string {
	if len(path) > 1 && strings.Trim(path, "/") == "" {
		return "//"
	}
	return slashes.ReplaceAllString(path, "/")
}

// normalizeSegment decodes the characters that need no escape, and escapes some characters that a path must not have. If a decoded
// character would complete an escape with an earlier %, that % becomes %25.
func normalizeSegment(s string) string {
	var out []byte
	percent := -1 // position in out of the last % without two hexadecimal digits
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%' && hexadecimal.MatchString(s[i+1:]):
			value, _ := hex.DecodeString(s[i+1 : i+3])
			if !unreserved.Match(value) {
				out = append(out, s[i:i+3]...)
				i += 2
				break
			}
			out = append(out, value...)
			i += 2
			next := s[i+1 : min(i+2, len(s))]
			if percent >= 0 && len(out)-percent <= 3 && hexadecimal.MatchString(string(out[percent+1:])+next) {
				out = slices.Insert(out, percent+1, '2', '5')
			}
		case c == '%':
			percent = len(out)
			out = append(out, c)
		case strings.IndexByte("\"<>^`{|}", c) >= 0:
			out = fmt.Appendf(out, "%%%02X", c)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}
