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

// faults is an error with one line for each problem of a folder, so that the author can fix all of them at once.
type faults []fault

// fault is one problem. Its line is 0 if unknown. Its file is empty if it concerns the whole folder.
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

// err returns the faults sorted by file and line, without duplicates; nil if there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b fault) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line))
	})
	return slices.Compact(f)
}

// at adds an error at a line. Only the first line of its text is kept.
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

// lastLine returns the last line on which the node or one below it starts.
func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, child := range n.Content {
		last = max(last, lastLine(child))
	}
	return last
}

// in adds the error of a file. An error that has several faults or lines adds several.
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
		added := fault{file: file, text: oneLine(one.Message)}
		if one.Location != nil {
			added.file, added.line = cmp.Or(one.Location.File, file), one.Location.Row
		}
		*f = append(*f, added)
	default:
		for text := range strings.Lines(err.Error()) {
			added := fault{file: file, text: oneLine(text)}
			if m := lineOfYAML.FindStringSubmatch(added.text); m != nil {
				added.line, _ = strconv.Atoi(m[1])
				added.text = m[2]
			}
			*f = append(*f, added)
		}
	}
}

// lineOfYAML matches the line number at the start of an error of the YAML decoder.
var lineOfYAML = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): (.+)$`)

// oneLine returns the first line of a text. The other lines are details.
func oneLine(text string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSuffix(first, ":")
}
