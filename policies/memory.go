package policies

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/keywicket/keywicket/authz"
	"github.com/keywicket/keywicket/policies/analysis"
	"github.com/keywicket/keywicket/policies/document"
)

// memory contains remembered decisions. A decision depends only on the input values that the policy reads. Equal values lead to
// the same decision, for every caller and at any time. The key of a decision is a digest of these values. If a token changes,
// the values and therefore the key change, so no entry has to be removed. Each policy has its own memory.
//
// The digest includes the row that the request addresses. It includes the method and the path only if a rule other than `route`
// reads them. For each set of scopes of the row (see needs), it includes whether the principal has a scope of the set. It
// includes the scopes themselves only if a rule reads the scopes in another way.
type memory struct {
	parts          []document.Part // the parts that the policy reads
	anonymousByRow bool            // true if a decision without a credential depends on the row alone
	slots          [memorySlots]atomic.Pointer[remembered]
	hits           atomic.Uint64
}

const (
	memorySlots = 1 << 15
	memoryWays  = 4 // number of slots in a bucket
)

// remembered is a decision with the digest of all values that it depends on.
type remembered struct {
	key      memoryKey
	decision authz.Decision
}

type memoryKey [sha256.Size]byte

// find returns a decision, or nil if the memory does not have it.
func (m *memory) find(key memoryKey) *authz.Decision {
	bucket := m.bucket(key)
	for i := range bucket {
		if r := bucket[i].Load(); r != nil && r.key == key {
			m.hits.Add(1)
			return &r.decision
		}
	}
	return nil
}

// add stores a copy of the decision, and returns the copy. If the bucket is full, the copy replaces another decision. add does
// not store a decision with more than maxBytes of text.
func (m *memory) add(key memoryKey, d authz.Decision) authz.Decision {
	const maxBytes = 1 << 10
	d = detachedCopy(d)
	if size(d) > maxBytes {
		return d
	}
	r := &remembered{key, d}
	bucket := m.bucket(key)
	for i := range bucket {
		if bucket[i].CompareAndSwap(nil, r) {
			return d
		}
	}
	// Byte 8 of the digest selects the slot of the bucket. This byte does not affect the choice of the bucket, so every slot is
	// equally likely.
	bucket[key[8]%memoryWays].Store(r)
	return d
}

// bucket returns the slots that may contain the decision of a key.
func (m *memory) bucket(key memoryKey) []atomic.Pointer[remembered] {
	first := binary.LittleEndian.Uint64(key[:8]) % (memorySlots / memoryWays) * memoryWays
	return m.slots[first : first+memoryWays]
}

// detachedCopy returns a copy of the decision without references to the request's memory. Rules may copy texts of the request into a
// decision.
func detachedCopy(d authz.Decision) authz.Decision {
	d.Code, d.Reason = authz.Code(strings.Clone(string(d.Code))), authz.Reason(strings.Clone(string(d.Reason)))
	d.Route = strings.Clone(d.Route)
	for _, list := range []*[]string{&d.RequiredScopes, &d.AnyOf} {
		*list = slices.Clone(*list)
		for i, scope := range *list {
			(*list)[i] = strings.Clone(scope)
		}
	}
	d.Headers = maps.Clone(d.Headers)
	for name, value := range d.Headers {
		d.Headers[name] = strings.Clone(value)
	}
	return d
}

// size returns the length of the texts of a decision, in bytes.
func size(d authz.Decision) int {
	n := len(d.Code) + len(d.Reason) + len(d.Route)
	for _, scope := range slices.Concat(d.RequiredScopes, d.AnyOf) {
		n += len(scope)
	}
	for name, value := range d.Headers {
		n += len(name) + len(value)
	}
	return n
}

// key returns the digest of the values that the policy reads. r is the row that the request addresses.
func (m *memory) key(in *authz.Input, r *row) memoryKey {
	b := make([]byte, 0, 512) // on the stack; usually large enough
	for _, p := range m.parts {
		b = appendPart(b, p, in, r)
	}
	return sha256.Sum256(b)
}

// appendPart appends the part's value in an unambiguous encoding: different lists of values always have different encodings. If
// there is no principal, appendPart appends nothing for the parts of the principal.
func appendPart(b []byte, p document.Part, in *authz.Input, r *row) []byte {
	if p > document.InputPrincipal && in.Principal == nil {
		return b
	}
	switch p {
	case document.InputAPI:
		return appendText(b, in.API)
	case document.InputDenial:
		return appendText(b, string(in.Denial))
	case document.InputRow:
		return binary.AppendUvarint(b, uint64(r.number)) //nolint:gosec // not negative
	case document.RequestMethod:
		return appendText(b, in.Method)
	case document.RequestPath, document.RequestSegments:
		return appendText(b, in.Path)
	case document.RequestRawQuery, document.RequestQuery:
		return appendText(b, in.RawQuery)
	case document.RequestHost:
		return appendText(b, in.Host)
	case document.RequestHeaders:
		b = binary.AppendUvarint(b, uint64(len(in.Header)))
		for _, name := range slices.Sorted(maps.Keys(in.Header)) {
			b = appendTexts(appendText(b, name), in.Header[name])
		}
		return b
	case document.InputContext:
		b = binary.AppendUvarint(b, uint64(len(in.Context)))
		for _, f := range in.Context {
			b = appendText(appendText(b, f.Name), f.Value)
		}
		return b
	case document.WorkspaceRequested:
		return strconv.AppendBool(b, in.Workspace.Requested)
	case document.WorkspaceGranted:
		return strconv.AppendBool(b, in.Workspace.Granted)
	case document.WorkspaceID:
		return appendText(b, in.Workspace.ID)
	case document.WorkspaceSlug:
		return appendText(b, in.Workspace.Slug)
	case document.WorkspaceRole:
		return appendText(b, in.Workspace.Role)
	case document.WorkspaceAttributes:
		return appendText(b, string(in.Workspace.Attributes))
	case document.SourceAddress:
		return appendText(b, in.Source.Address)
	case document.SourcePrincipal:
		return appendText(b, in.Source.Principal)
	case document.SourceCertificate:
		c := in.Source.Certificate
		if c == nil {
			return append(b, 0)
		}
		return appendText(appendTexts(appendTexts(append(b, 1), c.URIs), c.DNSNames), c.Subject)
	case document.InputPrincipal:
		return strconv.AppendBool(b, in.Principal != nil)
	case document.PrincipalID:
		return appendText(b, in.Principal.ID)
	case document.PrincipalKind:
		return appendText(b, string(in.Principal.Kind))
	case document.PrincipalAPI:
		return appendText(b, in.Principal.API)
	case document.PrincipalEnvironment:
		return appendText(b, string(in.Principal.Environment))
	case document.PrincipalUserID:
		return appendText(b, in.Principal.UserID)
	case document.PrincipalScopes:
		return appendTexts(b, in.Principal.Scopes)
	case document.PrincipalNeeds:
		return r.needs.Load().appendTo(b, in.Principal.Scopes)
	case document.PrincipalAAL:
		return appendText(b, in.Principal.AAL)
	case document.PrincipalAttributes:
		return appendText(b, string(in.Principal.Attributes))
	case document.PrincipalUserAttributes:
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

// variesByRequest reports whether the part may differ between two requests without a credential that address the same row.
func variesByRequest(p document.Part) bool {
	switch p {
	case document.InputAPI, document.InputDenial, document.InputRow, document.WorkspaceRequested, document.WorkspaceID,
		document.WorkspaceSlug, document.WorkspaceRole, document.WorkspaceGranted, document.WorkspaceAttributes:
		return false
	}
	return p < document.InputPrincipal
}

// newMemory creates the memory of a policy. The parameter `references` contains the OPA references in the rule `decision` and in
// all rules that this rule depends on. The error says why decisions cannot be remembered: a rule reads the time, or calls a
// function that can return different results for the same arguments. The index x may be nil.
func newMemory(references []analysis.Reference, x *index) (*memory, error) {
	for _, r := range references {
		if r.Nondeterministic() || r.Reads(document.InputTime) {
			return nil, fmt.Errorf("%s: %v differs between evaluations", r.Place(), r.Ref)
		}
	}
	m := &memory{}
	reads := analysis.ReadingOf(references)
	shared := x != nil && len(x.rulesWithSets) > 0 // whether principals with different scopes share decisions
	reads[document.PrincipalNeeds] = shared
	if shared {
		reads[document.PrincipalScopes], reads[document.InputRow] = false, true
	}
	for p := range document.NumberOfParts {
		if reads[p] {
			m.parts = append(m.parts, p)
		}
	}
	m.anonymousByRow = !slices.ContainsFunc(m.parts, variesByRequest)
	return m, nil
}
