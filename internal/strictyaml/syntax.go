package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
)

const syntaxRemedy = ": check the indentation, the brackets and quotes, and the space after each colon"

var parserLine = regexp.MustCompile(`^yaml: (line \d+: )?`)

// Syntax returns an error if the text is not YAML. The error names the line of the mistake. The parser's own line is often the
// line at which the block with the mistake starts.
func Syntax(text []byte) error {
	message := parse(text)
	if message == "" {
		return nil
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	// The parser stops at the first mistake. So it gives the same message for each start of the text that contains the mistake.
	mistake := sort.Search(len(lines), func(i int) bool { return parse(bytes.Join(lines[:i+1], nil)) == message })
	cause := parserLine.ReplaceAllString(message, "")
	remedy := syntaxRemedy
	switch {
	case strings.HasPrefix(cause, "mapping values"):
		remedy = ": in this line or the line above, write a space after the key's colon, or quotes around a text that contains a colon"
	case strings.HasPrefix(cause, "unknown anchor"), strings.HasPrefix(cause, "did not find expected alphabetic"):
		remedy = ": put quotes around a text that starts with * or &"
	case mistake < len(lines) && bytes.Contains(indentation.Find(lines[mistake]), []byte("\t")):
		remedy = ": indent with spaces, not with a tab"
	}
	return errors.New(strings.Join(strings.Fields(fmt.Sprintf("line %d: %s%s", mistake+1, cause, remedy)), " "))
}

var indentation = regexp.MustCompile(`^\s*`)

// parse returns the message of the parser, or "" for a text that is YAML.
func parse(text []byte) string {
	if err := yaml.Unmarshal(text, new(yaml.Node)); err != nil {
		return err.Error()
	}
	return ""
}
