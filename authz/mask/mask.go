// Package mask shortens keys in texts to the part that may be shown. An operator may paste a key in the wrong place, and error
// messages quote the input.
package mask

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// Arguments returns text, in which it shortens each argument of 20 bytes or more to its first 8 bytes. It does the same with the
// value of a --flag=value argument. Such an argument could be a key that was pasted in the wrong place.
func Arguments(text string, args []string) string {
	const visible, minLength = 8, 20
	for _, arg := range args {
		_, value, _ := strings.Cut(arg, "=") // --flag=value
		for _, part := range []string{arg, value} {
			if len(part) >= minLength {
				text = strings.ReplaceAll(text, part, part[:visible]+"…")
			}
		}
	}
	return text
}

// keyPattern matches every key, and also words that are not keys.
var keyPattern = regexp.MustCompile(`[A-Za-z0-9._~+/-]+`)

const jwtStart = "eyJ" // the characters {" in base64

// Keys shortens each key in text to its visible prefix, and each JWT to its first characters. Unlike [Arguments], it leaves ids,
// paths and emails unchanged.
func Keys(apis map[string]authz.API, text string) string {
	return keyPattern.ReplaceAllStringFunc(text, func(word string) string {
		if strings.HasPrefix(word, jwtStart) && strings.Count(word, ".") >= 2 {
			return jwtStart + "…"
		}
		if start, err := Start(apis, word); err == nil && start != word {
			return start + "…"
		}
		return word
	})
}

// Start shortens text to the part that may be shown. The parameter text is a whole key, or the beginning of a key. If no configured
// prefix matches, no format defines how much of text may be shown. Then Start returns an error, which does not contain text.
func Start(apis map[string]authz.API, text string) (string, error) {
	var prefix string
	var prefixes []string
	visible := 0
	for _, name := range slices.Sorted(maps.Keys(apis)) {
		for _, f := range apis[name].Credentials {
			if f.Kind != authz.KindOAuthToken {
				prefixes = append(prefixes, f.Prefix)
			}
			switch {
			case strings.HasPrefix(f.Prefix, text):
				return text, nil
			case !strings.HasPrefix(text, f.Prefix) || len(f.Prefix) < len(prefix):
			case len(f.Prefix) > len(prefix):
				prefix, visible = f.Prefix, f.VisiblePrefix
			default:
				visible = min(visible, f.VisiblePrefix)
			}
		}
	}
	if prefix == "" {
		return "", fmt.Errorf("no kind of token starts with this text; prefixes are %s", strings.Join(prefixes, ", "))
	}
	return text[:min(len(text), visible)], nil
}
