package policies

import (
	"context"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// query evaluates one document of compiled rules. It runs OPA's evaluator itself: the package rego around it starts a
// goroutine, opens a transaction and converts the result to JSON for each evaluation. It is safe for concurrent use.
type query struct {
	document ast.Ref
	prepared topdown.Query // copied for each evaluation
}

const resultVar = ast.Var("result")

// prepare makes a query of compiled rules. In an evaluation, a built-in function's error is an error.
func (s sources) prepare(ctx context.Context, compiler *ast.Compiler, document ast.Ref) (*query, error) {
	e, err := s.evaluator(ctx, compiler)
	if err != nil {
		return nil, err
	}
	return e.prepare(document)
}

// evaluator is what the queries of compiled rules have in common.
type evaluator struct {
	compiler  *ast.Compiler
	store     storage.Store
	txn       storage.Transaction
	functions map[string]*topdown.Builtin
}

func (s sources) evaluator(ctx context.Context, compiler *ast.Compiler) (*evaluator, error) {
	// Nothing writes into the store, so that one transaction serves all evaluations.
	store := inmem.NewFromObjectWithOpts(s.data, inmem.OptReturnASTValuesOnRead(true))
	txn, err := store.NewTransaction(ctx)
	return &evaluator{compiler: compiler, store: store, txn: txn}, err
}

// with is the evaluator for other rules, with a function that they call, and the same data.
func (e *evaluator) with(compiler *ast.Compiler, function *topdown.Builtin) *evaluator {
	other := *e
	other.compiler, other.functions = compiler, map[string]*topdown.Builtin{function.Decl.Name: function}
	return &other
}

func (e *evaluator) prepare(document ast.Ref) (*query, error) {
	body, err := e.compiler.QueryCompiler().Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(resultVar), ast.NewTerm(document))))
	if err != nil {
		return nil, err
	}
	q := topdown.NewQuery(body).WithCompiler(e.compiler).WithStore(e.store).WithTransaction(e.txn).WithBuiltins(e.functions).
		WithStrictBuiltinErrors(true).WithMetrics(metrics.NoOp())
	return &query{document: document, prepared: *q}, nil
}

// exhaustive makes the query try all solutions of a rule, so that an error in any of them is an error. OPA may leave a rule at the
// first one.
func (q *query) exhaustive() *query {
	q.prepared.WithEarlyExit(false)
	return q
}

// eval returns the document. An undefined one is an error. It uses what is known of the row; cached may be nil.
func (q *query) eval(ctx context.Context, input ast.Value, cached *rowCache, tracers ...topdown.QueryTracer) (*ast.Term, error) {
	result, err := q.find(ctx, input, cached, tracers...)
	if err == nil && result == nil {
		return nil, fmt.Errorf("%s is undefined", q.document)
	}
	return result, err
}

// find is eval, and returns nil for an undefined document.
func (q *query) find(ctx context.Context, input ast.Value, cached *rowCache, tracers ...topdown.QueryTracer) (result *ast.Term, err error) {
	one := q.prepared
	one.WithCancel(&ended{ctx: ctx})
	if cached != nil {
		one.WithVirtualCache(cached)
	}
	if input != nil {
		one.WithInput(ast.NewTerm(input))
	}
	for _, t := range tracers {
		one.WithQueryTracer(t)
	}
	err = one.Iter(ctx, func(r topdown.QueryResult) error {
		result = r[resultVar]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// ended tells an evaluation that its context has ended. It asks that at one step of many, because asking takes longer than a step.
type ended struct {
	ctx   context.Context
	steps int
}

// Cancel implements [topdown.Cancel].
func (*ended) Cancel() {}

// Cancelled implements [topdown.Cancel].
func (e *ended) Cancelled() bool {
	const between = 64
	e.steps++
	return e.steps%between == 0 && e.ctx.Err() != nil
}
