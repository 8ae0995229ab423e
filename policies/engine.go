package policies

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/authz"
)

// Config says which policy to run.
type Config struct {
	// Dir holds keywicket/*.rego, apis/NAME/data.yaml and facts/NAME/data.yaml. Default: the policy built into the binary.
	Dir string `yaml:"dir"`
}

// FS is the policy's files.
func (c Config) FS() fs.FS {
	if c.Dir == "" {
		return Builtin
	}
	return os.DirFS(c.Dir)
}

// Engine decides by a policy. It is safe for concurrent use.
type Engine struct {
	policy
	hash string
	// Each has room for as many evaluations as there are processors. The others wait, first come, first served: of thousands
	// at once, each would get its share of a processor, and all of them would end too late. A check that was looked up has its
	// own queue: a flood of checks without a look-up cannot delay it.
	arrived, lookedUp chan struct{}
	measured          func(time.Duration)
}

// Measure has somebody told how long each evaluation takes, with the wait for its turn. It is to be called before Decide is.
func (e *Engine) Measure(told func(time.Duration)) { e.measured = told }

// Remembers reports whether decisions are remembered.
func (e *Engine) Remembers() bool { return e.memory != nil }

// Remembered is how many decisions were not evaluated.
func (e *Engine) Remembered() uint64 {
	if e.memory == nil {
		return 0
	}
	return e.memory.hits.Load()
}

// policy is what decides, and what is known of it.
type policy struct {
	tables  map[string]Table
	uses    Uses
	reading reading
	index   *index // finds the rows; nil: rules do
	// behindIndex is what is read once the index has found the row.
	behindIndex reading
	earlier     bool     // rules of an earlier version find them
	doubts      []string // about rules
	query       *query

	parameters map[string]authz.Parameters // of the tables
	memory     *memory                     // nil: decisions cannot be remembered
	changing   error                       // why not
}

// Reading implements authz.Policy.
func (p *policy) Reading(api string) authz.Reading {
	return authz.Reading{
		Parameters: p.parameters[api], Query: p.reading[requestQuery], Header: p.reading[requestHeaders], Time: p.reading[inputTime],
		Source: p.reading.source(), Certificate: p.reading[sourceCertificate],
	}
}

// Tables are those of the policy, by the API's name.
func (p *policy) Tables() map[string]Table { return p.tables }

// Uses are what the configuration has to declare.
func (p *policy) Uses() Uses { return p.uses }

// Load reads a policy, runs its tests, and compiles it. A policy with a faulty table, one that does not compile and one
// whose tests fail are refused.
func Load(ctx context.Context, c Config) (_ *Engine, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // what was interrupted says nothing about the policy
		}
	}()
	tables, s, err := open(ctx, c.FS())
	if err != nil {
		return nil, err
	}
	p, err := s.policy(ctx, tables, s.optimised)
	if err != nil {
		return nil, err
	}
	if err := s.test(ctx); err != nil {
		return nil, err
	}
	return &Engine{policy: p, hash: hex.EncodeToString(s.hash.Sum(nil)[:6]), arrived: newTurns(), lookedUp: newTurns(), measured: func(time.Duration) {}}, nil
}

// policy compiles the rules: with the index, or, where they find their rows in a way of their own, as otherwise says.
func (s sources) policy(
	ctx context.Context, tables map[string]Table, otherwise func(context.Context, *ast.Compiler) (*query, error),
) (policy, error) {
	p := policy{tables: tables, parameters: make(map[string]authz.Parameters, len(tables))}
	for name, table := range tables {
		p.parameters[name] = table.Parameters
	}
	compiler, err := s.compiled()
	if err != nil {
		return p, err
	}
	if err := s.guard(compiler); err != nil {
		return p, err
	}
	p.reading = readingOf(referencesOf(compiler, false))
	if p.uses, err = usesOf(compiler); err != nil {
		return p, err
	}
	p.doubts, p.earlier = s.doubtful(), s.hasEarlierRoute()
	if p.query, p.index, err = s.indexed(ctx, tables, compiler); err != nil {
		return p, err
	}
	if p.index == nil {
		p.query, err = otherwise(ctx, compiler)
	}
	if err != nil {
		return p, err
	}
	references := referencesOf(compiler, p.index != nil)
	p.behindIndex = readingOf(references)
	p.memory, p.changing = newMemory(references, p.index)
	return p, p.probe(ctx)
}

func newTurns() chan struct{} { return make(chan struct{}, runtime.GOMAXPROCS(0)) }

// Warnings are about tables that are valid, but not safe before every server, and about rules that are slow. Each names its file.
func (p *policy) Warnings() []string {
	all := slices.Clone(p.doubts)
	if p.index == nil {
		all = append(all, routeFile+": it is not the shipped file, or a rule replaces or adds to what it reads, so decisions take longer as tables grow")
	}
	if p.changing != nil {
		all = append(all, fmt.Sprintf("%v, so decisions are not remembered, and take longer", p.changing))
	}
	for _, name := range slices.Sorted(maps.Keys(p.tables)) {
		for _, warning := range p.tables[name].overlaps() {
			all = append(all, fmt.Sprintf("apis/%s/data.yaml: %s", name, warning))
		}
	}
	return all
}

// Hash is of all files that were loaded, tests included: twelve hexadecimal digits. Two sidecars that have the same one decide
// alike.
func (e *Engine) Hash() string { return e.hash }

// Decide implements authz.Policy. An undefined decision, and a built-in function's error, are errors. Nobody may write to what
// the decision holds: it may be remembered.
func (e *Engine) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	r := e.row(&in)
	if e.memory == nil {
		d, err := e.evaluate(ctx, in, r)
		return detached(d), err
	}
	// Every check begins with what a client without a credential would be told. The row keeps that decision.
	ofRow := e.memory.ofRow && r.number > 0 && isAnonymous(&in)
	if ofRow {
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
	if ofRow {
		r.anonymous.Store(&d)
	}
	return d, nil
}

// isAnonymous reports whether the input is of a request whose credential was not looked at.
func isAnonymous(in *authz.Input) bool {
	return in.Denial == authz.ReasonMissing && in.Principal == nil && in.Workspace == authz.Workspace{}
}

func (e *Engine) evaluate(ctx context.Context, in authz.Input, r *row) (authz.Decision, error) {
	defer func(start time.Time) { e.measured(time.Since(start)) }(time.Now())
	turns := e.arrived
	if in.Denial != authz.ReasonMissing {
		turns = e.lookedUp
	}
	select {
	case turns <- struct{}{}:
	default: // which spares most evaluations the context's timer
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return authz.Decision{}, ctx.Err()
		}
	}
	defer func() { <-turns }()
	return e.decide(ctx, &in, r)
}

// noRow is of a policy without an index.
var noRow = &row{}

// row is what the index finds, if there is one.
func (p *policy) row(in *authz.Input) *row {
	if p.index == nil {
		return noRow
	}
	return p.index.rowOf(in)
}

func (p *policy) decide(ctx context.Context, in *authz.Input, r *row, tracers ...topdown.QueryTracer) (authz.Decision, error) {
	reading := &p.reading
	var cached *rowCache
	if p.index != nil && len(tracers) == 0 { // a tracer is to see every rule
		if cached = p.index.rules.cache(r); cached != nil {
			reading = &p.behindIndex
		}
	}
	input, err := inputValue(in, reading)
	if err != nil {
		return authz.Decision{}, err
	}
	document, err := p.query.eval(ctx, input, cached, tracers...)
	if err != nil {
		return authz.Decision{}, err
	}
	if cached != nil {
		p.index.rules.learn(ctx, cached, input)
		p.index.learnNeeds(ctx, r, input)
	}
	return decisionOf(document.Value)
}

// plain prepares the rules as they are.
func (s sources) plain(ctx context.Context, compiler *ast.Compiler) (*query, error) {
	return s.prepare(ctx, compiler, decisionRef)
}

// optimised prepares the decision of a policy that the index does not serve. The file of an earlier version was written for OPA's
// optimiser. The one of this version is slower with it.
func (s sources) optimised(ctx context.Context, compiler *ast.Compiler) (*query, error) {
	if !s.hasEarlierRoute() {
		return s.plain(ctx, compiler)
	}
	o, err := s.optimise(ctx)
	if err != nil {
		return nil, err
	}
	if compiler, err = o.compiled(); err != nil {
		return nil, err
	}
	return o.plain(ctx, compiler)
}

// optimise evaluates beforehand what is known without an input: each row of a table becomes a rule of its own, which
// OPA finds through an index. Both entrypoints are needed: with the decision alone, the rows would be copied into it.
func (s sources) optimise(ctx context.Context) (sources, error) {
	b := &bundle.Bundle{Data: s.data}
	for file, module := range s.rules {
		b.Modules = append(b.Modules, bundle.ModuleFile{
			URL: file, Path: file, RelativePath: file, Raw: []byte(module.String()), Parsed: module,
		})
	}
	slices.SortFunc(b.Modules, func(a, b bundle.ModuleFile) int { return strings.Compare(a.Path, b.Path) })
	compiler := compile.New().WithBundle(b).WithTarget(compile.TargetRego).WithCapabilities(capabilities()).
		WithOptimizationLevel(1).WithEntrypoints("keywicket/route", "keywicket/decision")
	if err := compiler.Build(ctx); err != nil {
		return sources{}, err
	}
	optimised := sources{rules: make(map[string]*ast.Module), data: compiler.Bundle().Data}
	for _, m := range compiler.Bundle().Modules {
		optimised.rules[m.Path] = m.Parsed
	}
	return optimised, nil
}
