// Package mask shortens keys in texts to the part that may be shown. An operator may paste a key in the wrong place, and messages
// quote what the operator wrote.
package mask

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/keywicket/keywicket/authz"
)

// Arguments replaces in text each argument of 20 bytes or more, and each such value of a --flag=value argument, with its first
// 8 bytes. The argument could be a key that was pasted in the wrong place.
func Arguments(text string, args []string) string {
	const visible, shortest = 8, 20
	for _, arg := range args {
		_, value, _ := strings.Cut(arg, "=") // --flag=value
		for _, part := range []string{arg, value} {
			if len(part) >= shortest {
				text = strings.ReplaceAll(text, part, part[:visible]+"…")
			}
		}
	}
	return text
}

// keyPattern matches every key, and other words.
var keyPattern = regexp.MustCompile(`[A-Za-z0-9._~+/-]+`)

const jwtStart = "eyJ" // {" in base64

// Keys shortens each key in text to its visible prefix, and each JWT to its first characters. Unlike [Arguments], it leaves ids,
// paths and emails whole.
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

// Start shortens text to the visible prefix of the kind of key that it starts like. text may be a whole key, or a part of a key's
// prefix. If no kind of key starts like text, Start returns an error that does not contain text: how much of it may be shown is
// unknown.
func Start(apis map[string]authz.API, text string) (string, error) {
	var kind string
	var valid []string
	visible := 0
	for _, name := range slices.Sorted(maps.Keys(apis)) {
		for _, f := range apis[name].Credentials {
			if f.Kind != authz.KindOAuthToken {
				valid = append(valid, f.Prefix)
			}
			switch {
			case strings.HasPrefix(f.Prefix, text):
				return text, nil
			case !strings.HasPrefix(text, f.Prefix) || len(f.Prefix) < len(kind):
			case len(f.Prefix) > len(kind):
				kind, visible = f.Prefix, f.VisiblePrefix
			default:
				visible = min(visible, f.VisiblePrefix)
			}
		}
	}
	if kind == "" {
		return "", fmt.Errorf("no kind of token starts with this text; prefixes are %s", strings.Join(valid, ", "))
	}
	return text[:min(len(text), visible)], nil
}
