// Package fault represents the problems of a policy folder, with file and line.
package fault

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

// Errors is an error with one line for each problem of a folder, so that the author can fix all of them together.
type Errors []Fault

// Fault is one problem. The line is 0 if it is unknown. The file is empty if the problem concerns the whole folder.
type Fault struct {
	File string
	Line int
	Text string
}

func (f Fault) String() string {
	switch {
	case f.File == "" && f.Line == 0:
		return f.Text
	case f.File == "":
		return fmt.Sprintf("line %d: %s", f.Line, f.Text)
	case f.Line == 0:
		return f.File + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text)
}

func (f Errors) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns the faults sorted by file and line, without duplicates; nil if there are none.
func (f Errors) Err() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return slices.Compact(f)
}

// AddLine adds an error at a line of the file. It keeps only the first line of the error's text.
func (f *Errors) AddLine(line int, err error) {
	if err != nil {
		*f = append(*f, Fault{Line: line, Text: OneLine(err.Error())})
	}
}

// Within reports whether one of the faults is on one of the lines of a YAML node.
func (f Errors) Within(n *yaml.Node) bool {
	last := lastLine(n)
	return slices.ContainsFunc(f, func(one Fault) bool { return n.Line <= one.Line && one.Line <= last })
}

// lastLine returns the last line on which the node or a node below it starts.
func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, child := range n.Content {
		last = max(last, lastLine(child))
	}
	return last
}

// AddFile adds the problems of a file: one fault for each fault or line that the error contains.
func (f *Errors) AddFile(file string, err error) {
	var faults Errors
	var regoErrors ast.Errors
	var regoError *ast.Error
	switch {
	case err == nil:
	case errors.As(err, &faults):
		for _, added := range faults {
			added.File = cmp.Or(added.File, file)
			*f = append(*f, added)
		}
	case errors.As(err, &regoErrors):
		for _, regoError := range regoErrors {
			f.AddFile(file, regoError)
		}
	case errors.As(err, &regoError):
		added := Fault{File: file, Text: OneLine(regoError.Message)}
		if m := lineOfYAML.FindStringSubmatch(added.Text); m != nil {
			added.Text = m[2] // its line number counts from the start of a comment, which is not useful
		}
		if regoError.Location != nil {
			added.File, added.Line = cmp.Or(regoError.Location.File, file), regoError.Location.Row
		}
		*f = append(*f, added)
	default:
		for text := range strings.Lines(err.Error()) {
			added := Fault{File: file, Text: OneLine(text)}
			if m := lineOfYAML.FindStringSubmatch(added.Text); m != nil {
				added.Line, _ = strconv.Atoi(m[1])
				added.Text = m[2]
			}
			*f = append(*f, added)
		}
	}
}

// lineOfYAML matches the line number at the start of an error of the YAML decoder.
var lineOfYAML = regexp.MustCompile(`^line ([0-9]+): (.+)$`)

// OneLine returns the first line of a text, without the names of OPA's and its libraries' parts at the start. The other lines are
// details.
func OneLine(text string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSuffix(prefixes.ReplaceAllString(first, ""), ":")
}

// prefixes matches the names that OPA and its libraries put before an error.
var prefixes = regexp.MustCompile(`^(?:(?:yaml|json|error|rego|bundle|(?:rego|eval|storage)_[a-z_]+|[0-9]+ errors? occurred): )+`)

// LineOf returns the line of the key or list item that the keys lead to. If a key is missing, LineOf returns the line of the last
// key that exists, or 0.
func LineOf(tree *yaml.Node, keys ...string) int {
	line := 0
	if len(tree.Content) == 0 {
		return line
	}
	node := tree.Content[0]
	for _, name := range keys {
		step := 1
		if node.Kind == yaml.MappingNode {
			step = 2
		}
		i := 0
		for i < len(node.Content) && node.Content[i].Value != name {
			i += step
		}
		if i >= len(node.Content) {
			break
		}
		line = node.Content[i].Line
		node = node.Content[i+step-1]
	}
	return line
}
