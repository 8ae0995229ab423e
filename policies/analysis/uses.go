package analysis

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/document"
	"github.com/keywicket/keywicket/policies/fault"
)

// Use is one denial or one header in the rules. The configuration must declare each use, unless the use is built in. If the code
// or the reason depends on the input, the field is empty.
type Use struct {
	Code   authz.Code
	Reason authz.Reason
	Header string // name of a header for the upstream; empty for a denial
	File   string
	Line   int
}

// Uses lists denials and headers. They come from the rules on which the decision depends. The list is incomplete, because some
// denials and headers depend on the input. A denial is an object with the keys code and reason: an element of
// data.keywicket.deny, or a decision, which also has the key allow. A call of a function counts as a denial if the function
// builds such an object from its arguments. A header is a key of the object `headers`, which is a part of a decision or of
// data.keywicket.
type Uses []Use

// CheckDeclared returns an error with a line for each use that is neither built in nor declared by one of the APIs.
func (u Uses) CheckDeclared(apis map[string]authz.API) error {
	var all fault.Errors
	for _, use := range u {
		declared, setting := false, "denials"
		for _, api := range apis {
			if use.Header != "" {
				declared = declared || slices.Contains(api.UpstreamHeaders, use.Header)
			} else {
				declared = declared || api.CanDeny(use.Code, use.Reason)
			}
		}
		if declared {
			continue
		}
		if use.Header != "" {
			setting = "upstream_headers"
		}
		all = append(all, fault.Fault{File: use.File, Line: use.Line, Text: fmt.Sprintf(
			"%s, which no API declares: add it to apis.NAME.%s in the configuration, or correct the rule", use.description(), setting)})
	}
	return all.Err()
}

// description describes the use for an error.
func (u Use) description() string {
	if u.Header != "" {
		return fmt.Sprintf("the header %q for the upstream", u.Header)
	}
	var parts []string
	if u.Code != "" {
		parts = append(parts, fmt.Sprintf("the code %q", u.Code))
	}
	if u.Reason != "" {
		parts = append(parts, fmt.Sprintf("the reason %q", u.Reason))
	}
	return "a denial with " + strings.Join(parts, " and ")
}

// UsesOf finds the uses in the rules on which the decision depends. An unknown key of a decision, or of a denial in
// data.keywicket.deny, is an error.
func UsesOf(compiler *ast.Compiler) (Uses, error) {
	f := useFinder{compiler: compiler, denials: make(map[*ast.Rule][]denial)}
	traversal := ast.NewGraphTraversal(compiler.Graph)
	for _, rule := range compiler.GetRules(document.DecisionRef) {
		for ; rule != nil; rule = rule.Else {
			util.DFS(traversal, func(node util.T) bool {
				f.denialsOf(node.(*ast.Rule))
				return false
			}, rule)
		}
	}
	if err := f.unknown.Err(); err != nil {
		return nil, err
	}
	uses := f.headers
	for rule, denials := range f.denials {
		uses = append(uses, headersOf(rule)...)
		for _, d := range denials {
			code, reason := constant(d.code), constant(d.reason)
			if !d.dependsOnArguments(rule) && (code != "" || reason != "") {
				uses = append(uses, Use{
					Code: authz.Code(code), Reason: authz.Reason(reason), File: d.location.File, Line: d.location.Row,
				})
			}
		}
	}
	slices.SortFunc(uses, func(a, b Use) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Header, b.Header))
	})
	return slices.Compact(uses), nil
}

// headersOf returns the headers that a rule adds to data.keywicket.headers: the part of the rule's name after `headers`, or the
// keys of the rule's object.
func headersOf(rule *ast.Rule) Uses {
	ref := rule.Ref()
	if !ref.HasPrefix(document.HeadersRef) {
		return nil
	}
	if len(ref) > len(document.HeadersRef) {
		return headerUses(ref[len(document.HeadersRef):][:1], rule.Location)
	}
	if rule.Head.Value != nil {
		if o, ok := rule.Head.Value.Value.(ast.Object); ok {
			return headerUses(o.Keys(), rule.Location)
		}
	}
	return nil
}

// headerUses returns a use for each key that is a constant.
func headerUses(keys []*ast.Term, location *ast.Location) Uses {
	var all Uses
	for _, key := range keys {
		if name := constant(key); name != "" {
			all = append(all, Use{Header: name, File: location.File, Line: location.Row})
		}
	}
	return all
}

// useFinder collects the uses of each rule.
type useFinder struct {
	compiler *ast.Compiler
	denials  map[*ast.Rule][]denial
	headers  Uses
	unknown  fault.Errors // keys that a decision or a denial does not allow
}

// denial contains the terms code and reason of an object. For a function call, they are the terms of the object that the function
// returns.
type denial struct {
	code, reason *ast.Term
	location     *ast.Location
}

// denialsOf returns the denials that a rule builds. The result does not include the denials of an `else`, because OPA
// represents an `else` as a separate rule. Rules are not recursive, so denialsOf terminates.
func (f *useFinder) denialsOf(rule *ast.Rule) []denial {
	if denials, ok := f.denials[rule]; ok {
		return denials
	}
	var denials []denial
	collect := func(term *ast.Term) bool {
		if o, ok := term.Value.(ast.Object); ok {
			code, reason := o.Get(ast.InternedTerm("code")), o.Get(ast.InternedTerm("reason"))
			isDecision := o.Get(ast.InternedTerm("allow")) != nil || rule.Ref().HasPrefix(document.DenyRef)
			if code != nil && reason != nil && isDecision {
				denials = append(denials, denial{code, reason, term.Location})
				f.checkKeys(rule, o)
			}
		}
		return false
	}
	ast.WalkTerms(rule.Head, collect)
	ast.WalkTerms(rule.Body, collect)
	ast.WalkExprs(rule.Body, func(call *ast.Expr) bool {
		for _, function := range f.functions(call) {
			for _, d := range f.denialsOf(function) {
				if d.dependsOnArguments(function) {
					denials = append(denials, denial{argument(d.code, function, call), argument(d.reason, function, call), call.Location})
				}
			}
		}
		return false
	})
	f.denials[rule] = denials
	return denials
}

// functions returns the rules that a call evaluates. For a built-in function, it returns nil.
func (f *useFinder) functions(call *ast.Expr) []*ast.Rule {
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

// checkKeys adds a fault for each unknown key, and collects the headers of a decision.
func (f *useFinder) checkKeys(rule *ast.Rule, o ast.Object) {
	check := checkDenyKey
	if !rule.Ref().HasPrefix(document.DenyRef) {
		check = document.CheckKey
		if headers := o.Get(ast.InternedTerm("headers")); headers != nil {
			if names, ok := headers.Value.(ast.Object); ok {
				f.headers = append(f.headers, headerUses(names.Keys(), headers.Location)...)
			}
		}
	}
	for _, key := range o.Keys() {
		if name, ok := key.Value.(ast.String); ok {
			if err := check(string(name)); err != nil {
				f.unknown = append(f.unknown, fault.Fault{File: key.Location.File, Line: key.Location.Row, Text: err.Error()})
			}
		}
	}
}

// denyKeys are the keys of a denial in data.keywicket.deny.
var denyKeys = []string{"code", "reason", "retry_after"}

// checkDenyKey returns an error for a key that a denial of data.keywicket.deny does not allow.
func checkDenyKey(name string) error {
	if slices.Contains(denyKeys, name) {
		return nil
	}
	return fmt.Errorf("a denial of data.keywicket.deny has the unknown key %q; its keys are %s", name, strings.Join(denyKeys, ", "))
}

// dependsOnArguments reports whether the denial depends on the arguments of the function that builds it.
func (d denial) dependsOnArguments(function *ast.Rule) bool {
	return parameterOf(d.code, function) >= 0 || parameterOf(d.reason, function) >= 0
}

// parameterOf returns the position of the function's parameter that the term refers to, or -1.
func parameterOf(term *ast.Term, function *ast.Rule) int {
	if _, ok := term.Value.(ast.Var); !ok {
		return -1
	}
	return slices.IndexFunc(function.Head.Args, term.Equal)
}

// If the term is a parameter of the function, argument returns the call's argument for this parameter. Otherwise argument returns
// the term.
func argument(term *ast.Term, function *ast.Rule, call *ast.Expr) *ast.Term {
	if i := parameterOf(term, function); i >= 0 {
		return call.Operand(i)
	}
	return term
}

// constant returns the value of a string, or "" for any other term.
func constant(term *ast.Term) string {
	s, _ := term.Value.(ast.String)
	return string(s)
}
