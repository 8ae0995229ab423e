package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
)

// inputValue writes the input document that docs/policies.md describes. It is built as OPA's own values, which saves
// the detour over JSON that costs more than the decision. Attributes that the policy does not read
// are {} in it.
func inputValue(in authz.Input, r reading) (ast.Value, error) {
	var p authz.Principal
	if in.Principal != nil {
		p = *in.Principal
	}
	ofToken, err := attributes(p.Attributes, r.attributes)
	if err != nil {
		return nil, fmt.Errorf("attributes of the token: %w", err)
	}
	ofUser, err := attributes(p.UserAttributes, r.userAttributes)
	if err != nil {
		return nil, fmt.Errorf("attributes of the user: %w", err)
	}
	ofWorkspace, err := attributes(in.Workspace.Attributes, r.workspaceAttributes)
	if err != nil {
		return nil, fmt.Errorf("attributes of the workspace: %w", err)
	}
	fields := []field{
		{"api", text(in.API)},
		{"request", ast.NewTerm(object(
			field{"method", text(in.Method)},
			field{"path", text(in.Path)},
			field{"segments", texts(in.Segments())},
			field{"raw_query", text(in.RawQuery)},
			field{"query", multimap(in.Query)},
			field{"headers", multimap(in.Header)},
			field{"host", text(in.Host)},
		))},
		{"principal", principal(in.Principal, ofToken, ofUser)},
		{"denial", nullable(string(in.Denial))},
		{"workspace", ast.NewTerm(object(
			field{"requested", ast.InternedTerm(in.Workspace.Requested)},
			field{"id", nullable(in.Workspace.ID)},
			field{"slug", nullable(in.Workspace.Slug)},
			field{"role", nullable(in.Workspace.Role)},
			field{"granted", ast.InternedTerm(in.Workspace.Granted)},
			field{"attributes", ofWorkspace},
		))},
		{"context", dictionary(in.Context)},
	}
	if r.time {
		fields = append(fields, field{"time", ast.NumberTerm(json.Number(strconv.FormatInt(in.Time.UnixNano(), 10)))})
	}
	if r.source {
		fields = append(fields, field{"source", source(in.Source, r)})
	}
	return object(fields...), nil
}

func source(s authz.Source, r reading) *ast.Term {
	certificate := ast.InternedNullTerm
	if c := s.Certificate; c != nil && r.certificate {
		certificate = ast.NewTerm(object(
			field{"uris", texts(c.URIs)},
			field{"dns_names", texts(c.DNSNames)},
			field{"subject", text(c.Subject)},
		))
	}
	return ast.NewTerm(object(
		field{"address", nullable(s.Address)},
		field{"principal", nullable(s.Principal)},
		field{"certificate", certificate},
	))
}

func principal(p *authz.Principal, attributes, ofUser *ast.Term) *ast.Term {
	if p == nil {
		return ast.InternedNullTerm
	}
	return ast.NewTerm(object(
		field{"id", text(p.ID)},
		field{"kind", text(string(p.Kind))},
		field{"api", text(p.API)},
		field{"environment", text(string(p.Environment))},
		field{"user_id", nullable(p.UserID)},
		field{"scopes", texts(p.Scopes)},
		field{"aal", nullable(p.AAL)},
		field{"attributes", attributes},
		field{"user_attributes", ofUser},
	))
}

// attributes are read by OPA itself, which keeps each number as it is written. What cannot be read is an error: without its
// attributes, a token might be let in.
func attributes(a authz.Attributes, read bool) (*ast.Term, error) {
	if a == "" || !read {
		return ast.InternedEmptyObject, nil
	}
	value, err := ast.ValueFromReader(strings.NewReader(a.JSON()))
	if err != nil {
		return nil, errors.New("they are no JSON") // OPA's error may quote them
	}
	if _, ok := value.(ast.Object); !ok {
		return nil, errors.New("they are no object")
	}
	return ast.NewTerm(value), nil
}

type field struct {
	name  string
	value *ast.Term
}

func object(fields ...field) ast.Object {
	items := make([][2]*ast.Term, len(fields))
	for i, f := range fields {
		items[i] = [2]*ast.Term{ast.InternedTerm(f.name), f.value}
	}
	return ast.NewObject(items...)
}

func text(s string) *ast.Term { return ast.InternedTerm(s) }

func nullable(s string) *ast.Term {
	if s == "" {
		return ast.InternedNullTerm
	}
	return text(s)
}

func texts(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = text(s)
	}
	return ast.ArrayTerm(terms...)
}

func dictionary(fields authz.Fields) *ast.Term {
	o := ast.NewObject()
	for _, f := range fields {
		o.Insert(text(f.Name), text(f.Value))
	}
	return ast.NewTerm(o)
}

func multimap(m map[string][]string) *ast.Term {
	o := ast.NewObject()
	for name, values := range m {
		o.Insert(text(name), texts(values))
	}
	return ast.NewTerm(o)
}

// required and optional are the keys of the decision document.
var (
	required = []string{"allow", "code", "reason", "required_scopes", "route"}
	optional = []string{"any_of", "headers", "retry_after"}
)

// unknownKey is the error about a key that the decision document does not have.
func unknownKey(key string) error {
	return fmt.Errorf("data.keywicket.decision has the unknown key %q; its keys are %s, and the optional ones %s",
		key, strings.Join(required, ", "), strings.Join(optional, ", "))
}

// decisionOf reads the decision document. One that lacks a key, has a key that it should not have, or a value of another
// type, is an error: a policy that was edited wrongly must not decide by accident.
func decisionOf(value any) (authz.Decision, error) {
	var d authz.Decision
	document, ok := value.(map[string]any)
	if !ok {
		return d, fmt.Errorf("data.keywicket.decision is a %T, not an object", value)
	}
	r := reader{document: document}
	d.Allow = r.boolean("allow")
	d.Code = authz.Code(r.text("code"))
	d.Reason = authz.Reason(r.text("reason"))
	d.RequiredScopes = r.texts("required_scopes")
	d.Route = r.text("route")
	if r.has("any_of") {
		d.AnyOf = r.texts("any_of")
	}
	if r.has("headers") {
		d.Headers = r.dictionary("headers")
	}
	if r.has("retry_after") {
		d.RetryAfter = r.positive("retry_after")
	}
	for _, key := range slices.Sorted(maps.Keys(document)) {
		if !slices.Contains(required, key) && !slices.Contains(optional, key) && r.err == nil {
			r.err = unknownKey(key)
		}
	}
	if r.err != nil {
		return authz.Decision{}, r.err
	}
	return d, nil
}

// reader takes typed values out of a document, and keeps the first error.
type reader struct {
	document map[string]any
	err      error
}

func (r *reader) has(key string) bool {
	_, ok := r.document[key]
	return ok
}

func (r *reader) get(key string) any {
	value, ok := r.document[key]
	if !ok {
		r.fail("data.keywicket.decision has no %q", key)
	}
	return value
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) boolean(key string) bool {
	value := r.get(key)
	b, ok := value.(bool)
	if !ok {
		r.fail("data.keywicket.decision.%s is a %T, not a boolean", key, value)
	}
	return b
}

func (r *reader) text(key string) string {
	value := r.get(key)
	s, ok := value.(string)
	if !ok && value != nil {
		r.fail("data.keywicket.decision.%s is a %T, neither a string nor null", key, value)
	}
	return s
}

func (r *reader) texts(key string) []string {
	value := r.get(key)
	list, ok := value.([]any)
	if !ok {
		r.fail("data.keywicket.decision.%s is a %T, not an array", key, value)
	}
	var out []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			r.fail("data.keywicket.decision.%s holds a %T, not a string", key, v)
		}
		out = append(out, s)
	}
	return out
}

// dictionary does not say a value in its error: it may tell of the user.
func (r *reader) dictionary(key string) map[string]string {
	value := r.get(key)
	object, ok := value.(map[string]any)
	if !ok {
		r.fail("data.keywicket.decision.%s is a %T, not an object", key, value)
	}
	if len(object) == 0 {
		return nil
	}
	out := make(map[string]string, len(object))
	for name, v := range object {
		s, ok := v.(string)
		if !ok {
			r.fail("data.keywicket.decision.%s.%s is a %T, not a string", key, name, v)
		}
		out[name] = s
	}
	return out
}

func (r *reader) positive(key string) int {
	value := r.get(key)
	number, _ := value.(json.Number)
	n, err := strconv.Atoi(number.String())
	if err != nil || n <= 0 {
		r.fail("data.keywicket.decision.%s is %v, not a whole number above 0", key, value)
	}
	return n
}
