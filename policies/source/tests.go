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

	"github.com/keywicket/keywicket/policies/fault"
)

// testTimeout is the limit for each of a policy's tests. OPA's default of 5 s is too short on a busy machine: the sidecar would
// not start.
const testTimeout = time.Minute

// Test runs the policy's tests as `opa test` does, with the same result for each test, even if a built-in function fails within
// a test. Test skips tests whose names start with todo_.
func (s Source) Test(ctx context.Context) error {
	var all fault.Errors
	err := s.run(ctx, ast.NewCompiler().WithCapabilities(capabilities()), everyTest, func(r *tester.Result) {
		if !r.Pass() && !r.Skip {
			all = append(all, fault.Fault{File: r.Location.File, Line: r.Location.Row, Text: failure(r)})
		}
	})
	if err != nil {
		return err
	}
	return all.Err()
}

// failure describes the result of a failed test, with the failed cases if the test has cases.
func failure(r *tester.Result) string {
	var cases []string
	for name, result := range r.SubResults.Iter {
		if result.Fail && len(result.SubResults) == 0 {
			cases = append(cases, fmt.Sprintf("%q", strings.Join(name, "/")))
		}
	}
	var evaluation *topdown.Error
	switch {
	case topdown.IsCancel(r.Error):
		return fmt.Sprintf("the test %s takes more than %v", r.Name, testTimeout)
	case errors.As(r.Error, &evaluation):
		return fmt.Sprintf("the test %s fails: %s", r.Name, fault.OneLine(evaluation.Message))
	case r.Error != nil:
		return fmt.Sprintf("the test %s fails: %s", r.Name, fault.OneLine(r.Error.Error()))
	case len(cases) > 0:
		return fmt.Sprintf("the test %s fails for %s", r.Name, strings.Join(cases, ", "))
	}
	return fmt.Sprintf("the test %s fails", r.Name)
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
		err := s.run(ctx, compiler, noTest, nil)
		if err == nil {
			break
		}
		var found ast.Errors
		if !errors.As(err, &found) {
			return err
		}
		for _, e := range found {
			if !slices.ContainsFunc(before, func(other *ast.Error) bool { return s.ruleAt(other) == s.ruleAt(e) }) {
				all = append(all, e)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// ruleAt returns the file and the first line of the rule that has the error.
func (s Source) ruleAt(e *ast.Error) (place struct {
	file string
	line int
}) {
	if e.Location == nil {
		return place
	}
	place.file = e.Location.File
	for _, modules := range []map[string]*ast.Module{s.Rules, s.Tests} {
		if module, ok := modules[place.file]; ok {
			for _, rule := range module.Rules {
				if line := rule.Location.Row; line <= e.Location.Row {
					place.line = max(place.line, line)
				}
			}
		}
	}
	return place
}

// run compiles rules and tests with the settings of `opa test`, and runs the tests whose names match the pattern.
func (s Source) run(ctx context.Context, compiler *ast.Compiler, names string, each func(*tester.Result)) error {
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
	results, err := tester.NewRunner().SetCompiler(compiler).SetStore(store).SetModules(modules).
		SetTimeout(testTimeout).SetParallel(runtime.GOMAXPROCS(0)).Filter(names).RunTests(ctx, txn)
	if err != nil {
		return err
	}
	for r := range results {
		each(r)
	}
	return nil
}
