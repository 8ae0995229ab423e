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

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/keywicket/keywicket/authz"
)

// memory holds decisions. A decision depends only on the values that the policy reads of its input. Equal values give the same
// decision, for every caller and at any time. The key is a digest of what matters of these values, so nothing has to be removed when
// a token changes: its new values have another key. A policy has a memory of its own.
//
// Instead of method and path the key has the row that they address, as long as no other rule reads them. Instead of the scopes it
// has what needs.go says, as long as no rule depends on more of them.
type memory struct {
	parts []part // of the input, that the policy reads
	ofRow bool   // without a credential, a decision depends on the row alone
	slots [memorySlots]atomic.Pointer[remembered]
	hits  atomic.Uint64
}

const (
	memorySlots = 1 << 15
	memoryWays  = 4 // places of a bucket
)

// remembered is a decision under a digest of all values that it depends on.
type remembered struct {
	key      memoryKey
	decision authz.Decision
}

type memoryKey [sha256.Size]byte

// find returns nil where the decision is not known.
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

// add keeps a decision, in the place of another one if need be. It returns what is kept. A decision with long texts is not worth
// the memory.
func (m *memory) add(key memoryKey, d authz.Decision) authz.Decision {
	const most = 1 << 10 // bytes
	d = detached(d)
	if size(d) > most {
		return d
	}
	r := &remembered{key, d}
	bucket := m.bucket(key)
	for i := range bucket {
		if bucket[i].CompareAndSwap(nil, r) {
			return d
		}
	}
	// The key's bits behind those that name the bucket are as good as random.
	bucket[key[8]%memoryWays].Store(r)
	return d
}

// bucket has the places that a decision may be in.
func (m *memory) bucket(key memoryKey) []atomic.Pointer[remembered] {
	first := binary.LittleEndian.Uint64(key[:8]) % (memorySlots / memoryWays) * memoryWays
	return m.slots[first : first+memoryWays]
}

// detached is the decision without the memory of the request, of which rules may have put a part into it.
func detached(d authz.Decision) authz.Decision {
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

// size is what the texts of a decision take, in bytes.
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

// key is made of the values that the policy reads. r is the row that the request addresses.
func (m *memory) key(in *authz.Input, r *row) memoryKey {
	b := make([]byte, 0, 512) // on the stack; more is seldom needed
	for _, p := range m.parts {
		b = p.appendTo(b, in, r)
	}
	return sha256.Sum256(b)
}

// appendTo writes the part's value: such that no two lists of values are written alike.
func (p part) appendTo(b []byte, in *authz.Input, r *row) []byte {
	if p > inputPrincipal && in.Principal == nil {
		return b
	}
	switch p {
	case inputAPI:
		return appendText(b, in.API)
	case inputDenial:
		return appendText(b, string(in.Denial))
	case inputRow:
		return binary.AppendUvarint(b, uint64(r.number)) //nolint:gosec // not negative
	case requestMethod:
		return appendText(b, in.Method)
	case requestPath, requestSegments:
		return appendText(b, in.Path)
	case requestRawQuery, requestQuery:
		return appendText(b, in.RawQuery)
	case requestHost:
		return appendText(b, in.Host)
	case requestHeaders:
		b = binary.AppendUvarint(b, uint64(len(in.Header)))
		for _, name := range slices.Sorted(maps.Keys(in.Header)) {
			b = appendTexts(appendText(b, name), in.Header[name])
		}
		return b
	case inputContext:
		b = binary.AppendUvarint(b, uint64(len(in.Context)))
		for _, f := range in.Context {
			b = appendText(appendText(b, f.Name), f.Value)
		}
		return b
	case workspaceRequested:
		return strconv.AppendBool(b, in.Workspace.Requested)
	case workspaceGranted:
		return strconv.AppendBool(b, in.Workspace.Granted)
	case workspaceID:
		return appendText(b, in.Workspace.ID)
	case workspaceSlug:
		return appendText(b, in.Workspace.Slug)
	case workspaceRole:
		return appendText(b, in.Workspace.Role)
	case workspaceAttributes:
		return appendText(b, string(in.Workspace.Attributes))
	case sourceAddress:
		return appendText(b, in.Source.Address)
	case sourcePrincipal:
		return appendText(b, in.Source.Principal)
	case sourceCertificate:
		c := in.Source.Certificate
		if c == nil {
			return append(b, 0)
		}
		return appendText(appendTexts(appendTexts(append(b, 1), c.URIs), c.DNSNames), c.Subject)
	case inputPrincipal:
		return strconv.AppendBool(b, in.Principal != nil)
	case principalID:
		return appendText(b, in.Principal.ID)
	case principalKind:
		return appendText(b, string(in.Principal.Kind))
	case principalAPI:
		return appendText(b, in.Principal.API)
	case principalEnvironment:
		return appendText(b, string(in.Principal.Environment))
	case principalUserID:
		return appendText(b, in.Principal.UserID)
	case principalScopes:
		return appendTexts(b, in.Principal.Scopes)
	case principalNeeds:
		return r.needs.Load().appendTo(b, in.Principal.Scopes)
	case principalAAL:
		return appendText(b, in.Principal.AAL)
	case principalAttributes:
		return appendText(b, string(in.Principal.Attributes))
	case principalUserAttributes:
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

// ofRequest reports whether two requests without a credential, for the same row, may have different values of the part.
func (p part) ofRequest() bool {
	switch p {
	case inputAPI, inputDenial, inputRow, workspaceRequested, workspaceID, workspaceSlug, workspaceRole, workspaceGranted, workspaceAttributes:
		return false
	}
	return p < inputPrincipal
}

// newMemory makes the memory of a policy by what the rules that decide refer to. The error says why no decision can be
// remembered: a rule reads the time, or calls a function whose result is not the same each time. x may be nil.
func newMemory(references []reference, x *index) (*memory, error) {
	for _, r := range references {
		if changes(r.ref) || overlaps(r.ref, []ast.Ref{partRefs[inputTime]}) {
			return nil, fmt.Errorf("%s: %v is not the same each time", r.place(), r.ref)
		}
	}
	m := &memory{}
	reads := readingOf(references)
	shared := x != nil && len(x.tests) > 0 // by principals with different scopes
	reads[principalNeeds] = shared
	if shared {
		reads[principalScopes], reads[inputRow] = false, true
	}
	for p, read := range reads {
		if read {
			m.parts = append(m.parts, part(p)) //nolint:gosec // less than numberOfParts
		}
	}
	m.ofRow = !slices.ContainsFunc(m.parts, part.ofRequest)
	return m, nil
}
