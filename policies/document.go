package policies

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
)

// inputValue writes the input document that docs/policies.md describes. It is built as OPA's own values, which saves
// the detour over JSON that costs more than the decision.
func inputValue(in authz.Input) ast.Value {
	return object(
		field{"api", text(in.API)},
		field{"request", ast.NewTerm(object(
			field{"method", text(in.Method)},
			field{"path", text(in.Path)},
			field{"segments", texts(in.Segments)},
			field{"query", multimap(in.Query)},
			field{"headers", multimap(in.Header)},
			field{"host", text(in.Host)},
		))},
		field{"principal", principal(in.Principal)},
		field{"denial", nullable(string(in.Denial))},
		field{"workspace", ast.NewTerm(object(
			field{"requested", ast.InternedTerm(in.Workspace.Requested)},
			field{"id", nullable(in.Workspace.ID)},
			field{"slug", nullable(in.Workspace.Slug)},
			field{"role", nullable(in.Workspace.Role)},
			field{"granted", ast.InternedTerm(in.Workspace.Granted)},
		))},
		field{"context", dictionary(in.Context)},
	)
}

func principal(p *authz.Principal) *ast.Term {
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
	))
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

func dictionary(m map[string]string) *ast.Term {
	o := ast.NewObject()
	for name, value := range m {
		o.Insert(text(name), text(value))
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

// decisionOf reads the decision document. One that lacks a key, or has a value of another type, is an error: a policy
// that was edited wrongly must not decide by accident.
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
