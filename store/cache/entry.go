package cache

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/keywicket/keywicket/authz"
)

// entry is a cached answer with its look-up, and with the data that decides whether the answer is current. A sidecar may store
// more than 100,000 entries. So most entries have only two small allocations: this struct and its text.
type entry struct {
	digest          authz.Digest
	sessionStart    int64 // the look-up's Session.StartedAt
	common          *commonFields
	text            string        // the keys, and after them the fields of the function ownFields
	keyCount        uint32        // number of keys in text
	ownCommonFields bool          // no other entry uses the same commonFields
	ofUser          bool          // the answer is not a denial, and the credential belongs to a user
	generation      uint64        // number of the last change before the load
	loaded          time.Duration // time just before the query
	expires         time.Duration // time at which the credential expires
}

const never = time.Duration(math.MaxInt64)

func (c *Cache) newEntry(l authz.Lookup, a Answer, generation uint64, loaded time.Duration) *entry {
	e := &entry{digest: l.Digest, sessionStart: l.Session.StartedAt, generation: generation, loaded: loaded, expires: never}
	if a.Expires {
		// loaded is the time before the query, and the database computes TTL during the query. So loaded + TTL is never later
		// than the true expiry.
		e.expires = loaded + a.TTL
	}
	e.ofUser = a.Result.Denial == "" && a.Result.Principal.UserID != ""
	// A denial, or an answer about a credential of a workspace, does not depend on the requested workspace.
	if !e.ofUser {
		l.Workspace = authz.WorkspaceRef{}
	}
	found := a.Result
	var text []byte
	for _, k := range a.Keys {
		text = binary.BigEndian.AppendUint32(text, uint32(k))
	}
	e.keyCount = uint32(len(a.Keys)) //nolint:gosec // a length
	for _, field := range ownFields(&l, &found) {
		text = append(binary.AppendUvarint(text, uint64(len(*field))), *field...)
		*field = ""
	}
	e.text = string(text)
	l.Digest, l.Session.StartedAt = authz.Digest{}, 0
	e.common, e.ownCommonFields = c.common.intern(l, found)
	return e
}

// ownFields returns the fields that differ between most entries. An entry stores these fields in its text. The first four of them
// (see lookupFields) belong to the look-up, and the others belong to the answer.
func ownFields(l *authz.Lookup, f *authz.LookupResult) [lookupFields + 9]*string {
	p, w := &f.Principal, &f.Workspace
	return [...]*string{
		&l.Session.ID, &l.Session.UserID, &l.Workspace.ID, &l.Workspace.Slug,
		&p.ID, &p.UserID, &p.SessionID, &p.GrantID, &w.ID, &w.Slug,
		(*string)(&p.Attributes), (*string)(&p.UserAttributes), (*string)(&w.Attributes),
	}
}

const lookupFields = 4

// nextField removes the next field from a text and returns it.
func nextField(text *string) string {
	var size, shift uint
	for i := range len(*text) {
		b := (*text)[i]
		size |= uint(b&0x7f) << shift
		if b < 0x80 {
			field := (*text)[i+1 : i+1+int(size)] //nolint:gosec // size is the length of a string
			*text = (*text)[i+1+len(field):]
			return field
		}
		shift += 7
	}
	panic("an entry's text ends early")
}

// fields returns the part of the text after the keys.
func (e *entry) fields() string { return e.text[keySize*int(e.keyCount):] }

const keySize = int(unsafe.Sizeof(DependencyKey(0)))

// outdated reports whether something that the answer depends on has changed since the load of the answer began.
func (e *entry) outdated(g *generations) bool {
	if g.epoch.Load() > e.generation {
		return true
	}
	for i := range int(e.keyCount) {
		k := e.text[keySize*i : keySize*(i+1)]
		if g.shard(DependencyKey(k[0])<<24|DependencyKey(k[1])<<16|DependencyKey(k[2])<<8|DependencyKey(k[3])).Load() > e.generation {
			return true
		}
	}
	return false
}

// answers reports whether the entry is for the look-up.
func (e *entry) answers(l authz.Lookup) bool {
	if e.digest != l.Digest || e.sessionStart != l.Session.StartedAt || e.common.lookup.Kind != l.Kind || e.common.lookup.API != l.API {
		return false
	}
	text := e.fields()
	for _, want := range [lookupFields]string{l.Session.ID, l.Session.UserID, l.Workspace.ID, l.Workspace.Slug} {
		if nextField(&text) != want {
			return false
		}
	}
	return true
}

// lookup returns the look-up that the entry is for.
func (e *entry) lookup() authz.Lookup {
	l, text := e.common.lookup, e.fields()
	fields := ownFields(&l, new(authz.LookupResult))
	for _, field := range fields[:lookupFields] {
		*field = nextField(&text)
	}
	l.Digest, l.Session.StartedAt = e.digest, e.sessionStart
	return l
}

// denied reports whether the load returned a denial. It returns false for a credential that has expired since the load.
func (e *entry) denied() bool { return e.common.found.Denial != "" }

// answer returns the entry's answer at the time now. The strings in the answer are parts of the entry's text. So a stored string
// keeps the whole text in memory, which can be large because of attributes. Clone a string before you store it.
func (e *entry) answer(now time.Duration, result authz.CacheResult) authz.LookupResult {
	f := authz.LookupResult{Denial: authz.ReasonExpired}
	if e.denied() || now < e.expires {
		f = e.common.found
		var l authz.Lookup
		text := e.fields()
		for _, field := range ownFields(&l, &f) {
			*field = nextField(&text)
		}
	}
	f.Cache = result
	return f
}

// overhead is the memory in bytes that the two maps of ristretto use for an entry. In TestCost, this memory is 110 to 190 bytes,
// depending on the number of free places in the maps.
const overhead = 190

// cost returns the memory in bytes that the entry uses.
func (e *entry) cost() int64 {
	n := int(unsafe.Sizeof(*e)) + overhead + rounded(len(e.text))
	if e.ownCommonFields {
		n += e.common.size()
	}
	return int64(n)
}

// release must be called when a partition has removed the entry, or has not stored it.
func (e *entry) release() {
	if !e.ownCommonFields {
		e.common.refs.Add(-1)
	}
}

// rounded returns an upper bound of the memory that Go allocates for a text of size bytes. Go rounds a size up by at most one
// eighth. It allocates at least 8 bytes.
func rounded(size int) int { return size + size/8 + 8 }

// commonFields contains the fields of an entry that are not in its text. Several entries can use the same commonFields.
type commonFields struct {
	lookup authz.Lookup
	found  authz.LookupResult
	refs   atomic.Int32 // number of entries that use this value; not counted if the value is not in a commonTable
}

func (s *commonFields) size() int {
	const rounding = 64
	n := int(unsafe.Sizeof(*s)) + rounding
	for _, scope := range s.found.Principal.Scopes {
		n += int(unsafe.Sizeof(scope)) + rounded(len(scope))
	}
	return n
}

// commonTable stores commonFields, so that entries with equal commonFields use one value. The cost of an entry does not include
// this value. So the table has only 1,024 slots of at most 2 KiB each. A slot keeps its value while an entry uses the value. If
// another value in use occupies the slot, the new entry gets its own commonFields, and ownCommonFields is true. The same applies
// to a value that is too large.
type commonTable struct {
	seed  maphash.Seed
	mu    sync.Mutex
	slots [1024]*commonFields
}

// intern returns commonFields with these fields. If own is true, only the new entry uses the returned value.
func (t *commonTable) intern(l authz.Lookup, f authz.LookupResult) (s *commonFields, own bool) {
	const maxSize = 2 << 10
	var hash maphash.Hash
	hash.SetSeed(t.seed)
	for _, text := range append([]string{
		string(l.Kind), l.API, string(f.Denial), string(f.Principal.Environment), f.Workspace.Role,
	}, f.Principal.Scopes...) {
		_, _ = hash.WriteString(text)
		_ = hash.WriteByte(0)
	}
	s = &commonFields{lookup: l, found: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := &t.slots[hash.Sum64()%uint64(len(t.slots))]
	switch present := *slot; {
	case present != nil && present.lookup == l && reflect.DeepEqual(&present.found, &s.found):
		s = present
	case present != nil && present.refs.Load() > 0, s.size() > maxSize:
		return s, true
	default:
		*slot = s
	}
	s.refs.Add(1)
	return s, false
}
