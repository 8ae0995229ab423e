package policies

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/keywicket/keywicket/authz"
)

// Config says which policy to run.
type Config struct {
	// Dir holds keywicket/*.rego and apis/NAME/data.yaml. Default: the policy built into the binary.
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
	tables     map[string]Table
	hash       string
	readsQuery bool
	query      rego.PreparedEvalQuery
	// Each has room for as many evaluations as there are processors. The others wait, first come, first served: of thousands
	// at once, each would get its share of a processor, and all of them would end too late. A check that was looked up has
	// waited once already, so it does not queue behind those that have just come.
	arrived, lookedUp chan struct{}
}

// Load reads a policy, runs its tests, and compiles it. A policy with a faulty table, one that does not compile and one
// whose tests fail are refused.
func Load(ctx context.Context, c Config) (_ *Engine, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // what was interrupted says nothing about the policy
		}
	}()
	policy := c.FS()
	tables, err := Tables(policy)
	if err != nil {
		return nil, err
	}
	s, err := read(policy)
	if err != nil {
		return nil, err
	}
	if err := s.test(ctx); err != nil {
		return nil, err
	}
	readsQuery, err := s.reads("request", "query")
	if err != nil {
		return nil, err
	}
	optimised, err := s.optimise(ctx)
	if err != nil {
		return nil, err
	}
	query, err := optimised.prepare(ctx)
	if err != nil {
		return nil, err
	}
	return &Engine{
		tables: tables, hash: hex.EncodeToString(s.hash.Sum(nil)[:6]), readsQuery: readsQuery, query: query,
		arrived: newTurns(), lookedUp: newTurns(),
	}, nil
}

func newTurns() chan struct{} { return make(chan struct{}, runtime.GOMAXPROCS(0)) }

// Warnings are about tables that are valid, but not safe before every server. Each names its file and line.
func (e *Engine) Warnings() []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(e.tables)) {
		for _, warning := range e.tables[name].overlaps() {
			all = append(all, fmt.Sprintf("apis/%s/data.yaml: %s", name, warning))
		}
	}
	return all
}

// Reading implements authz.Policy.
func (e *Engine) Reading(api string) authz.Reading {
	return authz.Reading{Parameters: e.tables[api].Parameters, Query: e.readsQuery}
}

// Hash is of all files that were loaded, tests included: twelve hexadecimal digits. Two sidecars that have the same one decide
// alike.
func (e *Engine) Hash() string { return e.hash }

// Tables are those of the policy, by the API's name.
func (e *Engine) Tables() map[string]Table { return e.tables }

// Decide implements authz.Policy. An undefined decision, and a built-in function's error, are errors.
func (e *Engine) Decide(ctx context.Context, in authz.Input) (authz.Decision, error) {
	turns := e.arrived
	if in.Denial != authz.ReasonMissing {
		turns = e.lookedUp
	}
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return authz.Decision{}, ctx.Err()
	}
	results, err := e.query.Eval(ctx, rego.EvalParsedInput(inputValue(in)))
	if err != nil {
		return authz.Decision{}, err
	}
	return decisionIn(results)
}

// sources are a policy's files, parsed: rules, their tests, and the tables as OPA reads them.
type sources struct {
	rules, tests map[string]*ast.Module
	data         map[string]any
	hash         hash.Hash // of all files, in the order of their names
}

func read(policy fs.FS) (sources, error) {
	apis := make(map[string]any)
	s := sources{
		rules: make(map[string]*ast.Module),
		tests: make(map[string]*ast.Module),
		data:  map[string]any{"apis": apis},
		hash:  sha256.New(),
	}
	err := fs.WalkDir(policy, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		switch path.Ext(file) {
		case ".rego":
			return s.addModule(policy, file)
		case ".yaml", ".yml", ".json":
			if ok, _ := path.Match("apis/*/data.yaml", file); !ok {
				return fmt.Errorf("%s: data lies in apis/NAME/data.yaml and nowhere else", file)
			}
			var table any
			text, err := s.read(policy, file)
			if err == nil {
				err = util.Unmarshal(text, &table)
			}
			apis[path.Base(path.Dir(file))] = table
			return err
		}
		return nil
	})
	if err == nil && len(s.rules) == 0 {
		err = errors.New("there is no Rego file")
	}
	return s, err
}

func (s sources) read(policy fs.FS, file string) ([]byte, error) {
	text, err := fs.ReadFile(policy, file)
	fmt.Fprintf(s.hash, "%s %d\n%s", file, len(text), text)
	return text, err
}

func (s sources) addModule(policy fs.FS, file string) error {
	text, err := s.read(policy, file)
	if err != nil {
		return err
	}
	module, err := ast.ParseModuleWithOpts(file, string(text), ast.ParserOptions{Capabilities: capabilities()})
	if err != nil {
		return err
	}
	if strings.HasSuffix(file, "_test.rego") {
		s.tests[file] = module
	} else {
		s.rules[file] = module
	}
	return nil
}

// capabilities are OPA's own without the built-ins that reach out of the process: a decision waits for no network, and
// tells nothing of the environment. A JSON schema can refer to another one by its URL.
func capabilities() *ast.Capabilities {
	outward := []string{
		ast.HTTPSend.Name, ast.NetLookupIPAddr.Name, ast.OPARuntime.Name, ast.JSONMatchSchema.Name, ast.JSONSchemaVerify.Name,
	}
	c := ast.CapabilitiesForThisVersion()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return slices.Contains(outward, b.Name) })
	c.AllowNet = []string{}
	return c
}

// testTimeout bounds each of a policy's tests. OPA's own 5 s are too few where a machine is busy: the sidecar would not
// start.
const testTimeout = time.Minute

// test runs the policy's own tests, unoptimised, as `opa test` does.
func (s sources) test(ctx context.Context) error {
	modules := make(map[string]*ast.Module, len(s.rules)+len(s.tests))
	for _, part := range []map[string]*ast.Module{s.rules, s.tests} {
		for file, module := range part {
			modules[file] = module
		}
	}
	store := inmem.NewFromObject(s.data)
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return err
	}
	defer store.Abort(ctx, txn)
	compiler := ast.NewCompiler().WithCapabilities(capabilities()).WithEnablePrintStatements(false)
	results, err := tester.NewRunner().SetCompiler(compiler).SetStore(store).SetModules(modules).
		RaiseBuiltinErrors(true).SetTimeout(testTimeout).RunTests(ctx, txn)
	if err != nil {
		return err
	}
	var failed []string
	for r := range results {
		switch {
		case r.Error != nil:
			failed = append(failed, fmt.Sprintf("%s %s (%v)", r.Location, r.Name, r.Error))
		case !r.Pass():
			failed = append(failed, fmt.Sprintf("%s %s", r.Location, r.Name))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("the policy's own tests fail: %s", strings.Join(failed, ", "))
	}
	return nil
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

func (s sources) prepare(ctx context.Context) (rego.PreparedEvalQuery, error) {
	options := []func(*rego.Rego){
		rego.Query("data.keywicket.decision"),
		rego.Store(inmem.NewFromObjectWithOpts(s.data, inmem.OptReturnASTValuesOnRead(true))),
		rego.Capabilities(capabilities()),
		rego.StrictBuiltinErrors(true),
	}
	for _, module := range s.rules {
		options = append(options, rego.ParsedModule(module))
	}
	return rego.New(options...).PrepareForEval(ctx)
}
