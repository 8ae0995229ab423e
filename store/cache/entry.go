package cache

import (
	"math"
	"slices"
	"time"
	"unsafe"

	"github.com/keywicket/keywicket/authz"
)

// entry is an answer, with all that tells whether it still holds.
type entry struct {
	lookup  authz.Lookup // the whole question: hashes collide
	found   authz.Found
	keys    []Key
	since   uint64        // number of the last change before it was loaded
	loaded  time.Duration // just before the query began
	expires time.Duration // of the token
}

const never = time.Duration(math.MaxInt64)

func newEntry(l authz.Lookup, a Answer, since uint64, loaded time.Duration) *entry {
	e := &entry{lookup: l, found: a.Found, keys: slices.Clip(a.Keys), since: since, loaded: loaded, expires: never}
	if a.Expires {
		// Counted from before the query, so from before the database's own clock was read: never too late.
		e.expires = loaded + a.TTL
	}
	// A denial has nothing to do with the workspace; nor has a credential that belongs to one.
	if a.Found.Denial != "" || a.Found.Principal.UserID == "" {
		e.lookup.Workspace = authz.WorkspaceRef{}
	}
	return e
}

// answers reports whether the entry is for the question.
func (e *entry) answers(l authz.Lookup) bool {
	return e.lookup == l
}

// answer is what the entry says at the moment.
func (e *entry) answer(now time.Duration, from authz.CacheResult) authz.Found {
	f := e.found
	if f.Denial == "" && now >= e.expires {
		f = authz.Found{Denial: authz.ReasonExpired}
	}
	f.Cache = from
	return f
}

// overhead is what an entry takes beside its own fields: ristretto's three maps, and the allocator's rounding of a
// dozen small strings. Measured (TestCost), it is 170 to 310 bytes, depending on how full the maps are.
const overhead = 320

// cost is what the entry takes, in bytes.
func (e *entry) cost() int64 {
	p, w := &e.found.Principal, &e.found.Workspace
	n := int(unsafe.Sizeof(*e)) + overhead + len(e.keys)*int(unsafe.Sizeof(Key(0))) +
		len(e.lookup.API) + len(e.lookup.Workspace.ID) + len(e.lookup.Workspace.Slug) +
		len(e.lookup.Session.ID) + len(e.lookup.Session.UserID) + len(p.GrantID) +
		len(p.ID) + len(p.Kind) + len(p.API) + len(p.Environment) + len(p.UserID) + len(w.ID) + len(w.Slug) + len(w.Role)
	// Go rounds the size of long texts up, by an eighth at most.
	n += (len(p.Attributes) + len(p.UserAttributes) + len(w.Attributes)) * 9 / 8
	for _, scope := range p.Scopes {
		n += int(unsafe.Sizeof(scope)) + len(scope)
	}
	return int64(n)
}
