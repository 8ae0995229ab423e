package source

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/policies/fault"
)

// describe returns a fault for each failed test. It runs the tests without errors again, to find the expressions that fail.
func (s Source) describe(ctx context.Context, failed []*tester.Result) error {
	var names []string
	expressions := failedExpressions{source: s, tests: make(map[place]bool), last: make(map[testCase]string)}
	for _, r := range failed {
		if r.Error == nil {
			expressions.tests[placeOf(r.Location)] = true
			name := r.Package + "." + r.Name
			if strings.Contains(r.Name, "#") { // OPA adds a number to the second test of a name
				name = fmt.Sprintf("%s[%q]", r.Package, r.Name)
			}
			names = append(names, regexp.QuoteMeta(name))
		}
	}
	if len(names) > 0 {
		err := s.run(ctx, ast.NewCompiler().WithCapabilities(capabilities()), "^("+strings.Join(names, "|")+")$", &expressions, func(*tester.Result) {})
		if err != nil {
			return err
		}
	}
	var all fault.Errors
	for _, r := range failed {
		all = append(all, fault.Fault{File: r.Location.File, Line: r.Location.Row, Text: failure(r, expressions.last)})
	}
	return all.Err()
}

// failure describes the result of a failed test: its failed cases, if it has cases, and the expressions that fail.
func failure(r *tester.Result, expressions map[testCase]string) string {
	text := fmt.Sprintf("the test %s fails", r.Name)
	var evaluation *topdown.Error
	switch {
	case topdown.IsCancel(r.Error):
		return fmt.Sprintf("the test %s takes more than %v", r.Name, testTimeout)
	case errors.As(r.Error, &evaluation):
		return text + ": " + fault.OneLine(evaluation.Message)
	case r.Error != nil:
		return text + ": " + fault.OneLine(r.Error.Error())
	}
	var cases []string
	first := testCase{place: placeOf(r.Location)}
	for name, result := range r.SubResults.Iter {
		if result.Fail && len(result.SubResults) == 0 {
			if len(cases) == 0 {
				first.name = strings.Join(name, "/")
			}
			cases = append(cases, strconv.Quote(strings.Join(name, "/")))
		}
	}
	if len(cases) > 0 {
		text += " for " + strings.Join(cases, ", ")
	}
	switch expression := expressions[first]; {
	case expression == "":
		return text
	case len(cases) > 1:
		return fmt.Sprintf("%s; the first case at %s", text, expression)
	default:
		return fmt.Sprintf("%s at %s", text, expression)
	}
}

// testCase identifies a case of a test. The name is empty if the test has no cases.
type testCase struct {
	place
	name string
}

// failedExpressions is a tracer. For each case of a test, it remembers the last expression of the test that was false or undefined.
type failedExpressions struct {
	source  Source
	tests   map[place]bool
	last    map[testCase]string // expressions as describeExpression returns them
	current string              // the name of the current case
}

func (*failedExpressions) Enabled() bool { return true }

func (*failedExpressions) Config() topdown.TraceConfig {
	return topdown.TraceConfig{PlugLocalVars: true}
}

func (f *failedExpressions) TraceEvent(event topdown.Event) {
	switch node := event.Node.(type) {
	case *ast.Rule:
		if event.Op == topdown.EnterOp && node.Location != nil && f.tests[placeOf(node.Location)] {
			f.current = ""
		}
	case *ast.Expr:
		switch {
		case event.Op == topdown.TestCaseOp:
			f.current = nameOfCase(node)
		case event.Op != topdown.FailOp || event.Location == nil || node.IsEvery(): // the failed expression in `every` says more
		default:
			if test := f.source.ruleAt(event.Location); f.tests[test] {
				f.last[testCase{test, f.current}] = describeExpression(node, event.Location, event.Locals)
			}
		}
	}
}

// nameOfCase returns the name of a case in the form in which the result of the test contains it.
func nameOfCase(event *ast.Expr) string {
	terms, ok := event.Operand(0).Value.(*ast.Array)
	if !ok {
		return ""
	}
	var parts []string
	terms.Foreach(func(term *ast.Term) {
		if text, ok := term.Value.(ast.String); ok {
			parts = append(parts, string(text))
		} else {
			parts = append(parts, term.String())
		}
	})
	return strings.Join(parts, "/")
}

// comparisons are the operators whose operands a description shows.
var comparisons = []*ast.Builtin{
	ast.Equality, ast.Equal, ast.NotEqual, ast.LessThan, ast.LessThanEq, ast.GreaterThan, ast.GreaterThanEq,
}

// describeExpression returns the line and the text of an expression that is false or undefined. For a comparison, the description
// has the value of each side that is not a constant.
func describeExpression(e *ast.Expr, at *ast.Location, locals *ast.ValueMap) string {
	text := fmt.Sprintf("line %d: %s", at.Row, shortened(strings.Join(strings.Fields(string(at.Text)), " ")))
	if e.Negated || locals == nil || !e.IsCall() ||
		!slices.ContainsFunc(comparisons, func(b *ast.Builtin) bool { return b.Ref().Equal(e.Operator()) }) {
		return text
	}
	var values []string
	for _, side := range e.Operands() {
		if value := valueOf(side.Value, locals); value != nil {
			values = append(values, shortened(value.String()))
		}
	}
	if len(values) == 0 {
		return text
	}
	return text + ", got " + strings.Join(values, " and ")
}

// valueOf returns the value of a local variable, or of a part of it, such as c.name. It returns nil for anything else.
func valueOf(side ast.Value, locals *ast.ValueMap) ast.Value {
	ref, ok := side.(ast.Ref)
	if !ok {
		return locals.Get(side)
	}
	if whole := locals.Get(ref[0].Value); whole != nil {
		if part, err := whole.Find(ref[1:]); err == nil {
			return part
		}
	}
	return nil
}

// shortened keeps a line readable.
func shortened(text string) string {
	const limit = 120
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return text
}
