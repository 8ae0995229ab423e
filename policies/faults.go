package policies

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"go.yaml.in/yaml/v3"
)

// faults is an error that tells everything that is wrong with a folder, one line each, so that the author can fix everything
// at once.
type faults []fault

// fault is one of them. Its line is 0 where none is known, and its file is empty where the folder as a whole is meant.
type fault struct {
	file string
	line int
	text string
}

func (f fault) String() string {
	switch {
	case f.file == "" && f.line == 0:
		return f.text
	case f.file == "":
		return fmt.Sprintf("line %d: %s", f.line, f.text)
	case f.line == 0:
		return f.file + ": " + f.text
	}
	return fmt.Sprintf("%s:%d: %s", f.file, f.line, f.text)
}

func (f faults) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// err returns the faults by file and line, each once; nil if there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line))
	})
	return slices.Compact(f)
}

// at adds an error of one line.
func (f *faults) at(line int, err error) {
	if err != nil {
		*f = append(*f, fault{line: line, text: oneLine(err.Error())})
	}
}

// within reports whether one of the faults is in the lines of a node.
func (f faults) within(n *yaml.Node) bool {
	last := lastLine(n)
	return slices.ContainsFunc(f, func(one fault) bool { return n.Line <= one.line && one.line <= last })
}

func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, child := range n.Content {
		last = max(last, lastLine(child))
	}
	return last
}

// in adds an error of a file, which can be several.
func (f *faults) in(file string, err error) {
	var several faults
	var ofRego ast.Errors
	var one *ast.Error
	switch {
	case err == nil:
	case errors.As(err, &several):
		for _, one := range several {
			one.file = cmp.Or(one.file, file)
			*f = append(*f, one)
		}
	case errors.As(err, &ofRego):
		for _, one := range ofRego {
			f.in(file, one)
		}
	case errors.As(err, &one):
		told := fault{file: file, text: oneLine(one.Message)}
		if one.Location != nil {
			told.file, told.line = cmp.Or(one.Location.File, file), one.Location.Row
		}
		*f = append(*f, told)
	default:
		for text := range strings.Lines(err.Error()) {
			told := fault{file: file, text: oneLine(text)}
			if m := lineOfYAML.FindStringSubmatch(told.text); m != nil {
				told.line, _ = strconv.Atoi(m[1])
				told.text = m[2]
			}
			*f = append(*f, told)
		}
	}
}

// lineOfYAML finds the line at the start of an error of the YAML decoder.
var lineOfYAML = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): (.+)$`)

// oneLine is a text without its further lines, which are details.
func oneLine(text string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSuffix(first, ":")
}
