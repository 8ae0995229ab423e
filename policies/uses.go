package policies

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/keywicket/keywicket/authz"
)

// Use is a denial or a header in the rules, which the configuration has to declare. An empty code or reason depends on the input.
type Use struct {
	Code   authz.Code
	Reason authz.Reason
	Header string // for the upstream; of a denial empty
	File   string
	Line   int
}

// Uses are those that can be found without an input, in rules that the decision depends on. A denial is an object with the keys
// code and reason, in data.keywicket.deny or beside allow, or the call of a function that makes such an object of its arguments.
// A header is a name in the object headers, of a decision or of data.keywicket.
type Uses []Use

// CheckDeclared returns an error about each one that is neither built in nor declared by one of the APIs.
func (u Uses) CheckDeclared(apis map[string]authz.API) error {
	var all faults
	for _, one := range u {
		declared, where := false, "denials"
		for _, api := range apis {
			if one.Header != "" {
				declared = declared || slices.Contains(api.UpstreamHeaders, one.Header)
			} else {
				declared = declared || api.CanDeny(one.Code, one.Reason)
			}
		}
		if declared {
			continue
		}
		if one.Header != "" {
			where = "upstream_headers"
		}
		all = append(all, fault{file: one.File, line: one.Line, text: fmt.Sprintf(
			"%s, which no API declares: add it to apis.NAME.%s in the configuration, or correct the rule", one.words(), where)})
	}
	return all.err()
}

func (u Use) words() string {
	if u.Header != "" {
		return fmt.Sprintf("the header %q for the upstream", u.Header)
	}
	var words []string
	if u.Code != "" {
		words = append(words, fmt.Sprintf("the code %q", u.Code))
	}
	if u.Reason != "" {
		words = append(words, fmt.Sprintf("the reason %q", u.Reason))
	}
	return "a denial with " + strings.Join(words, " and ")
}

// usesOf looks through the rules that the decision depends on. A key that the contract does not have is an error, in a decision
// and in a denial of data.keywicket.deny.
func usesOf(compiler *ast.Compiler) (Uses, error) {
	f := finder{compiler: compiler, made: make(map[*ast.Rule][]denial)}
	traversal := ast.NewGraphTraversal(compiler.Graph)
	for _, rule := range compiler.GetRules(decisionRef) {
		for ; rule != nil; rule = rule.Else {
			util.DFS(traversal, func(node util.T) bool {
				f.denials(node.(*ast.Rule))
				return false
			}, rule)
		}
	}
	if err := f.unknown.err(); err != nil {
		return nil, err
	}
	known := f.headers
	for rule, made := range f.made {
		known = append(known, headersOf(rule)...)
		for _, d := range made {
			code, reason := constant(d.code), constant(d.reason)
			if !d.depends(rule) && (code != "" || reason != "") {
				known = append(known, Use{
					Code: authz.Code(code), Reason: authz.Reason(reason), File: d.location.File, Line: d.location.Row,
				})
			}
		}
	}
	slices.SortFunc(known, func(a, b Use) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Header, b.Header))
	})
	return slices.Compact(known), nil
}

var (
	denyRef    = ast.MustParseRef("data.keywicket.deny")
	headersRef = ast.MustParseRef("data.keywicket.headers")
)

// headersOf are those that a rule adds to data.keywicket.headers: the last part of its name, or the names of an object.
func headersOf(rule *ast.Rule) Uses {
	ref := rule.Ref()
	if !ref.HasPrefix(headersRef) {
		return nil
	}
	if len(ref) > len(headersRef) {
		return named(ref[len(headersRef):][:1], rule.Location)
	}
	if rule.Head.Value != nil {
		if o, ok := rule.Head.Value.Value.(ast.Object); ok {
			return named(o.Keys(), rule.Location)
		}
	}
	return nil
}

func named(keys []*ast.Term, at *ast.Location) Uses {
	var all Uses
	for _, key := range keys {
		if name := constant(key); name != "" {
			all = append(all, Use{Header: name, File: at.File, Line: at.Row})
		}
	}
	return all
}

// finder keeps what it has found of each rule.
type finder struct {
	compiler *ast.Compiler
	made     map[*ast.Rule][]denial
	headers  Uses
	unknown  faults // keys that the contract does not have
}

// denial has the terms of an object, or of a function's object at one of its calls.
type denial struct {
	code, reason *ast.Term
	location     *ast.Location
}

// denials are those that a rule makes, without its else: that is a rule of its own. Rules are not recursive, so this ends.
func (f *finder) denials(rule *ast.Rule) []denial {
	if made, ok := f.made[rule]; ok {
		return made
	}
	var made []denial
	object := func(term *ast.Term) bool {
		if o, ok := term.Value.(ast.Object); ok {
			code, reason := o.Get(ast.InternedTerm("code")), o.Get(ast.InternedTerm("reason"))
			isDecision := o.Get(ast.InternedTerm("allow")) != nil || rule.Ref().HasPrefix(denyRef)
			if code != nil && reason != nil && isDecision {
				made = append(made, denial{code, reason, term.Location})
				f.checkKeys(rule, o)
			}
		}
		return false
	}
	ast.WalkTerms(rule.Head, object)
	ast.WalkTerms(rule.Body, object)
	ast.WalkExprs(rule.Body, func(call *ast.Expr) bool {
		for _, function := range f.functions(call) {
			for _, d := range f.denials(function) {
				if d.depends(function) {
					made = append(made, denial{argument(d.code, function, call), argument(d.reason, function, call), call.Location})
				}
			}
		}
		return false
	})
	f.made[rule] = made
	return made
}

// functions are the rules behind a call; a built-in function has none.
func (f *finder) functions(call *ast.Expr) []*ast.Rule {
	if !call.IsCall() {
		return nil
	}
	var all []*ast.Rule
	for _, rule := range f.compiler.GetRulesExact(call.Operator()) {
		for ; rule != nil; rule = rule.Else {
			all = append(all, rule)
		}
	}
	return all
}

func (f *finder) checkKeys(rule *ast.Rule, o ast.Object) {
	known, unknown := ownKeys, unknownOwnKey
	if !rule.Ref().HasPrefix(denyRef) {
		known, unknown = slices.Concat(required, optional), unknownKey
		if headers := o.Get(ast.InternedTerm("headers")); headers != nil {
			if names, ok := headers.Value.(ast.Object); ok {
				f.headers = append(f.headers, named(names.Keys(), headers.Location)...)
			}
		}
	}
	for _, key := range o.Keys() {
		if name, ok := key.Value.(ast.String); ok && !slices.Contains(known, string(name)) {
			f.unknown = append(f.unknown, fault{file: key.Location.File, line: key.Location.Row, text: unknown(string(name)).Error()})
		}
	}
}

// ownKeys are those of a denial in data.keywicket.deny.
var ownKeys = []string{"code", "reason", "retry_after"}

func unknownOwnKey(name string) error {
	return fmt.Errorf("a denial of data.keywicket.deny has the unknown key %q; its keys are %s", name, strings.Join(ownKeys, ", "))
}

// depends reports whether the denial depends on the arguments of the function that makes it.
func (d denial) depends(function *ast.Rule) bool {
	return parameterOf(d.code, function) >= 0 || parameterOf(d.reason, function) >= 0
}

func parameterOf(term *ast.Term, function *ast.Rule) int {
	if _, ok := term.Value.(ast.Var); !ok {
		return -1
	}
	return slices.IndexFunc(function.Head.Args, term.Equal)
}

// argument is what a call gives for a parameter of a function. Any other term stays as it is.
func argument(term *ast.Term, function *ast.Rule, call *ast.Expr) *ast.Term {
	if i := parameterOf(term, function); i >= 0 {
		return call.Operand(i)
	}
	return term
}

func constant(term *ast.Term) string {
	s, _ := term.Value.(ast.String)
	return string(s)
}
