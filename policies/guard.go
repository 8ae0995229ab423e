package policies

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/route"
)

// These checks refuse a policy that would allow more than it appears to. Causes are rules of an earlier version beside tables or
// rules of this one, and tests that define what the rules read.

// checkRuleForms refuses a rule for data.keywicket.deny or .headers that has the wrong form. The compiler would report it as an
// error of the shipped rules, which read them.
func (s sources) checkRuleForms() error {
	var all faults
	for _, module := range s.rules {
		for _, rule := range module.Rules {
			var wrong string
			switch ref := rule.Ref(); {
			case ref.Equal(denyRef) && (rule.Head.Key == nil || !mayBeObject(rule.Head.Key)):
				wrong = `deny holds objects: write deny contains {"code": "…", "reason": "…"} if { … }`
			case ref.Equal(headersRef) && rule.Head.Value == nil:
				wrong = `headers is an object: write headers["x-name"] := "…" if { … }`
			default:
				continue
			}
			all = append(all, fault{file: rule.Location.File, line: rule.Location.Row, text: wrong})
		}
	}
	return all.err()
}

// mayBeObject reports whether a term is an object, or may have one as its value.
func mayBeObject(t *ast.Term) bool {
	switch t.Value.(type) {
	case ast.Object, ast.Var, ast.Ref, ast.Call:
		return true
	}
	return false
}

// checkDefinitions refuses test files that define documents that the rules read, and denials or headers that no rule reads.
func (s sources) checkDefinitions(compiler *ast.Compiler) error {
	var all faults
	read := make(map[string]reference) // documents below data that rules read
	for _, module := range compiler.Modules {
		ast.WalkRefs(module, func(r ast.Ref) bool {
			if ground := r.GroundPrefix(); len(ground) > 1 && r[0].Equal(ast.DefaultRootDocument) {
				read[ground.String()] = reference{ref: ground, location: cmp.Or(r[0].Location, module.Package.Location)}
			}
			return false
		})
	}
	for _, file := range slices.Sorted(maps.Keys(s.tests)) {
		for _, rule := range s.tests[file].Rules {
			ref := rule.Ref().GroundPrefix()
			for _, r := range read {
				if r.ref.HasPrefix(ref) {
					all = append(all, fault{file: rule.Location.File, line: rule.Location.Row, text: fmt.Sprintf(
						"%s is read at %s, but the sidecar leaves out _test.rego files when it decides: define it in another file", ref, r.place())})
				}
			}
		}
	}
	for _, extension := range []ast.Ref{denyRef, headersRef} {
		rules := compiler.GetRulesWithPrefix(extension)
		if len(rules) > 0 && read[extension.String()].ref == nil {
			all = append(all, fault{file: rules[0].Location.File, line: rules[0].Location.Row, text: fmt.Sprintf(
				"%s is defined, but no rule reads it: use keywicket/decision.rego of this version", extension)})
		}
	}
	return all.err()
}

// probe decides sample requests for rows that rules of an earlier version would read wrongly. It refuses a row whose sample finds
// another row, and a row that allows its sample without any scope.
func (p *policy) probe(ctx context.Context) error {
	var all faults
	for _, api := range slices.Sorted(maps.Keys(p.tables)) {
		table := p.tables[api]
		everyRow := p.earlierRoute && table.hasNewForms()
		for i, r := range table.Routes {
			if len(r.AnyOf) == 0 && !everyRow {
				continue
			}
			method, path := r.sample()
			if found, ok := table.index.Find(method, path); !ok || found != i {
				continue
			}
			file := "apis/" + api + "/data.yaml"
			in := sampleInput(api, method, path, r.level())
			d, err := p.decide(ctx, &in, p.row(&in))
			switch {
			case err != nil: // not a fault: a rule may need more than the sample has
			case d.Allow && len(r.AnyOf) > 0:
				all = append(all, fault{file: file, line: r.Line, text: "the rules allow a token without any scope, because they do not read any_of: use keywicket/decision.rego and route.rego of this version"})
			case p.earlierRoute && d.Route != r.Name():
				all = append(all, fault{file: file, line: r.Line, text: fmt.Sprintf(
					"keywicket/route.rego finds %q for %s %s instead of %s: use that file of this version", d.Route, method, path, r.Name())})
			}
		}
	}
	return all.err()
}

// hasEarlierRoute reports whether keywicket/route.rego is of a version before any_of and the other newer keys.
func (s sources) hasEarlierRoute() bool {
	m := s.rules[routeFile]
	return m == nil || !strings.Contains(m.String(), `"any_of"`)
}

// hasNewForms reports whether the table has keys or patterns that rules of an earlier version do not support.
func (t Table) hasNewForms() bool {
	return t.HeadWithGet || len(t.Implies) > 0 || slices.ContainsFunc(t.Routes, func(r Route) bool {
		return r.GRPC != "" || r.Method == route.AnyMethod || len(r.AnyOf) > 0 || !r.pattern.WholeParameters()
	})
}

// sample returns a request that the row matches. A row with precedence may match it too.
func (r Route) sample() (method, path string) {
	method = r.method()
	if method == route.AnyMethod {
		method = "GET"
	}
	return method, r.pattern.Sample()
}

// sampleInput returns the input of a principal without scopes that may use the workspace, or of a user at LevelUser.
func sampleInput(api, method, path string, level Level) authz.Input {
	in := authz.Input{
		API: api, Method: method, Path: path, Time: time.Now(),
		Principal: &authz.Principal{ID: "probe", Kind: authz.KindWorkspaceKey, API: api, Environment: authz.Live},
		Workspace: authz.Workspace{Requested: true, Granted: true, ID: strings.Repeat("0", 24), Slug: "probe"},
	}
	if level == LevelUser {
		in.Principal.Kind, in.Principal.UserID, in.Workspace = authz.KindPersonalKey, "probe", authz.Workspace{}
	}
	return in
}

// findUnsafeNots finds a `not` around a reference that may be undefined, in a file without `import future.keywords.not`. OPA then
// evaluates the reference before the `not`. If it is undefined, the whole expression is undefined, so a denial does not apply.
func (s sources) findUnsafeNots() []string {
	var all faults
	for _, module := range s.rules {
		if slices.ContainsFunc(module.Imports, func(i *ast.Import) bool { return i.Path.String() == "future.keywords.not" }) {
			continue
		}
		ast.WalkExprs(module, func(e *ast.Expr) bool {
			if ref := evaluatedBeforeNot(e); ref != nil {
				all = append(all, fault{file: e.Location.File, line: e.Location.Row, text: fmt.Sprintf(
					"if %s is undefined, this `not` is undefined instead of true: import future.keywords.not in the file", ref)})
			}
			return false
		})
	}
	if len(all) == 0 {
		return nil
	}
	return strings.Split(all.err().Error(), "\n")
}

// mayBeUndefined has the parts of the input whose keys may be missing.
var mayBeUndefined = []ast.Ref{
	ast.MustParseRef("input.principal.attributes"), ast.MustParseRef("input.principal.user_attributes"),
	ast.MustParseRef("input.workspace.attributes"), ast.MustParseRef("input.source"), ast.MustParseRef("input.context"),
	ast.MustParseRef("input.request.headers"), ast.MustParseRef("input.request.query"),
}

// evaluatedBeforeNot returns the reference in a negated expression that OPA evaluates before the negation, or nil.
func evaluatedBeforeNot(e *ast.Expr) ast.Ref {
	if !e.Negated {
		return nil
	}
	var found ast.Ref
	inner := func(t *ast.Term) {
		ast.WalkRefs(t, func(r ast.Ref) bool {
			if found == nil && slices.ContainsFunc(mayBeUndefined, func(part ast.Ref) bool { return len(r) > len(part) && r.HasPrefix(part) }) {
				found = r
			}
			return false
		})
	}
	if !e.IsCall() {
		if t, ok := e.Terms.(*ast.Term); ok {
			if ref, ok := t.Value.(ast.Ref); ok {
				for _, part := range ref[1:] {
					inner(part)
				}
			}
		}
		return found
	}
	compares := e.Operator().Equal(ast.Equal.Ref()) || e.Operator().Equal(ast.Equality.Ref())
	for _, operand := range e.Operands() {
		ref, isRef := operand.Value.(ast.Ref)
		switch {
		case !isRef || !compares:
			inner(operand)
		default: // OPA evaluates a compared reference together with the comparison
			for _, part := range ref[1:] {
				inner(part)
			}
		}
	}
	return found
}
