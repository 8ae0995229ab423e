package policies

import (
	"context"
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/policies/fault"
	"github.com/keywicket/keywicket/policies/source"
)

// query evaluates one document of compiled rules. It uses the package topdown directly. For each evaluation, the package rego would
// start a goroutine, open a transaction and convert the result to JSON. A query is safe for concurrent use.
type query struct {
	document ast.Ref
	prepared topdown.Query // copied for each evaluation
}

const resultVar = ast.Var("result")

// prepare returns a query of compiled rules. If a built-in function fails, the evaluation fails.
func prepare(ctx context.Context, s source.Source, compiler *ast.Compiler, document ast.Ref) (*query, error) {
	e, err := newEvaluator(ctx, s, compiler)
	if err != nil {
		return nil, err
	}
	return e.prepare(document)
}

// evaluator contains the rules, the data and the functions that several queries share.
type evaluator struct {
	compiler  *ast.Compiler
	store     storage.Store
	txn       storage.Transaction
	functions map[string]*topdown.Builtin
}

func newEvaluator(ctx context.Context, s source.Source, compiler *ast.Compiler) (*evaluator, error) {
	// Nothing writes to the store, so one transaction serves all evaluations.
	store := inmem.NewFromObjectWithOpts(s.Data, inmem.OptReturnASTValuesOnRead(true))
	txn, err := store.NewTransaction(ctx)
	return &evaluator{compiler: compiler, store: store, txn: txn}, err
}

// forRules returns an evaluator for other rules over the same data. The rules can call the function.
func (e *evaluator) forRules(compiler *ast.Compiler, function *topdown.Builtin) *evaluator {
	other := *e
	other.compiler, other.functions = compiler, map[string]*topdown.Builtin{function.Decl.Name: function}
	return &other
}

// prepare returns a query of the document.
func (e *evaluator) prepare(document ast.Ref) (*query, error) {
	body, err := e.compiler.QueryCompiler().Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(resultVar), ast.NewTerm(document))))
	if err != nil {
		return nil, err
	}
	q := topdown.NewQuery(body).WithCompiler(e.compiler).WithStore(e.store).WithTransaction(e.txn).WithBuiltins(e.functions).
		WithStrictBuiltinErrors(true).WithMetrics(metrics.NoOp())
	return &query{document: document, prepared: *q}, nil
}

// exhaustive makes the query evaluate all solutions of a rule, so that the query reports an error in any solution. By default OPA
// may stop at the first solution.
func (q *query) exhaustive() *query {
	q.prepared.WithEarlyExit(false)
	return q
}

// eval returns the document. An undefined document is an error. `cached` contains the known values of the row, and may be nil.
func (q *query) eval(ctx context.Context, input ast.Value, cached *rowCache, tracers ...topdown.QueryTracer) (*ast.Term, error) {
	result, err := q.find(ctx, input, cached, tracers...)
	if err == nil && result == nil {
		return nil, fmt.Errorf("%s is undefined", q.document)
	}
	return result, err
}

// find is like eval, but returns nil for an undefined document.
func (q *query) find(ctx context.Context, input ast.Value, cached *rowCache, tracers ...topdown.QueryTracer) (result *ast.Term, err error) {
	evaluation := q.prepared
	evaluation.WithCancel(&contextCancel{ctx: ctx})
	if cached != nil {
		evaluation.WithVirtualCache(cached)
	}
	if input != nil {
		evaluation.WithInput(ast.NewTerm(input))
	}
	for _, t := range tracers {
		evaluation.WithQueryTracer(t)
	}
	err = evaluation.Iter(ctx, func(r topdown.QueryResult) error {
		result = r[resultVar]
		return nil
	})
	var inRule *topdown.Error
	if errors.As(err, &inRule) { // without OPA's name for the kind of error
		told := fault.Fault{Text: fault.OneLine(inRule.Message)}
		if at := inRule.Location; at != nil {
			told.File, told.Line = at.File, at.Row
		}
		err = fault.Errors{told}
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

// contextCancel cancels an evaluation whose context has ended. It checks the context only at every 64th step, because this
// check takes longer than a step.
type contextCancel struct {
	ctx   context.Context
	steps int
}

// Cancel implements [topdown.Cancel].
func (*contextCancel) Cancel() {}

// Cancelled implements [topdown.Cancel].
func (e *contextCancel) Cancelled() bool {
	const interval = 64 // steps
	e.steps++
	return e.steps%interval == 0 && e.ctx.Err() != nil
}
