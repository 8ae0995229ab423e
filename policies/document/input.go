// Package document converts the documents that the engine and the rules exchange. It converts an authz.Input to the input
// document, and the decision document to an authz.Decision.
package document

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
)

// Input returns the input document that docs/policies.md describes, without the parts that no rule reads. It builds OPA's
// own types: a conversion through JSON would take longer than the decision.
func Input(in *authz.Input, r *Reading) (ast.Value, error) {
	var p authz.Principal
	if in.Principal != nil {
		p = *in.Principal
	}
	tokenAttributes, err := attributesTerm(p.Attributes, r[PrincipalAttributes])
	if err != nil {
		return nil, fmt.Errorf("attributes of the token: %w", err)
	}
	userAttributes, err := attributesTerm(p.UserAttributes, r[PrincipalUserAttributes])
	if err != nil {
		return nil, fmt.Errorf("attributes of the user: %w", err)
	}
	workspaceAttributes, err := attributesTerm(in.Workspace.Attributes, r[WorkspaceAttributes])
	if err != nil {
		return nil, fmt.Errorf("attributes of the workspace: %w", err)
	}
	principal := ast.InternedNullTerm
	if in.Principal != nil {
		principal = object(
			member(r, PrincipalID, p.ID, text),
			member(r, PrincipalKind, string(p.Kind), text),
			member(r, PrincipalAPI, p.API, text),
			member(r, PrincipalEnvironment, string(p.Environment), text),
			member(r, PrincipalUserID, p.UserID, nullable),
			member(r, PrincipalScopes, p.Scopes, texts),
			member(r, PrincipalAAL, p.AAL, nullable),
			field{attributesKey, tokenAttributes},
			field{userAttributesKey, userAttributes},
		)
	}
	request := object(
		member(r, RequestMethod, in.Method, text),
		member(r, RequestPath, in.Path, text),
		member(r, RequestSegments, in, segments),
		member(r, RequestRawQuery, in.RawQuery, text),
		member(r, RequestQuery, in.Query, multimap),
		member(r, RequestHeaders, in.Header, multimap),
		member(r, RequestHost, in.Host, text),
	)
	workspace := object(
		member(r, WorkspaceRequested, in.Workspace.Requested, ast.InternedTerm[bool]),
		member(r, WorkspaceID, in.Workspace.ID, nullable),
		member(r, WorkspaceSlug, in.Workspace.Slug, nullable),
		member(r, WorkspaceRole, in.Workspace.Role, nullable),
		member(r, WorkspaceGranted, in.Workspace.Granted, ast.InternedTerm[bool]),
		field{attributesKey, workspaceAttributes},
	)
	var sourceField field
	if r.Source() {
		sourceField = field{sourceKey, source(in.Source, r)}
	}
	return object(
		member(r, InputAPI, in.API, text),
		field{requestKey, request},
		field{principalKey, principal},
		member(r, InputDenial, string(in.Denial), nullable),
		field{workspaceKey, workspace},
		member(r, InputContext, in.Context, dictionary),
		member(r, InputTime, in.Time, nanoseconds),
		sourceField,
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

// source returns the term of the request's source, with a null certificate if no rule reads the certificate.
func source(s authz.Source, r *Reading) *ast.Term {
	certificate := ast.InternedNullTerm
	if c := s.Certificate; c != nil && r[SourceCertificate] {
		certificate = object(field{urisKey, texts(c.URIs)}, field{dnsNamesKey, texts(c.DNSNames)}, field{subjectKey, text(c.Subject)})
	}
	return object(field{addressKey, nullable(s.Address)}, field{principalKey, nullable(s.Principal)}, field{certificateKey, certificate})
}

// attributesTerm parses attributes with OPA, which keeps each number as it is written. It returns an empty object for attributes
// that the policy does not read. Invalid attributes are an error: without them, a rule might allow a token that it must deny.
func attributesTerm(a authz.Attributes, read bool) (*ast.Term, error) {
	if a == "" || !read {
		return ast.InternedEmptyObject, nil
	}
	value, err := ast.ValueFromReader(strings.NewReader(a.JSON()))
	if err != nil {
		return nil, errors.New("not valid JSON") // this error omits OPA's error, which may quote attributes
	}
	if _, ok := value.(ast.Object); !ok {
		return nil, errors.New("not a JSON object")
	}
	return ast.NewTerm(value), nil
}

// field is a key with its value. The function object omits zero fields.
type field struct{ key, value *ast.Term }

// member returns the field of a part, or the zero field if no rule reads the part.
func member[T any](r *Reading, p Part, value T, term func(T) *ast.Term) field {
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

// nullable returns the text, or null if the text is empty.
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
