package source

import (
	"cmp"
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
		err := s.run(ctx, tracingCompiler(), "^("+strings.Join(names, "|")+")$", &expressions, func(*tester.Result) {})
		if err != nil {
			return err
		}
	}
	var all fault.Errors
	for _, r := range failed {
		text := failure(r, expressions.last)
		if r.Error == nil && s.isConstantCase(r.Location) {
			text = fmt.Sprintf("the test %s fails: OPA runs no case with a constant name: take the name from a variable, or write it into the name of the test", r.Name)
		}
		all = append(all, fault.Fault{File: r.Location.File, Line: r.Location.Row, Text: text})
	}
	return all.Err()
}

// tracingCompiler returns a compiler of tests whose evaluation is traced. A test assigns the rules and the data that it compares to
// variables, so that the trace contains their values. OPA's index excludes no test from the evaluation.
func tracingCompiler() *ast.Compiler {
	return ast.NewCompiler().WithCapabilities(capabilities()).WithRewriteTestRules(true).
		WithStageAfterID(ast.StageRewriteTestRulesForTracing, ast.CompilerStageDefinition{
			Name: "ExcludeNoTest", MetricName: "exclude_no_test", Stage: excludeNoTest,
		})
}

// excludeNoTest is a stage of the compiler. It adds a call to print to each test, because OPA's index ignores a rule with such a call.
func excludeNoTest(c *ast.Compiler) *ast.Error {
	for _, module := range c.Modules {
		for _, rule := range module.Rules {
			if !rule.Default && strings.Contains(rule.Head.Ref().String(), tester.TestPrefix) {
				body := ast.NewBody(ast.InternalPrint.Expr(ast.ArrayTerm()))
				for _, expr := range rule.Body {
					body.Append(expr)
				}
				rule.Body = body
			}
		}
	}
	return nil
}

// maxCases limits the failed cases that an error names.
const maxCases = 10

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
	if more := len(cases) - maxCases; more > 0 {
		text += fmt.Sprintf(" for %s and %d other cases", strings.Join(cases[:maxCases], ", "), more)
	} else if len(cases) > 0 {
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
		case event.Op == topdown.RedoOp && node.IsCall() && node.Operator().Equal(ast.InternalTestCase.Ref()):
			f.current = "" // the case ends
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
	names := make(tester.SubResultMap)
	names.Update(*terms, nil)
	var name string
	for path := range names.Iter {
		name = strings.Join(path, "/") // the last path has all parts
	}
	return name
}

// comparisons are the operators whose operands a description shows.
var comparisons = []*ast.Builtin{
	ast.Equality, ast.Equal, ast.NotEqual, ast.LessThan, ast.LessThanEq, ast.GreaterThan, ast.GreaterThanEq,
}

// describeExpression returns the line and the text of an expression that is false or undefined. For a comparison, the description
// has the value of each side that is not a constant.
func describeExpression(e *ast.Expr, at *ast.Location, locals *ast.ValueMap) string {
	if e.Generated && e.IsEquality() {
		return describeUndefined(e.Operand(1).Value, at)
	}
	text := fmt.Sprintf("line %d: %s", at.Row, sourceText(at))
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

// describeUndefined describes a value that the compiler assigns to a variable of its own. That only fails if there is no value.
func describeUndefined(value ast.Value, at *ast.Location) string {
	ref, ok := value.(ast.Ref)
	if !ok || ref.IsGround() {
		return fmt.Sprintf("line %d: %s is undefined", at.Row, sourceText(at))
	}
	list := ref.ConstantPrefix().String() // of `some n in list`
	if at = cmp.Or(ref[0].Location, at); !ast.RootDocumentNames.Contains(ref[0]) {
		list = strings.Replace(list, ref[0].String(), sourceText(at), 1)
	}
	return fmt.Sprintf("line %d: %s has no element", at.Row, shortened(list))
}

// sourceText returns the text at a location, on one line.
func sourceText(at *ast.Location) string {
	return shortened(strings.Join(strings.Fields(string(at.Text)), " "))
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
