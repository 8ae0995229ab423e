package policies

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/authz/target"
	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/folder"
	"github.com/keywicket/keywicket/policies/source"
	"github.com/keywicket/keywicket/policies/table"
)

// Config selects the policy.
type Config struct {
	// Dir is a folder with keywicket/*.rego, apis/NAME/data.yaml and facts/NAME/data.yaml. Default: the policy built into the
	// binary.
	Dir string `yaml:"dir"`
}

// Folder reads the policy's files.
func (c Config) Folder() (folder.Folder, error) {
	if c.Dir == "" {
		return folder.Read(Builtin)
	}
	return folder.Open(c.Dir)
}

// Engine decides requests by a policy. It is safe for concurrent use.
type Engine struct {
	policy
	hash    string
	ignored []string
	// Each semaphore admits as many evaluations as there are processors. Further evaluations wait in the order of arrival. Without
	// this limit, thousands of concurrent evaluations would share the processors, and all of them would finish too late.
	// Evaluations after a look-up have their own semaphore, so a flood of requests without a look-up cannot delay these
	// evaluations.
	beforeLookup, afterLookup chan struct{}
	observe                   func(time.Duration)
}

// ObserveEvaluations sets the function that receives the duration of each evaluation, including the wait for its semaphore. Call
// ObserveEvaluations before Decide.
func (e *Engine) ObserveEvaluations(observe func(time.Duration)) { e.observe = observe }

// HasMemory reports whether the engine remembers decisions.
func (e *Engine) HasMemory() bool { return e.memory != nil }

// MemoryHits returns how many times Decide returned a remembered decision, without an evaluation.
func (e *Engine) MemoryHits() uint64 {
	if e.memory == nil {
		return 0
	}
	return e.memory.hits.Load()
}

// policy is a compiled policy. Engine and Explainer share it.
type policy struct {
	tables  map[string]table.Table
	uses    analysis.Uses
	reading document.Reading
	index   *index // finds the rows; nil if the rule `route` finds the rows
	// readingWithRow contains the parts that rules read if the index finds the row.
	readingWithRow document.Reading
	earlierRoute   bool     // keywicket/route.rego is from an earlier version
	unsafeNots     []string // warnings about negations in rules
	emptyTests     []string // warnings about tests without cases
	query          *query

	parameters map[string]target.Parameters // the special characters that each API's table permits in a {parameter}
	memory     *memory                      // nil if decisions cannot be remembered
	memoryErr  error                        // why memory is nil
}

// Needs implements authz.Policy.
func (p *policy) Needs(api string) authz.PolicyNeeds {
	return authz.PolicyNeeds{
		Parameters: p.parameters[api], Query: p.reading[document.RequestQuery], Header: p.reading[document.RequestHeaders], Time: p.reading[document.InputTime],
		Source: p.reading.Source(), Certificate: p.reading[document.SourceCertificate],
	}
}

// Tables returns the tables of the policy, by the name of the API.
func (p *policy) Tables() map[string]table.Table { return p.tables }

// Uses returns the denials and headers that the configuration has to declare.
func (p *policy) Uses() analysis.Uses { return p.uses }

// Load reads a policy, runs its tests, and compiles it. It refuses a policy that has an invalid table, does not compile, or fails
// its tests.
func Load(ctx context.Context, c Config) (_ *Engine, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // an interruption is not a fault of the policy
		}
	}()
	files, err := c.Folder()
	if err != nil {
		return nil, err
	}
	tables, s, err := source.Open(ctx, files)
	if err != nil {
		return nil, err
	}
	p, err := newPolicy(ctx, s, tables, prepareOptimised)
	if err != nil {
		return nil, err
	}
	if p.emptyTests, err = s.Test(ctx); err != nil {
		return nil, err
	}
	return &Engine{
		policy: p, hash: files.Hash(), ignored: files.Ignored,
		beforeLookup: newSemaphore(), afterLookup: newSemaphore(), observe: func(time.Duration) {},
	}, nil
}

// newPolicy compiles the rules. If the policy finds the rows with the shipped route.rego, newPolicy prepares the query with the
// index. For any other policy, newPolicy calls withoutIndex, which prepares the query.
func newPolicy(
	ctx context.Context, s source.Source, tables map[string]table.Table,
	withoutIndex func(context.Context, source.Source, *ast.Compiler) (*query, error),
) (policy, error) {
	p := policy{tables: tables, parameters: make(map[string]target.Parameters, len(tables))}
	for name, t := range tables {
		p.parameters[name] = t.Parameters
	}
	compiler, err := s.Compiled()
	if err != nil {
		return p, err
	}
	if err := analysis.CheckDefinitions(s, compiler); err != nil {
		return p, err
	}
	references := analysis.ReferencesOf(compiler, false)
	if err := analysis.CheckInput(references); err != nil {
		return p, err
	}
	p.reading = analysis.ReadingOf(references)
	if p.uses, err = analysis.UsesOf(compiler); err != nil {
		return p, err
	}
	p.unsafeNots, p.earlierRoute = analysis.UnsafeNots(s), s.HasEarlierRoute()
	if p.query, p.index, err = prepareIndexed(ctx, s, tables, compiler); err != nil {
		return p, err
	}
	if p.index == nil {
		p.query, err = withoutIndex(ctx, s, compiler)
	}
	if err != nil {
		return p, err
	}
	references = analysis.ReferencesOf(compiler, p.index != nil)
	p.readingWithRow = analysis.ReadingOf(references)
	p.memory, p.memoryErr = newMemory(references, p.index)
	return p, p.probe(ctx)
}

func newSemaphore() chan struct{} { return make(chan struct{}, runtime.GOMAXPROCS(0)) }

// Warnings returns warnings about negations that may be undefined, tests without cases, tables that are not safe with every server,
// and slow rules. Each warning names a file.
func (p *policy) Warnings() []string {
	all := slices.Concat(p.unsafeNots, p.emptyTests)
	if p.index == nil {
		all = append(all, document.RouteFile+": the file is not the shipped file, or another rule changes a definition that the file contains or reads, so decisions take longer as tables grow")
	}
	if p.memoryErr != nil {
		all = append(all, fmt.Sprintf("%v, so decisions are not remembered, and take longer", p.memoryErr))
	}
	for _, name := range slices.Sorted(maps.Keys(p.tables)) {
		for _, warning := range p.tables[name].Overlaps() {
			all = append(all, fmt.Sprintf("apis/%s/data.yaml: %s", name, warning))
		}
	}
	return all
}

// Hash returns twelve hexadecimal digits that identify the content of all loaded files, tests included. Two sidecars with the
// same hash make the same decisions.
func (e *Engine) Hash() string { return e.hash }

// Ignored returns the names of the files and folders that are not part of the policy.
func (e *Engine) Ignored() []string { return e.ignored }

// Decide implements authz.Policy. An undefined decision and an error of a built-in function are errors. The caller must not
// modify the slices and maps of the decision, because later callers may receive the same remembered decision.
func (e *Engine) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	r := e.row(&in)
	if e.memory == nil {
		d, err := e.evaluate(ctx, in, r)
		return detachedCopy(d), err
	}
	// Every check first evaluates the policy without a credential. So the row stores the decision without a credential.
	byRow := e.memory.anonymousByRow && r.number > 0 && isAnonymous(&in)
	if byRow {
		if d := r.anonymous.Load(); d != nil {
			e.memory.hits.Add(1)
			return *d, nil
		}
	}
	key := e.memory.key(&in, r)
	if d := e.memory.find(key); d != nil {
		return *d, nil
	}
	d, err := e.evaluate(ctx, in, r)
	if err != nil {
		return d, err
	}
	d = e.memory.add(key, d)
	if byRow {
		r.anonymous.Store(&d)
	}
	return d, nil
}

// isAnonymous reports whether the input has no credential. Either the request has no credential, or the check has not examined
// the credential yet.
func isAnonymous(in *authz.Input) bool {
	return in.Denial == authz.ReasonMissing && in.Principal == nil && in.Workspace == authz.Workspace{}
}

func (e *Engine) evaluate(ctx context.Context, in authz.Input, r *row) (authz.Decision, error) {
	defer func(start time.Time) { e.observe(time.Since(start)) }(time.Now())
	semaphore := e.beforeLookup
	if in.Denial != authz.ReasonMissing {
		semaphore = e.afterLookup
	}
	select {
	case semaphore <- struct{}{}:
	default: // only an evaluation that has to wait needs ctx.Done
		select {
		case semaphore <- struct{}{}:
		case <-ctx.Done():
			return authz.Decision{}, ctx.Err()
		}
	}
	defer func() { <-semaphore }()
	return e.decide(ctx, &in, r)
}

// noRow is the row of every request if the policy has no index.
var noRow = &row{}

// row returns the row that the index finds, or noRow without an index.
func (p *policy) row(in *authz.Input) *row {
	if p.index == nil {
		return noRow
	}
	return p.index.rowOf(in)
}

// decide evaluates the decision. It caches the values of rules that depend on the row alone.
func (p *policy) decide(ctx context.Context, in *authz.Input, r *row, tracers ...topdown.QueryTracer) (authz.Decision, error) {
	reading := &p.reading
	var cached *rowCache
	if p.index != nil && len(tracers) == 0 { // a tracer must see every rule
		if cached = p.index.rules.cache(r); cached != nil {
			reading = &p.readingWithRow
		}
	}
	input, err := document.Input(in, reading)
	if err != nil {
		return authz.Decision{}, err
	}
	result, err := p.query.eval(ctx, input, cached, tracers...)
	if err != nil {
		return authz.Decision{}, err
	}
	if cached != nil {
		p.index.rules.learn(ctx, cached, input)
		p.index.learnNeeds(ctx, r, input)
	}
	return document.Decision(result.Value)
}

// preparePlain prepares the query of the decision, without optimisation.
func preparePlain(ctx context.Context, s source.Source, compiler *ast.Compiler) (*query, error) {
	return prepare(ctx, s, compiler, document.DecisionRef)
}

// prepareOptimised prepares the query of the decision with OPA's optimiser, for a policy without an index. The rules of an
// earlier version were written for the optimiser. The rules of this version are slower with the optimiser.
func prepareOptimised(ctx context.Context, s source.Source, compiler *ast.Compiler) (*query, error) {
	if !s.HasEarlierRoute() {
		return preparePlain(ctx, s, compiler)
	}
	o, err := s.Optimise(ctx)
	if err != nil {
		return nil, err
	}
	if compiler, err = o.Compiled(); err != nil {
		return nil, err
	}
	return preparePlain(ctx, o, compiler)
}
