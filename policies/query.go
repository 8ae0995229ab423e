package policies

import (
	"context"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
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
func (s sources) prepare(ctx context.Context, compiler *ast.Compiler, document ast.Ref, functions ...*topdown.Builtin) (*query, error) {
	body, err := compiler.QueryCompiler().Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(resultVar), ast.NewTerm(document))))
	if err != nil {
		return nil, err
	}
	// Nothing writes into the store, so that one transaction serves all evaluations.
	store := inmem.NewFromObjectWithOpts(s.data, inmem.OptReturnASTValuesOnRead(true))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*topdown.Builtin, len(functions))
	for _, f := range functions {
		byName[f.Decl.Name] = f
	}
	q := topdown.NewQuery(body).WithCompiler(compiler).WithStore(store).WithTransaction(txn).WithBuiltins(byName).
		WithStrictBuiltinErrors(true).WithMetrics(metrics.NoOp())
	return &query{document: document, prepared: *q}, nil
}

// eval returns the document. An undefined one is an error. It uses and adds to what is kept with a row; cached may be nil.
func (q *query) eval(ctx context.Context, input ast.Value, cached *rowCache, tracers ...topdown.QueryTracer) (*ast.Term, error) {
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
	var result *ast.Term
	err := one.Iter(ctx, func(r topdown.QueryResult) error {
		result = r[resultVar]
		return nil
	})
	if err != nil {
		return nil, err
	}
	if cached != nil {
		cached.keep()
	}
	if result == nil {
		return nil, fmt.Errorf("%s is undefined", q.document)
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
