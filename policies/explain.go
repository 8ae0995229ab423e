package policies

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/authz"
)

// Explainer decides as an Engine does, and says where. It runs the policy as it was written: optimised rules have lost
// their lines.
type Explainer struct {
	dir    string
	tables map[string]Table

	readsQuery bool
	query      rego.PreparedEvalQuery
}

// Explanation is a decision with the places that it came from, as file:line.
type Explanation struct {
	authz.Decision
	// Rule is the part of data.keywicket.decision that answered.
	Rule string
	// Row is the route's in its table; empty when no route matched.
	Row string
}

// LoadExplainer reads a policy. Its tests are not run: a policy that fails them is worth explaining too.
func LoadExplainer(ctx context.Context, c Config) (*Explainer, error) {
	tables, err := Tables(c.FS())
	if err != nil {
		return nil, err
	}
	s, err := read(c.FS())
	if err != nil {
		return nil, err
	}
	readsQuery, err := s.reads("request", "query")
	if err != nil {
		return nil, err
	}
	query, err := s.prepare(ctx)
	if err != nil {
		return nil, err
	}
	return &Explainer{dir: c.Dir, tables: tables, readsQuery: readsQuery, query: query}, nil
}

// Reading implements authz.Policy.
func (e *Explainer) Reading(api string) authz.Reading {
	return authz.Reading{Parameters: e.tables[api].Parameters, Query: e.readsQuery}
}

// Tables are those of the policy, by the API's name.
func (e *Explainer) Tables() map[string]Table { return e.tables }

// Explain decides one input.
func (e *Explainer) Explain(ctx context.Context, in authz.Input) (Explanation, error) {
	trace := topdown.NewBufferTracer()
	results, err := e.query.Eval(ctx, rego.EvalParsedInput(inputValue(in)), rego.EvalQueryTracer(trace))
	if err != nil {
		return Explanation{}, err
	}
	d, err := decisionIn(results)
	if err != nil {
		return Explanation{}, err
	}
	return Explanation{Decision: d, Rule: e.ruleOf(*trace), Row: e.rowOf(in.API, d.Route)}, nil
}

func (e *Explainer) ruleOf(trace []*topdown.Event) string {
	for _, event := range trace {
		rule, ok := event.Node.(*ast.Rule)
		if ok && event.Op == topdown.ExitOp && rule.Ref().String() == "data.keywicket.decision" {
			return e.place(rule.Location.File, rule.Location.Row)
		}
	}
	return ""
}

func (e *Explainer) rowOf(api, route string) string {
	for _, r := range e.tables[api].Routes {
		if r.Method+" "+r.Path == route {
			return e.place("apis/"+api+"/data.yaml", r.Line)
		}
	}
	return ""
}

// place names a file as the author knows it: in the folder, or in the policies that are built in.
func (e *Explainer) place(file string, line int) string {
	dir := e.dir
	if dir == "" {
		dir = "policies"
	}
	return fmt.Sprintf("%s:%d", filepath.Join(dir, filepath.FromSlash(file)), line)
}

func decisionIn(results rego.ResultSet) (authz.Decision, error) {
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return authz.Decision{}, errors.New("data.keywicket.decision is undefined")
	}
	return decisionOf(results[0].Expressions[0].Value)
}
