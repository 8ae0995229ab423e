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

// Arguments returns the parameter `text` with shortened arguments. It shortens each argument of 20 bytes or more to the first 8
// bytes, because the argument could be a key in the wrong place. It also shortens the value of a --flag=value argument.
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

// Keys shortens each key in the parameter `text` to the key's visible prefix, and each JWT to eyJ. Unlike [Arguments], Keys leaves
// ids, paths and emails unchanged.
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

// Start shortens the parameter `text` to the part that may be shown. The text is a whole key, or the beginning of a key. If no
// configured prefix matches, Start returns an error, because no format defines how much may be shown. The error does not contain
// the text.
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
