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

// entry is an answer, with its question and with all that tells whether it still holds. A sidecar keeps 100,000 of them and more,
// so an entry is two small allocations: this struct and its text.
type entry struct {
	digest   authz.Digest
	began    int64 // of the session
	shared   *shared
	text     string        // the keys, then the fields of own
	keyCount uint32        // of the keys in text
	alone    bool          // no other entry has this shared
	ofUser   bool          // a good credential of a user
	since    uint64        // number of the last change before it was loaded
	loaded   time.Duration // just before the query began
	expires  time.Duration // of the token
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
	found := a.Found
	var text []byte
	for _, k := range a.Keys {
		text = binary.BigEndian.AppendUint32(text, uint32(k))
	}
	e.keyCount = uint32(len(a.Keys)) //nolint:gosec // a length
	for _, field := range own(&l, &found) {
		text = append(binary.AppendUvarint(text, uint64(len(*field))), *field...)
		*field = ""
	}
	e.text = string(text)
	l.Digest, l.Session.Began = authz.Digest{}, 0
	e.shared, e.alone = c.sharing.find(l, found)
	return e
}

// own are the fields that differ from entry to entry, and are in an entry's text. Those of the question come first.
func own(l *authz.Lookup, f *authz.Found) [questionFields + 9]*string {
	p, w := &f.Principal, &f.Workspace
	return [...]*string{
		&l.Session.ID, &l.Session.UserID, &l.Workspace.ID, &l.Workspace.Slug,
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
	l, text := e.shared.lookup, e.fields()
	fields := own(&l, new(authz.Found))
	for _, field := range fields[:questionFields] {
		*field = next(&text)
	}
	l.Digest, l.Session.Began = e.digest, e.began
	return l
}

// denied reports whether the entry is a denial, whatever the time is.
func (e *entry) denied() bool { return e.shared.found.Denial != "" }

// answer is what the entry says at the moment. Its strings are parts of the entry's text. Who keeps one for long has to clone it:
// attributes make a text large.
func (e *entry) answer(now time.Duration, from authz.CacheResult) authz.Found {
	f := authz.Found{Denial: authz.ReasonExpired}
	if e.denied() || now < e.expires {
		f = e.shared.found
		var question authz.Lookup
		text := e.fields()
		for _, field := range own(&question, &f) {
			*field = next(&text)
		}
	}
	f.Cache = from
	return f
}

// overhead is what an entry takes beside its own fields: ristretto's two maps. Measured (TestCost), it is 110 to 190 bytes,
// depending on how full the maps are.
const overhead = 190

// cost is what the entry takes, in bytes.
func (e *entry) cost() int64 {
	n := int(unsafe.Sizeof(*e)) + overhead + rounded(len(e.text))
	if e.alone {
		n += e.shared.size()
	}
	return int64(n)
}

// leave is called when a room has dropped the entry.
func (e *entry) leave() {
	if !e.alone {
		e.shared.users.Add(-1)
	}
}

// rounded is what Go takes for a text: an eighth more at most, and 8 bytes at least.
func rounded(size int) int { return size + size/8 + 8 }

// shared is what entries have in common: all fields that are not in their texts.
type shared struct {
	lookup authz.Lookup
	found  authz.Found
	users  atomic.Int32 // entries that have it; it is not counted for one that is alone
}

func (s *shared) size() int {
	const rounding = 64
	n := int(unsafe.Sizeof(*s)) + rounding
	for _, scope := range s.found.Principal.Scopes {
		n += int(unsafe.Sizeof(scope)) + rounded(len(scope))
	}
	return n
}

// sharing has one shared for all entries that are alike. No entry is charged for these, so there are at most 1,024 of them, of
// 2 KiB each. A place is given to another shared when no entry has the former one any more. Until then, other entries that
// belong in the place are alone.
type sharing struct {
	seed   maphash.Seed
	mu     sync.Mutex
	places [1024]*shared
}

// find returns what the entry shares. alone says that no other entry has it.
func (h *sharing) find(l authz.Lookup, f authz.Found) (s *shared, alone bool) {
	const most = 2 << 10
	var hash maphash.Hash
	hash.SetSeed(h.seed)
	for _, text := range append([]string{
		string(l.Kind), l.API, string(f.Denial), string(f.Principal.Environment), f.Workspace.Role,
	}, f.Principal.Scopes...) {
		_, _ = hash.WriteString(text)
		_ = hash.WriteByte(0)
	}
	s = &shared{lookup: l, found: f}
	h.mu.Lock()
	defer h.mu.Unlock()
	place := &h.places[hash.Sum64()%uint64(len(h.places))]
	switch there := *place; {
	case there != nil && there.lookup == l && reflect.DeepEqual(&there.found, &s.found):
		s = there
	case there != nil && there.users.Load() > 0, s.size() > most:
		return s, true
	default:
		*place = s
	}
	s.users.Add(1)
	return s, false
}
