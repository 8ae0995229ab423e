package policies

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/source"
)

// Explainer makes the same decisions as an Engine. For each decision, it also returns the places (file:line) of the rule that
// decided and of the row. It never evaluates optimised rules, because optimisation removes the line numbers.
type Explainer struct {
	policy
	dir string
}

// Explanation is a decision with the places, as file:line, of the rule that decided and of the row.
type Explanation struct {
	authz.Decision
	// Rule is the branch of data.keywicket.decision, or the rule of data.keywicket.deny, that decided.
	Rule string
	// Row is the row of the table that matched; empty if no row matched.
	Row string
}

// LoadExplainer reads a policy. It does not run the tests: an author may need explanations of a policy whose tests fail.
func LoadExplainer(ctx context.Context, c Config) (*Explainer, error) {
	files, err := c.Folder()
	if err != nil {
		return nil, err
	}
	tables, s, err := source.Open(ctx, files)
	if err != nil {
		return nil, err
	}
	p, err := newPolicy(ctx, s, tables, preparePlain)
	if err != nil {
		return nil, err
	}
	return &Explainer{policy: p, dir: c.Dir}, nil
}

// Explain decides one input.
func (e *Explainer) Explain(ctx context.Context, in authz.Input) (Explanation, error) {
	trace := topdown.NewBufferTracer()
	d, err := e.decide(ctx, &in, e.row(&in), trace)
	if err != nil {
		return Explanation{}, err
	}
	return Explanation{Decision: d, Rule: e.ruleOf(*trace), Row: e.rowOf(in.API, d.Route)}, nil
}

var deniedByARule = ast.MustParseRef("data.keywicket.denied_by_a_rule")

// ruleOf returns the place of the rule that decided. If exactly one rule of data.keywicket.deny denied, the result is the place
// of that rule.
func (e *Explainer) ruleOf(trace []*topdown.Event) string {
	var decisive *ast.Rule
	var denials []*ast.Rule
	denied := false
	for _, event := range trace {
		rule, ok := event.Node.(*ast.Rule)
		switch {
		case !ok || event.Op != topdown.ExitOp:
		case rule.Ref().HasPrefix(document.DenyRef) && !slices.ContainsFunc(denials, func(other *ast.Rule) bool { return other.Location.Equal(rule.Location) }):
			denials = append(denials, rule)
		case rule.Ref().Equal(deniedByARule):
			denied = true
		case rule.Ref().Equal(document.DecisionRef) && decisive == nil:
			decisive = rule
		}
	}
	if decisive == nil {
		return ""
	}
	if denied && len(denials) == 1 {
		decisive = denials[0]
	}
	return e.place(decisive.Location.File, decisive.Location.Row)
}

// rowOf returns the place of the route's row, or "" if the table has no such route.
func (e *Explainer) rowOf(api, route string) string {
	for _, r := range e.tables[api].Routes {
		if r.Name() == route {
			return e.place("apis/"+api+"/data.yaml", r.Line)
		}
	}
	return ""
}

// place returns file:line. The path starts with the author's folder, or with policies/ for the built-in policy.
func (e *Explainer) place(file string, line int) string {
	dir := e.dir
	if dir == "" {
		dir = "policies"
	}
	return fmt.Sprintf("%s:%d", filepath.Join(dir, filepath.FromSlash(file)), line)
}
