package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// part identifies a value that a decision may depend on: a part of the input document, or the row.
type part uint8

const (
	inputAPI part = iota
	inputTime
	inputDenial
	inputContext
	inputRow // the row of the API's table that the index finds by method and path; not in the document
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
	inputPrincipal // whether there is a principal; the parts from here to principalUserAttributes are its fields
	principalID
	principalKind
	principalAPI
	principalEnvironment
	principalUserID
	principalScopes
	principalNeeds // one bit for each set of scopes of the row: whether the principal has a scope of the set; not in the document
	principalAAL
	principalAttributes
	principalUserAttributes
	numberOfParts
)

// partRefs has the reference of each part, below input.
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

// reading has true for each part that decisions depend on. A reference to a prefix of a part counts, and so does one that
// continues with a variable: it may read the whole part.
type reading [numberOfParts]bool

// readingOf returns the parts that the references read.
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

// source reports whether the rules read any part of the request's source.
func (r *reading) source() bool {
	return r[sourceAddress] || r[sourcePrincipal] || r[sourceCertificate]
}

// reference is a reference in a rule, up to its first variable.
type reference struct {
	ref      ast.Ref
	location *ast.Location // of the rule; nil if the rule was not read from a file
	test     ast.Ref       // the rule whose sets test the scopes (see scopeTest); nil for any other reference
}

// place returns the location as file:line.
func (r reference) place() string {
	if r.location == nil {
		return "a rule"
	}
	return fmt.Sprintf("%s:%d", r.location.File, r.location.Row)
}

// referencesOf returns the references of the decision and of all rules that it depends on. If indexed is true, the index finds
// the row: the result then has inputRow instead of the references of the rule route.
//
// referencesOf ignores indexed if one of the rules has a `with`, because that may replace values that the rule route reads.
func referencesOf(compiler *ast.Compiler, indexed bool) []reference {
	var found []reference
	hasReplacement := false // a `with`, which may replace values that the rule route reads
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
			case ast.Ref: // a plain input is also an ast.Ref
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
		hasReplacement = hasReplacement || hasWith(rule)
		visit(rule.Else)
		for next := range compiler.Graph.Dependencies(rule) {
			visit(next.(*ast.Rule))
		}
	}
	for _, rule := range compiler.GetRules(decisionRef) {
		visit(rule)
	}
	if indexed && hasReplacement {
		return referencesOf(compiler, false)
	}
	return found
}

// hasWith reports whether the rule has a `with`.
func hasWith(rule *ast.Rule) bool {
	has := false
	ast.WalkWiths(rule, func(*ast.With) bool {
		has = true
		return true
	})
	return has
}

// nondeterministic reports whether a built-in function can return different results for the same arguments. OPA does not mark the
// functions that verify a certificate as nondeterministic, although certificates expire.
func nondeterministic(function ast.Ref) bool {
	b := ast.BuiltinMap[function.String()]
	return b != nil && (b.Nondeterministic || strings.HasPrefix(b.Name, "crypto.x509.parse_and_verify"))
}

// compiled compiles the rules without the tests. The functions are added to the built-in functions.
func (s sources) compiled(functions ...*topdown.Builtin) (*ast.Compiler, error) {
	allowed := capabilities()
	for _, f := range functions {
		allowed.Builtins = append(allowed.Builtins, f.Decl)
	}
	compiler := ast.NewCompiler().WithCapabilities(allowed).WithUseTypeCheckAnnotations(true).SetErrorLimit(0) // 0: no limit
	if compiler.Compile(s.rules); compiler.Failed() {
		return nil, withoutTests(compiler.Errors)
	}
	return compiler, nil
}

// withoutTests adds the cause and the remedy to errors that appear only without the test files.
func withoutTests(errs ast.Errors) error {
	var all faults
	all.in("", errs)
	for i := range all {
		all[i].text += " without the _test.rego files, which the sidecar leaves out: define it in another file"
	}
	return all.err()
}

var decisionRef = ast.MustParseRef("data.keywicket.decision")

// overlaps reports whether r is a prefix of one of the references, or one of them is a prefix of r.
func overlaps(r ast.Ref, references []ast.Ref) bool {
	return slices.ContainsFunc(references, func(other ast.Ref) bool { return r.HasPrefix(other) || other.HasPrefix(r) })
}
