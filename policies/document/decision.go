package document

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
)

// required and optional are the keys of the decision document.
var (
	required = []string{"allow", "code", "reason", "required_scopes", "route"}
	optional = []string{"any_of", "headers", "retry_after"}
)

// CheckKey returns an error for a key that the decision document does not allow.
func CheckKey(key string) error {
	if slices.Contains(required, key) || slices.Contains(optional, key) {
		return nil
	}
	return fmt.Errorf("data.keywicket.decision has the unknown key %q; the required keys are %s; the optional keys are %s",
		key, strings.Join(required, ", "), strings.Join(optional, ", "))
}

var (
	allowKey          = ast.StringTerm("allow")
	codeKey           = ast.StringTerm("code")
	reasonKey         = ast.StringTerm("reason")
	requiredScopesKey = ast.StringTerm("required_scopes")
	routeKey          = ast.StringTerm("route")
	anyOfKey          = ast.StringTerm("any_of")
	headersKey        = ast.StringTerm("headers")
	retryAfterKey     = ast.StringTerm("retry_after")
)

// Decision converts the decision document. A missing key, an unknown key and a value of the wrong type are errors: a mistake in a
// policy must not decide a request.
func Decision(value ast.Value) (authz.Decision, error) {
	var d authz.Decision
	document, ok := value.(ast.Object)
	if !ok {
		return d, fmt.Errorf("data.keywicket.decision is %s, not an object", typeOf(value))
	}
	r := reader{document: document}
	d.Allow = r.boolean(allowKey)
	d.Code = authz.Code(r.text(codeKey))
	d.Reason = authz.Reason(r.text(reasonKey))
	d.RequiredScopes = r.texts(requiredScopesKey)
	d.Route = r.text(routeKey)
	if r.has(anyOfKey) {
		d.AnyOf = r.texts(anyOfKey)
	}
	if r.has(headersKey) {
		d.Headers = r.dictionary(headersKey)
	}
	if r.has(retryAfterKey) {
		d.RetryAfter = r.positive(retryAfterKey)
	}
	if r.err == nil && r.read != document.Len() {
		r.err = unknownKeyError(document)
	}
	if r.err != nil {
		return authz.Decision{}, r.err
	}
	return d, nil
}

// unknownKeyError returns the error for the alphabetically first unknown key of a decision document.
func unknownKeyError(document ast.Object) error {
	var unknown []string
	for _, key := range document.Keys() {
		if name := nameOf(key); CheckKey(name) != nil {
			unknown = append(unknown, name)
		}
	}
	return CheckKey(slices.Min(unknown))
}

// nameOf returns the name of a key as it is in JSON.
func nameOf(key *ast.Term) string {
	if s, ok := key.Value.(ast.String); ok {
		return string(s)
	}
	return key.Value.String()
}

// typeOf returns the name of a type, with its article, for an error.
func typeOf(value ast.Value) string {
	switch name := ast.ValueName(value); name {
	case "null":
		return name
	case "array", "object":
		return "an " + name
	default:
		return "a " + name
	}
}

// reader gets typed values from a document, and keeps the first error.
type reader struct {
	document ast.Object
	read     int // number of keys that the method get has found
	err      error
}

func (r *reader) has(key *ast.Term) bool { return r.document.Get(key) != nil }

// get returns the value of a key. If the key is missing, get records an error and returns null.
func (r *reader) get(key *ast.Term) ast.Value {
	value := r.document.Get(key)
	if value == nil {
		r.fail("data.keywicket.decision has no %s", key)
		return ast.InternedNullTerm.Value
	}
	r.read++
	return value.Value
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// failType records the error for a value of a wrong type.
func (r *reader) failType(key *ast.Term, value ast.Value, want string) {
	r.fail("data.keywicket.decision.%s is %s, %s", nameOf(key), typeOf(value), want)
}

func (r *reader) boolean(key *ast.Term) bool {
	value := r.get(key)
	b, ok := value.(ast.Boolean)
	if !ok {
		r.failType(key, value, "not a boolean")
	}
	return bool(b)
}

// text returns a string, or "" for null.
func (r *reader) text(key *ast.Term) string {
	value := r.get(key)
	switch value := value.(type) {
	case ast.String:
		return string(value)
	case ast.Null:
		return ""
	}
	r.failType(key, value, "neither a string nor null")
	return ""
}

// texts returns the strings of an array or a set. In JSON, a set is an array.
func (r *reader) texts(key *ast.Term) []string {
	var out []string
	add := func(t *ast.Term) {
		s, ok := t.Value.(ast.String)
		if !ok {
			r.fail("data.keywicket.decision.%s contains %s, not a string", nameOf(key), typeOf(t.Value))
		}
		out = append(out, string(s))
	}
	switch value := r.get(key).(type) {
	case *ast.Array:
		out = make([]string, 0, value.Len())
		value.Foreach(add)
	case ast.Set:
		value.Foreach(add)
	default:
		r.failType(key, value, "not an array")
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// dictionary returns an object of strings. Its errors contain no values, because values may be personal data.
func (r *reader) dictionary(key *ast.Term) map[string]string {
	value := r.get(key)
	object, ok := value.(ast.Object)
	if !ok {
		r.failType(key, value, "not an object")
		return nil
	}
	if object.Len() == 0 {
		return nil
	}
	out := make(map[string]string, object.Len())
	object.Foreach(func(name, value *ast.Term) {
		s, ok := value.Value.(ast.String)
		if !ok {
			r.fail("data.keywicket.decision.%s.%s is %s, not a string", nameOf(key), nameOf(name), typeOf(value.Value))
		}
		out[nameOf(name)] = string(s)
	})
	return out
}

// positive returns a whole number above 0.
func (r *reader) positive(key *ast.Term) int {
	value := r.get(key)
	number, _ := value.(ast.Number)
	n, err := strconv.Atoi(string(number))
	if err != nil || n <= 0 {
		r.fail("data.keywicket.decision.%s is %v, not a whole number above 0", nameOf(key), value)
	}
	return n
}
