package source

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// testTimeout is the limit for each of a policy's tests. OPA's default of 5 s is too short on a busy machine: the sidecar would
// not start.
const testTimeout = time.Minute

// Test runs the policy's tests as `opa test` does, with the same result for each test, even if a built-in function fails within
// a test. Test skips tests whose names start with todo_. It returns a warning for each test that has no cases, because such a
// test passes without testing anything.
func (s Source) Test(ctx context.Context) (warnings []string, err error) {
	var failed []*tester.Result
	err = s.run(ctx, ast.NewCompiler().WithCapabilities(capabilities()), everyTest, nil, func(r *tester.Result) {
		switch {
		case !r.Pass() && !r.Skip:
			failed = append(failed, r)
		case r.Pass() && len(r.SubResults) == 0 && s.hasCases(r.Location):
			warnings = append(warnings, fmt.Sprintf("%s:%d: the test %s has no cases, so it tests nothing", r.Location.File, r.Location.Row, r.Name))
		}
	})
	if err == nil && len(failed) > 0 {
		err = s.describe(ctx, failed)
	}
	slices.Sort(warnings)
	return warnings, err
}

// hasCases reports whether the test at a location has a case for each value of a variable: test_a[case].
func (s Source) hasCases(at *ast.Location) bool {
	return s.anyRule(at, func(head *ast.Head) bool { return head.DocKind() == ast.PartialObjectDoc })
}

// isConstantCase reports whether the test at a location is a case with a constant name: test_a["case"] or test_a.case.
func (s Source) isConstantCase(at *ast.Location) bool {
	return s.anyRule(at, func(head *ast.Head) bool {
		name, _ := head.Ref()[len(head.Ref())-1].Value.(ast.String)
		return len(head.Ref()) > 1 && head.DocKind() == ast.CompleteDoc && !strings.HasPrefix(string(name), tester.TestPrefix)
	})
}

// anyRule reports whether the head of a rule at a location meets the condition.
func (s Source) anyRule(at *ast.Location, condition func(*ast.Head) bool) bool {
	for _, modules := range []map[string]*ast.Module{s.Rules, s.Tests} {
		if module, ok := modules[at.File]; ok {
			return slices.ContainsFunc(module.Rules, func(rule *ast.Rule) bool { return rule.Location.Row == at.Row && condition(rule.Head) })
		}
	}
	return false
}

// Patterns for the names of tests.
const (
	everyTest = ""
	noTest    = "^$"
)

// checks are the stages of OPA's compiler that look for errors and change nothing. The compiler stops after the first stage that
// finds errors.
var checks = []ast.StageID{ast.StageCheckUndefinedFuncs, ast.StageCheckSafetyRuleHeads, ast.StageCheckSafetyRuleBodies}

// compile compiles rules and tests, and returns all errors. If a check finds errors, compile skips this check and compiles again,
// so that the later checks run. It omits a later error in a rule that already has an error, because the later error can be a
// consequence.
func (s Source) compile(ctx context.Context) error {
	var all ast.Errors
	for skipped := range len(checks) + 1 {
		compiler := ast.NewCompiler().WithCapabilities(everyBuiltin()).WithSkipStages(checks[:skipped]...)
		if skipped == 0 {
			compiler.WithStageAfterID(ast.StageRewriteLocalVars, sandbox(&all))
		}
		before := slices.Clone(all)
		err := s.run(ctx, compiler, noTest, nil, nil)
		if err == nil {
			break
		}
		var found ast.Errors
		if !errors.As(err, &found) {
			return err
		}
		for _, e := range found {
			if !slices.ContainsFunc(before, func(other *ast.Error) bool { return s.ruleAt(other.Location) == s.ruleAt(e.Location) }) {
				all = append(all, e)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// place is a line of a file.
type place struct {
	file string
	line int
}

func placeOf(at *ast.Location) place { return place{at.File, at.Row} }

// ruleAt returns the file and the first line of the rule at a location.
func (s Source) ruleAt(at *ast.Location) place {
	if at == nil {
		return place{}
	}
	rule := place{file: at.File}
	for _, modules := range []map[string]*ast.Module{s.Rules, s.Tests} {
		if module, ok := modules[rule.file]; ok {
			for _, other := range module.Rules {
				if line := other.Location.Row; line <= at.Row {
					rule.line = max(rule.line, line)
				}
			}
		}
	}
	return rule
}

// run compiles rules and tests with the settings of `opa test`, and runs the tests whose names match the pattern. If there is a
// tracer, run runs one test at a time.
func (s Source) run(
	ctx context.Context, compiler *ast.Compiler, names string, tracer topdown.QueryTracer, each func(*tester.Result),
) error {
	store := inmem.NewFromObject(s.Data)
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return err
	}
	defer store.Abort(ctx, txn)
	compiler.WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn)).WithEnablePrintStatements(true).
		WithUseTypeCheckAnnotations(true).SetErrorLimit(0) // 0: no limit
	modules := maps.Clone(s.Rules)
	maps.Copy(modules, s.Tests)
	runner := tester.NewRunner().SetCompiler(compiler).SetStore(store).SetModules(modules).
		SetTimeout(testTimeout).SetParallel(runtime.GOMAXPROCS(0)).Filter(names)
	if tracer != nil {
		runner.SetParallel(1).SetCoverageQueryTracer(tracer)
	}
	results, err := runner.RunTests(ctx, txn)
	if err != nil {
		return err
	}
	for r := range results {
		each(r)
	}
	return nil
}
