// Package strictyaml reads the YAML files that people write for keywicket. An unknown key is an error with its line number,
// because a misspelled security setting must not be ignored.
package strictyaml

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Decode reads one document into v. Fields of v that the document omits keep their values. An empty document changes nothing. The
// error has one line for each problem.
func Decode(text []byte, v any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	var problems []string
	var typeErrors *yaml.TypeError
	switch err := decoder.Decode(v); {
	case errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &typeErrors):
		for _, message := range typeErrors.Errors {
			problems = append(problems, rewrite(message, v))
		}
	case err != nil:
		return cmp.Or(Syntax(text), errors.New(rewrite(err.Error(), v)))
	}
	var tree, second yaml.Node
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return Syntax(text)
	}
	for _, line := range emptyItems(&tree) {
		problems = append(problems, fmt.Sprintf("line %d: an empty item in a list", line))
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		problems = append(problems, fmt.Sprintf("line %d: there is a second document", second.Line))
	case !errors.Is(err, io.EOF):
		problems = append(problems, rewrite(err.Error(), v)+syntaxRemedy)
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "\n"))
	}
	return nil
}

// emptyItems returns the line numbers of empty items in lists. The decoder would silently omit these items.
func emptyItems(n *yaml.Node) []int {
	var lines []int
	for _, child := range n.Content {
		if n.Kind == yaml.SequenceNode && child.Kind == yaml.ScalarNode && child.ShortTag() == "!!null" {
			lines = append(lines, child.Line)
		}
		lines = append(lines, emptyItems(child)...)
	}
	return lines
}

var (
	unknownKey = regexp.MustCompile(`field (.*?) not found in type (\S+)`)
	keyForm    = regexp.MustCompile(`^[a-z_]{1,32}$`)
	mistyped   = regexp.MustCompile("cannot unmarshal \\S+ (`[^`]*` )?into (\\S+)")
)

// rewrite replaces the Go types in the error of decoding into v by words for YAML values, such as "a list" or "a whole number".
func rewrite(text string, v any) string {
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	text = unknownKey.ReplaceAllStringFunc(text, func(s string) string {
		// In an unquoted text, YAML may read the part after a comma as a key. This part may be the end of a password, so the error
		// must not quote it.
		parts := unknownKey.FindStringSubmatch(s)
		if keyForm.MatchString(parts[1]) {
			return fmt.Sprintf("unknown key %q; keys are %s", parts[1], strings.Join(keysOf(reflect.TypeOf(v), parts[2]), ", "))
		}
		return "unknown key, not shown because it may be a part of a secret; if a text contains a comma, put the text in quotes"
	})
	text = mistyped.ReplaceAllStringFunc(text, func(s string) string {
		parts := mistyped.FindStringSubmatch(s)
		return cmp.Or(strings.TrimSpace(parts[1]), "the value") + " is not " + describeType(parts[2])
	})
	return strings.Join(strings.Fields(text), " ")
}

func describeType(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration, such as 200ms or 5s"
	case goType == "bool":
		return "true or false"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "[]"):
		return "a list, such as [a, b]"
	case strings.HasPrefix(goType, "map["), strings.Contains(goType, "."):
		return "a group of keys: check the indentation, or write {key: value}"
	}
	return "a text"
}
