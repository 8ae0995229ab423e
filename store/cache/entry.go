package cache

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/keywicket/keywicket/authz"
)

// entry is an answer, with its question and with all that tells whether it still holds. A sidecar keeps 100,000 of them and more,
// so an entry is two small allocations: this struct and its text.
type entry struct {
	digest   authz.Digest
	began    int64 // of the session
	shared   *shared
	text     string        // the keys, then what no other entry has
	keyCount uint32        // of the keys in text
	alone    bool          // shared was made for this entry
	ofUser   bool          // a good credential of a user
	since    uint64        // number of the last change before it was loaded
	loaded   time.Duration // just before the query began
	expires  time.Duration // of the token
}

// shared is what many entries have in common. The fields that are in an entry's text are empty here.
type shared struct {
	lookup authz.Lookup
	found  authz.Found
}

const never = time.Duration(math.MaxInt64)

func (c *Cache) newEntry(l authz.Lookup, a Answer, since uint64, loaded time.Duration) *entry {
	e := &entry{digest: l.Digest, began: l.Session.Began, since: since, loaded: loaded, expires: never}
	if a.Expires {
		// Counted from before the query, so from before the database's own clock was read: never too late.
		e.expires = loaded + a.TTL
	}
	e.ofUser = a.Found.Denial == "" && a.Found.Principal.UserID != ""
	// A denial has nothing to do with the workspace; nor has a credential that belongs to one.
	if !e.ofUser {
		l.Workspace = authz.WorkspaceRef{}
	}
	s := shared{l, a.Found}
	var text []byte
	for _, k := range a.Keys {
		text = binary.BigEndian.AppendUint32(text, uint32(k))
	}
	e.keyCount = uint32(len(a.Keys)) //nolint:gosec // a length
	for _, field := range s.own() {
		text = append(binary.AppendUvarint(text, uint64(len(*field))), *field...)
		*field = ""
	}
	e.text = string(text)
	s.lookup.Digest, s.lookup.Session.Began = authz.Digest{}, 0
	e.shared, e.alone = c.sharing.find(s)
	return e
}

// own are the fields whose values an entry shares with few others: those of the question first.
func (s *shared) own() [questionFields + 9]*string {
	p, w := &s.found.Principal, &s.found.Workspace
	return [...]*string{
		&s.lookup.Session.ID, &s.lookup.Session.UserID, &s.lookup.Workspace.ID, &s.lookup.Workspace.Slug,
		&p.ID, &p.UserID, &p.SessionID, &p.GrantID, &w.ID, &w.Slug,
		(*string)(&p.Attributes), (*string)(&p.UserAttributes), (*string)(&w.Attributes),
	}
}

const questionFields = 4

// next takes the next field off a text.
func next(text *string) string {
	var size, shift uint
	for i := range len(*text) {
		b := (*text)[i]
		size |= uint(b&0x7f) << shift
		if b < 0x80 {
			field := (*text)[i+1 : i+1+int(size)] //nolint:gosec // as it was written
			*text = (*text)[i+1+len(field):]
			return field
		}
		shift += 7
	}
	panic("an entry's text ends early")
}

// fields is the text without the keys.
func (e *entry) fields() string { return e.text[keySize*int(e.keyCount):] }

const keySize = int(unsafe.Sizeof(Key(0)))

// outdated reports whether there was a change since to what the answer depends on.
func (e *entry) outdated(g *generations) bool {
	if g.epoch.Load() > e.since {
		return true
	}
	for i := range int(e.keyCount) {
		k := e.text[keySize*i : keySize*(i+1)]
		if g.shard(Key(k[0])<<24|Key(k[1])<<16|Key(k[2])<<8|Key(k[3])).Load() > e.since {
			return true
		}
	}
	return false
}

// answers reports whether the entry is for the question.
func (e *entry) answers(l authz.Lookup) bool {
	if e.digest != l.Digest || e.began != l.Session.Began || e.shared.lookup.Kind != l.Kind || e.shared.lookup.API != l.API {
		return false
	}
	text := e.fields()
	for _, asked := range [questionFields]string{l.Session.ID, l.Session.UserID, l.Workspace.ID, l.Workspace.Slug} {
		if next(&text) != asked {
			return false
		}
	}
	return true
}

// question is what the entry is for.
func (e *entry) question() authz.Lookup {
	s, text := *e.shared, e.fields()
	own := s.own()
	for _, field := range own[:questionFields] {
		*field = next(&text)
	}
	s.lookup.Digest, s.lookup.Session.Began = e.digest, e.began
	return s.lookup
}

// denied reports whether the entry is a denial, whatever the time is.
func (e *entry) denied() bool { return e.shared.found.Denial != "" }

// answer is what the entry says at the moment.
func (e *entry) answer(now time.Duration, from authz.CacheResult) authz.Found {
	s := shared{found: authz.Found{Denial: authz.ReasonExpired}}
	if e.denied() || now < e.expires {
		s.found = e.shared.found
		text := e.fields()
		for _, field := range s.own() {
			*field = next(&text)
		}
	}
	s.found.Cache = from
	return s.found
}

// overhead is what an entry takes beside its own fields: ristretto's two maps. Measured (TestCost), it is 110 to 190 bytes,
// depending on how full the maps are.
const overhead = 190

// cost is what the entry takes, in bytes.
func (e *entry) cost() int64 {
	n := int(unsafe.Sizeof(*e)) + overhead + rounded(len(e.text))
	if e.alone {
		n += int(unsafe.Sizeof(*e.shared)) + sharedRounding
		for _, scope := range e.shared.found.Principal.Scopes {
			n += int(unsafe.Sizeof(scope)) + rounded(len(scope))
		}
	}
	return int64(n)
}

const sharedRounding = 64

// rounded is what Go takes for a text: an eighth more at most, and 8 bytes at least.
func rounded(size int) int { return size + size/8 + 8 }

// sharing finds what an entry has in common with earlier ones. Only entries keep it: a place holds one more at most.
type sharing struct {
	seed   maphash.Seed
	places [1024]atomic.Pointer[shared]
}

// find tells whether this is the first of its kind, as far as is known.
func (h *sharing) find(s shared) (found *shared, first bool) {
	var hash maphash.Hash
	hash.SetSeed(h.seed)
	f := &s.found
	for _, text := range append([]string{
		string(s.lookup.Kind), s.lookup.API, string(f.Denial), string(f.Principal.Environment), f.Workspace.Role,
	}, f.Principal.Scopes...) {
		_, _ = hash.WriteString(text)
		_ = hash.WriteByte(0)
	}
	place := &h.places[hash.Sum64()%uint64(len(h.places))]
	if found := place.Load(); found != nil && reflect.DeepEqual(found, &s) {
		return found, false
	}
	place.Store(&s)
	return &s, true
}
