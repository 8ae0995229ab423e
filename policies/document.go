package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
)

// inputValue returns the input document that docs/policies.md describes, without the parts that no rule reads. It builds OPA's
// own values: a conversion through JSON would cost more than the decision.
func inputValue(in *authz.Input, r *reading) (ast.Value, error) {
	var p authz.Principal
	if in.Principal != nil {
		p = *in.Principal
	}
	tokenAttributes, err := attributesTerm(p.Attributes, r[principalAttributes])
	if err != nil {
		return nil, fmt.Errorf("attributes of the token: %w", err)
	}
	userAttributes, err := attributesTerm(p.UserAttributes, r[principalUserAttributes])
	if err != nil {
		return nil, fmt.Errorf("attributes of the user: %w", err)
	}
	workspaceAttrs, err := attributesTerm(in.Workspace.Attributes, r[workspaceAttributes])
	if err != nil {
		return nil, fmt.Errorf("attributes of the workspace: %w", err)
	}
	principal := ast.InternedNullTerm
	if in.Principal != nil {
		principal = object(
			member(r, principalID, p.ID, text),
			member(r, principalKind, string(p.Kind), text),
			member(r, principalAPI, p.API, text),
			member(r, principalEnvironment, string(p.Environment), text),
			member(r, principalUserID, p.UserID, nullable),
			member(r, principalScopes, p.Scopes, texts),
			member(r, principalAAL, p.AAL, nullable),
			field{attributesKey, tokenAttributes},
			field{userAttributesKey, userAttributes},
		)
	}
	request := object(
		member(r, requestMethod, in.Method, text),
		member(r, requestPath, in.Path, text),
		member(r, requestSegments, in, segments),
		member(r, requestRawQuery, in.RawQuery, text),
		member(r, requestQuery, in.Query, multimap),
		member(r, requestHeaders, in.Header, multimap),
		member(r, requestHost, in.Host, text),
	)
	workspace := object(
		member(r, workspaceRequested, in.Workspace.Requested, ast.InternedTerm[bool]),
		member(r, workspaceID, in.Workspace.ID, nullable),
		member(r, workspaceSlug, in.Workspace.Slug, nullable),
		member(r, workspaceRole, in.Workspace.Role, nullable),
		member(r, workspaceGranted, in.Workspace.Granted, ast.InternedTerm[bool]),
		field{attributesKey, workspaceAttrs},
	)
	var from field
	if r.source() {
		from = field{sourceKey, source(in.Source, r)}
	}
	return object(
		member(r, inputAPI, in.API, text),
		field{requestKey, request},
		field{principalKey, principal},
		member(r, inputDenial, string(in.Denial), nullable),
		field{workspaceKey, workspace},
		member(r, inputContext, in.Context, dictionary),
		member(r, inputTime, in.Time, nanoseconds),
		from,
	).Value, nil
}

var (
	requestKey        = ast.StringTerm("request")
	principalKey      = ast.StringTerm("principal")
	workspaceKey      = ast.StringTerm("workspace")
	sourceKey         = ast.StringTerm("source")
	attributesKey     = ast.StringTerm("attributes")
	userAttributesKey = ast.StringTerm("user_attributes")
	addressKey        = ast.StringTerm("address")
	certificateKey    = ast.StringTerm("certificate")
	urisKey           = ast.StringTerm("uris")
	dnsNamesKey       = ast.StringTerm("dns_names")
	subjectKey        = ast.StringTerm("subject")
)

// source returns the term of the request's source, with a null certificate if no rule reads that.
func source(s authz.Source, r *reading) *ast.Term {
	certificate := ast.InternedNullTerm
	if c := s.Certificate; c != nil && r[sourceCertificate] {
		certificate = object(field{urisKey, texts(c.URIs)}, field{dnsNamesKey, texts(c.DNSNames)}, field{subjectKey, text(c.Subject)})
	}
	return object(field{addressKey, nullable(s.Address)}, field{principalKey, nullable(s.Principal)}, field{certificateKey, certificate})
}

// attributesTerm parses attributes with OPA, which keeps each number as it is written. It returns an empty object for attributes
// that the policy does not read. Invalid attributes are an error: without its attributes, a token might be allowed.
func attributesTerm(a authz.Attributes, read bool) (*ast.Term, error) {
	if a == "" || !read {
		return ast.InternedEmptyObject, nil
	}
	value, err := ast.ValueFromReader(strings.NewReader(a.JSON()))
	if err != nil {
		return nil, errors.New("not valid JSON") // without OPA's error, which may quote attributes
	}
	if _, ok := value.(ast.Object); !ok {
		return nil, errors.New("not a JSON object")
	}
	return ast.NewTerm(value), nil
}

// field is a key with its value. object leaves out the zero field.
type field struct{ key, value *ast.Term }

// member returns the field of a part, or the zero field if no rule reads the part.
func member[T any](r *reading, p part, value T, term func(T) *ast.Term) field {
	if !r[p] {
		return field{}
	}
	ref := partRefs[p]
	return field{ref[len(ref)-1], term(value)}
}

// object returns an object of the fields.
func object(fields ...field) *ast.Term {
	var buffer [9][2]*ast.Term
	items := buffer[:0]
	for _, f := range fields {
		if f.key != nil {
			items = append(items, [2]*ast.Term{f.key, f.value})
		}
	}
	return ast.ObjectTerm(items...)
}

func text(s string) *ast.Term { return ast.InternedTerm(s) }

// nullable returns the text, or null if it is empty.
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

func segments(in *authz.Input) *ast.Term { return texts(in.Segments()) }

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

func nanoseconds(t time.Time) *ast.Term {
	return ast.NumberTerm(json.Number(strconv.FormatInt(t.UnixNano(), 10)))
}

// required and optional are the keys of the decision document.
var (
	required = []string{"allow", "code", "reason", "required_scopes", "route"}
	optional = []string{"any_of", "headers", "retry_after"}
)

// unknownKey returns the error for a key that the decision document does not allow.
func unknownKey(key string) error {
	return fmt.Errorf("data.keywicket.decision has the unknown key %q; its keys are %s, and the optional ones %s",
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

// decisionOf converts the decision document. A missing key, an unknown key and a value of another type are errors: a mistake in a
// policy must not decide a request.
func decisionOf(value ast.Value) (authz.Decision, error) {
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
		r.err = unknownKeyOf(document)
	}
	if r.err != nil {
		return authz.Decision{}, r.err
	}
	return d, nil
}

// unknownKeyOf returns the error for the alphabetically first unknown key of a decision document.
func unknownKeyOf(document ast.Object) error {
	var unknown []string
	for _, key := range document.Keys() {
		if name := nameOf(key); !slices.Contains(required, name) && !slices.Contains(optional, name) {
			unknown = append(unknown, name)
		}
	}
	return unknownKey(slices.Min(unknown))
}

// nameOf returns a key of an object as in JSON.
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
	read     int // number of keys that get has found
	err      error
}

func (r *reader) has(key *ast.Term) bool { return r.document.Get(key) != nil }

// get returns the value of a key, or null and an error if the key is missing.
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

// wrong adds the error for a value of another type.
func (r *reader) wrong(key *ast.Term, value ast.Value, want string) {
	r.fail("data.keywicket.decision.%s is %s, %s", nameOf(key), typeOf(value), want)
}

func (r *reader) boolean(key *ast.Term) bool {
	value := r.get(key)
	b, ok := value.(ast.Boolean)
	if !ok {
		r.wrong(key, value, "not a boolean")
	}
	return bool(b)
}

// text returns a string, or an empty one for null.
func (r *reader) text(key *ast.Term) string {
	value := r.get(key)
	switch value := value.(type) {
	case ast.String:
		return string(value)
	case ast.Null:
		return ""
	}
	r.wrong(key, value, "neither a string nor null")
	return ""
}

// texts returns an array or a set of strings. JSON has a set as an array.
func (r *reader) texts(key *ast.Term) []string {
	var out []string
	add := func(t *ast.Term) {
		s, ok := t.Value.(ast.String)
		if !ok {
			r.fail("data.keywicket.decision.%s holds %s, not a string", nameOf(key), typeOf(t.Value))
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
		r.wrong(key, value, "not an array")
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// dictionary returns an object of strings. Its errors do not repeat a value, which may be personal data.
func (r *reader) dictionary(key *ast.Term) map[string]string {
	value := r.get(key)
	object, ok := value.(ast.Object)
	if !ok {
		r.wrong(key, value, "not an object")
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
