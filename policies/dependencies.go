package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// part is a value that a decision may depend on: a part of the input document, or the row.
type part uint8

const (
	inputAPI part = iota
	inputTime
	inputDenial
	inputContext
	inputRow // of the API's table: what the index finds by the method and the path; no part of the document
	requestMethod
	requestPath
	requestSegments
	requestRawQuery
	requestQuery
	requestHeaders
	requestHost
	workspaceRequested
	workspaceID
	workspaceSlug
	workspaceRole
	workspaceGranted
	workspaceAttributes
	sourceAddress
	sourcePrincipal
	sourceCertificate
	inputPrincipal // whether there is one; the next ones are of one that there is
	principalID
	principalKind
	principalAPI
	principalEnvironment
	principalUserID
	principalScopes
	principalNeeds // a bit for each set of scopes of the row: whether the principal has one of the set; no part of the document
	principalAAL
	principalAttributes
	principalUserAttributes
	numberOfParts
)

var partRefs = func() (refs [numberOfParts]ast.Ref) {
	for p, ref := range map[part]string{
		inputAPI: "api", inputTime: "time", inputDenial: "denial", inputContext: "context", inputRow: "row",
		requestMethod: "request.method", requestPath: "request.path", requestSegments: "request.segments", requestRawQuery: "request.raw_query",
		requestQuery: "request.query", requestHeaders: "request.headers", requestHost: "request.host",
		workspaceRequested: "workspace.requested", workspaceID: "workspace.id", workspaceSlug: "workspace.slug", workspaceRole: "workspace.role",
		workspaceGranted: "workspace.granted", workspaceAttributes: "workspace.attributes",
		sourceAddress: "source.address", sourcePrincipal: "source.principal", sourceCertificate: "source.certificate",
		inputPrincipal: "principal", principalID: "principal.id", principalKind: "principal.kind", principalAPI: "principal.api",
		principalEnvironment: "principal.environment", principalUserID: "principal.user_id", principalScopes: "principal.scopes", principalNeeds: "principal.needs",
		principalAAL: "principal.aal", principalAttributes: "principal.attributes", principalUserAttributes: "principal.user_attributes",
	} {
		refs[p] = ast.MustParseRef("input." + ref)
	}
	return refs
}()

// reading says which parts of the input decisions depend on. A reference to a prefix of a part, or one that goes on with a
// variable, counts: it may be to all of it.
type reading [numberOfParts]bool

func readingOf(references []reference) (r reading) {
	refs := make([]ast.Ref, len(references))
	for i, one := range references {
		refs[i] = one.ref
	}
	for p, ref := range partRefs {
		r[p] = overlaps(ref, refs)
	}
	return r
}

// source reports whether any part of the request's source is read.
func (r *reading) source() bool {
	return r[sourceAddress] || r[sourcePrincipal] || r[sourceCertificate]
}

// reference is what a rule refers to, up to the first variable in it.
type reference struct {
	ref      ast.Ref
	location *ast.Location // of the rule; nil: it was not read from a file
	test     ast.Ref       // the rule that the scopes are tested with, as scopeTest has it; nil: it is another reference
}

// place is file:line.
func (r reference) place() string {
	if r.location == nil {
		return "a rule"
	}
	return fmt.Sprintf("%s:%d", r.location.File, r.location.Row)
}

// referencesOf are those of the decision, and of all rules that it depends on. indexed says that the row is known before, so that
// what the rule route reads does not count, but the row.
func referencesOf(compiler *ast.Compiler, indexed bool) []reference {
	var found []reference
	replaced := false // something is, by `with`, and perhaps what the rule route reads
	seen := make(map[*ast.Rule]bool)
	var visit func(rule *ast.Rule)
	visit = func(rule *ast.Rule) {
		if rule == nil || seen[rule] {
			return
		}
		seen[rule] = true
		if indexed && rule.Ref().Equal(routeRef) {
			found = append(found, reference{ref: partRefs[inputRow], location: rule.Location})
			return
		}
		tests := make(map[*ast.Every]ast.Ref)
		uses := usesOfVars(rule)
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case ast.Ref: // input alone is one too
				found = append(found, reference{ref: x.ConstantPrefix(), location: rule.Location})
			case ast.Body:
				for _, expr := range x {
					if test := scopeTest(expr, x, uses); test != nil && indexed {
						tests[expr.Terms.(*ast.Every)] = test
					}
				}
			case *ast.Every:
				if test := tests[x]; test != nil {
					found = append(found, reference{ref: partRefs[principalScopes], location: rule.Location, test: test})
					return true
				}
			}
			return false
		}).Walk(rule)
		replaced = replaced || hasWith(rule)
		visit(rule.Else)
		for next := range compiler.Graph.Dependencies(rule) {
			visit(next.(*ast.Rule))
		}
	}
	for _, rule := range compiler.GetRules(decisionRef) {
		visit(rule)
	}
	if indexed && replaced {
		return referencesOf(compiler, false)
	}
	return found
}

func hasWith(rule *ast.Rule) bool {
	has := false
	ast.WalkWiths(rule, func(*ast.With) bool {
		has = true
		return true
	})
	return has
}

// changes reports whether a built-in function can return something else for the same arguments. OPA does not say so of those
// that verify a certificate, which expires.
func changes(function ast.Ref) bool {
	b := ast.BuiltinMap[function.String()]
	return b != nil && (b.Nondeterministic || strings.HasPrefix(b.Name, "crypto.x509.parse_and_verify"))
}

// compiled are the rules without the tests.
func (s sources) compiled(functions ...*topdown.Builtin) (*ast.Compiler, error) {
	allowed := capabilities()
	for _, f := range functions {
		allowed.Builtins = append(allowed.Builtins, f.Decl)
	}
	compiler := ast.NewCompiler().WithCapabilities(allowed).WithUseTypeCheckAnnotations(true).SetErrorLimit(0) // 0 is none
	if compiler.Compile(s.rules); compiler.Failed() {
		return nil, withoutTests(compiler.Errors)
	}
	return compiler, nil
}

// withoutTests explains errors that appear only without the test files.
func withoutTests(errs ast.Errors) error {
	var all faults
	all.in("", errs)
	for i := range all {
		all[i].text += ", without the _test.rego files: they are not there when the sidecar decides"
	}
	return all.err()
}

var decisionRef = ast.MustParseRef("data.keywicket.decision")

// overlaps reports whether one of the references is a prefix of r, or r of it.
func overlaps(r ast.Ref, references []ast.Ref) bool {
	return slices.ContainsFunc(references, func(other ast.Ref) bool { return r.HasPrefix(other) || other.HasPrefix(r) })
}
