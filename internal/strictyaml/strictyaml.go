// Package strictyaml reads the YAML files that people write for keywicket: a key that nothing reads is an error, told
// by its line, because a misspelt setting of a gate must not be passed over.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Decode reads one document into v, over what is in it already. An empty text changes nothing.
func Decode(text []byte, v any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	err := decoder.Decode(v)
	if err == nil && decoder.Decode(new(yaml.Node)) == nil {
		err = errors.New("there is a second document")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return errors.New(plain(err.Error()))
	}
	var tree yaml.Node
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return errors.New(plain(err.Error()))
	}
	if line := emptyItem(&tree); line > 0 {
		return fmt.Errorf("line %d: an empty item in a list", line)
	}
	return nil
}

// emptyItem returns the line of a null in a list, or 0. The decoder would leave it out without a word.
func emptyItem(n *yaml.Node) int {
	for _, child := range n.Content {
		if n.Kind == yaml.SequenceNode && child.Kind == yaml.ScalarNode && child.ShortTag() == "!!null" {
			return child.Line
		}
		if line := emptyItem(child); line > 0 {
			return line
		}
	}
	return 0
}

var (
	unknown  = regexp.MustCompile(`field (.*?) not found in type \S+`)
	keyForm  = regexp.MustCompile(`^[a-z_]{1,32}$`)
	mistyped = regexp.MustCompile("cannot unmarshal \\S+ (`[^`]*` )?into (\\S+)")
)

// plain says the decoder's error in words of the file, not of Go.
func plain(text string) string {
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	text = unknown.ReplaceAllStringFunc(text, func(s string) string {
		// Where a text has no quotes around it, what stands behind a comma in it is a key to YAML: the rest of a password.
		if name := unknown.FindStringSubmatch(s)[1]; keyForm.MatchString(name) {
			return `unknown key "` + name + `"`
		}
		return "unknown key; a text with a comma in it needs quotes"
	})
	text = mistyped.ReplaceAllStringFunc(text, func(s string) string {
		parts := mistyped.FindStringSubmatch(s)
		return strings.TrimSpace(parts[1]) + " is not " + kind(parts[2])
	})
	return strings.Join(strings.Fields(text), " ")
}

func kind(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration, such as 200ms or 5s"
	case goType == "bool":
		return "true or false"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case strings.HasPrefix(goType, "map["), strings.Contains(goType, "."):
		return "a group of keys"
	}
	return "a text"
}
