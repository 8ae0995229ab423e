package policies

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/authz"
)

// Explainer decides as an Engine does, and says where. It never runs optimised rules, which have lost their lines.
type Explainer struct {
	policy
	dir string
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
	tables, s, err := open(ctx, c.FS())
	if err != nil {
		return nil, err
	}
	p, err := s.policy(ctx, tables, func(ctx context.Context) (rego.PreparedEvalQuery, error) { return s.prepare(ctx, decisionQuery) })
	if err != nil {
		return nil, err
	}
	return &Explainer{policy: p, dir: c.Dir}, nil
}

// Explain decides one input.
func (e *Explainer) Explain(ctx context.Context, in authz.Input) (Explanation, error) {
	trace := topdown.NewBufferTracer()
	d, err := e.decide(ctx, in, rego.EvalQueryTracer(trace))
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
		if r.Name() == route {
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
