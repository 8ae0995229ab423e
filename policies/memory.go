package policies

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
)

// memory holds decisions. A decision is a function of what the policy reads of its input, so where these values are equal, the
// decision is: it depends neither on who asks nor on when. The key is made of all of them, so nothing has to be forgotten: a token
// that has changed has other values. A policy has a memory of its own.
//
// The path is not among the values, but the row that it addresses, as long as no other rule reads the path.
type memory struct {
	parts []part // of the input, that the policy reads
	slots [memorySlots]atomic.Pointer[remembered]
	hits  atomic.Uint64
}

const (
	memorySlots = 1 << 15
	memoryWays  = 4 // places that a decision may be in
)

// remembered is a decision under a digest of all values that it depends on.
type remembered struct {
	key      memoryKey
	decision authz.Decision
}

type memoryKey [sha256.Size]byte

// find returns nil where the decision is not known.
func (m *memory) find(key memoryKey) *authz.Decision {
	for i := range m.places(key) {
		if r := m.slots[i].Load(); r != nil && r.key == key {
			m.hits.Add(1)
			return &r.decision
		}
	}
	return nil
}

// add keeps a decision, in the place of another one if need be.
func (m *memory) add(key memoryKey, d authz.Decision) {
	r := &remembered{key, d}
	for i := range m.places(key) {
		if m.slots[i].CompareAndSwap(nil, r) {
			return
		}
	}
	// The key's bits behind those that name the places are as good as random.
	m.slots[m.first(key)+int(key[8])%memoryWays].Store(r)
}

func (m *memory) first(key memoryKey) int {
	return int(binary.LittleEndian.Uint64(key[:8])%(memorySlots/memoryWays)) * memoryWays //nolint:gosec // less than memorySlots
}

func (m *memory) places(key memoryKey) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range memoryWays {
			if !yield(m.first(key) + i) {
				return
			}
		}
	}
}

// key is made of the values that the policy reads. row is the number of the row that the request addresses, or -1.
func (m *memory) key(in *authz.Input, row int) memoryKey {
	b := make([]byte, 0, 512) // on the stack; more is seldom needed
	for _, p := range m.parts {
		b = p.appendTo(b, in, row)
	}
	return sha256.Sum256(b)
}

// part is a part of the input.
type part uint8

const (
	partAPI part = iota
	partDenial
	partRow // of the API's table: what the index finds by the method and the path
	partMethod
	partPath
	partSegments
	partRawQuery
	partQuery
	partHost
	partHeaders
	partContext
	partRequested
	partGranted
	partWorkspaceID
	partSlug
	partRole
	partWorkspaceAttributes
	partAddress
	partSourcePrincipal
	partCertificate
	partPrincipal // whether there is one; the next ones are of one that there is
	partID
	partKind
	partPrincipalAPI
	partEnvironment
	partUserID
	partScopes
	partAAL
	partAttributes
	partUserAttributes
)

// parts by their references.
var parts = [...]string{
	partAPI: "input.api", partDenial: "input.denial", partRow: "input.row",
	partMethod: "input.request.method", partPath: "input.request.path", partSegments: "input.request.segments",
	partRawQuery: "input.request.raw_query", partQuery: "input.request.query", partHost: "input.request.host",
	partHeaders: "input.request.headers", partContext: "input.context",
	partRequested: "input.workspace.requested", partGranted: "input.workspace.granted", partWorkspaceID: "input.workspace.id",
	partSlug: "input.workspace.slug", partRole: "input.workspace.role", partWorkspaceAttributes: "input.workspace.attributes",
	partAddress: "input.source.address", partSourcePrincipal: "input.source.principal", partCertificate: "input.source.certificate",
	partPrincipal: "input.principal", partID: "input.principal.id", partKind: "input.principal.kind", partPrincipalAPI: "input.principal.api",
	partEnvironment: "input.principal.environment", partUserID: "input.principal.user_id", partScopes: "input.principal.scopes",
	partAAL: "input.principal.aal", partAttributes: "input.principal.attributes", partUserAttributes: "input.principal.user_attributes",
}

// appendTo writes the part's value: such that no two lists of values are written alike.
func (p part) appendTo(b []byte, in *authz.Input, row int) []byte {
	if p > partPrincipal && in.Principal == nil {
		return b
	}
	switch p {
	case partAPI:
		return appendText(b, in.API)
	case partDenial:
		return appendText(b, string(in.Denial))
	case partRow:
		return binary.AppendVarint(appendText(b, in.API), int64(row))
	case partMethod:
		return appendText(b, in.Method)
	case partPath, partSegments:
		return appendText(b, in.Path)
	case partRawQuery, partQuery:
		return appendText(b, in.RawQuery)
	case partHost:
		return appendText(b, in.Host)
	case partHeaders:
		b = binary.AppendUvarint(b, uint64(len(in.Header)))
		for _, name := range slices.Sorted(maps.Keys(in.Header)) {
			b = appendTexts(appendText(b, name), in.Header[name])
		}
		return b
	case partContext:
		b = binary.AppendUvarint(b, uint64(len(in.Context)))
		for _, f := range in.Context {
			b = appendText(appendText(b, f.Name), f.Value)
		}
		return b
	case partRequested:
		return strconv.AppendBool(b, in.Workspace.Requested)
	case partGranted:
		return strconv.AppendBool(b, in.Workspace.Granted)
	case partWorkspaceID:
		return appendText(b, in.Workspace.ID)
	case partSlug:
		return appendText(b, in.Workspace.Slug)
	case partRole:
		return appendText(b, in.Workspace.Role)
	case partWorkspaceAttributes:
		return appendText(b, string(in.Workspace.Attributes))
	case partAddress:
		return appendText(b, in.Source.Address)
	case partSourcePrincipal:
		return appendText(b, in.Source.Principal)
	case partCertificate:
		c := in.Source.Certificate
		if c == nil {
			return append(b, 0)
		}
		return appendText(appendTexts(appendTexts(append(b, 1), c.URIs), c.DNSNames), c.Subject)
	case partPrincipal:
		return strconv.AppendBool(b, in.Principal != nil)
	case partID:
		return appendText(b, in.Principal.ID)
	case partKind:
		return appendText(b, string(in.Principal.Kind))
	case partPrincipalAPI:
		return appendText(b, in.Principal.API)
	case partEnvironment:
		return appendText(b, string(in.Principal.Environment))
	case partUserID:
		return appendText(b, in.Principal.UserID)
	case partScopes:
		return appendTexts(b, in.Principal.Scopes)
	case partAAL:
		return appendText(b, in.Principal.AAL)
	case partAttributes:
		return appendText(b, string(in.Principal.Attributes))
	case partUserAttributes:
		return appendText(b, string(in.Principal.UserAttributes))
	}
	panic("a part without a value")
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTexts(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// newMemory makes the memory of a policy by what the rules that decide refer to. It returns why no decision can be remembered, if
// so: a rule reads the time, or calls a function whose result is not the same each time.
func newMemory(references []reference) (*memory, error) {
	inputs := make([]ast.Ref, 0, len(references))
	for _, r := range references {
		if b, ok := ast.BuiltinMap[r.ref.String()]; ok && b.Nondeterministic {
			return nil, fmt.Errorf("%s: %s is not the same each time", r.place, b.Name)
		}
		if overlaps(ast.MustParseRef("input.time"), []ast.Ref{r.ref}) {
			return nil, fmt.Errorf("%s: %v is another one each time", r.place, r.ref)
		}
		inputs = append(inputs, r.ref)
	}
	m := &memory{}
	for p, ref := range parts {
		if overlaps(ast.MustParseRef(ref), inputs) {
			m.parts = append(m.parts, part(p)) //nolint:gosec // there are thirty
		}
	}
	return m, nil
}

// reference is what a rule refers to, up to the first variable in it.
type reference struct {
	ref   ast.Ref
	place string // file:line
}

// referencesOf are those of the decision, and of all rules that it depends on.
func referencesOf(compiler *ast.Compiler) []reference {
	var found []reference
	seen := make(map[*ast.Rule]bool)
	var visit func(rule *ast.Rule)
	visit = func(rule *ast.Rule) {
		if rule == nil || seen[rule] {
			return
		}
		seen[rule] = true
		place := fmt.Sprintf("%s:%d", rule.Location.File, rule.Location.Row)
		var look *ast.GenericVisitor
		look = ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case ast.Ref:
				found = append(found, reference{x.GroundPrefix(), place})
				for _, inner := range x[1:] { // not the first one, input by itself
					look.Walk(inner)
				}
				return true
			case ast.Var:
				if x.Equal(ast.InputRootDocument.Value) {
					found = append(found, reference{ast.InputRootRef, place})
				}
			}
			return false
		})
		look.Walk(rule)
		visit(rule.Else)
		for next := range compiler.Graph.Dependencies(rule) {
			visit(next.(*ast.Rule))
		}
	}
	for _, rule := range compiler.GetRules(decisionRef) {
		visit(rule)
	}
	return found
}
